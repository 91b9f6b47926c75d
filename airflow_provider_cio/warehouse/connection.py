"""Open a warehouse, or name its database, from an Airflow connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.signals import uninterrupted
from airflow_provider_cio.values import HOLDS_A_MASK, is_mask

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_cio.warehouse.loading import Warehouse


class DatabaseAddress(NamedTuple):
    """The address of a database, without user and password. Unset fields are empty, or None."""

    conn_type: str
    host: str
    port: int | None
    database: str


def database_address(conn_id: str) -> DatabaseAddress:
    """Return the address in an Airflow connection, without connecting.

    :raises ConfigurationError: the connection does not exist, or its type is not supported.
    """
    from airflow_provider_cio.warehouse import database_for

    connection = _connection(conn_id)
    conn_type = str(connection.conn_type)
    database = database_for(conn_type)
    return DatabaseAddress(conn_type, database.host(connection), connection.port, database.database_name(connection))


def open_warehouse(conn_id: str, schema: str) -> Warehouse:
    """Return the warehouse behind an Airflow connection, without connecting.

    :raises ConfigurationError: the connection does not exist, its type is not supported, or its Airflow provider is not
        installed. The text names the connection and the fix.
    """
    from airflow_provider_cio.warehouse import database_for
    from airflow_provider_cio.warehouse.loading import Warehouse

    connection = _connection(conn_id)
    database = database_for(str(connection.conn_type))
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
    except (AirflowException, ImportError) as error:
        raise ConfigurationError(
            f"Connection {conn_id!r}: Airflow's provider for {database.name} is not installed: "
            f"pip install {database.package}."
        ) from error
    hook.get_connection = uninterrupted()(hook.get_connection)  # it reads again while it can be killed
    return Warehouse(f"{database.name} (connection {conn_id!r})", partial(database, hook), schema)


def _connection(conn_id: str) -> Connection:
    from airflow_provider_cio.warehouse import DATABASES

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(
            f"There is no connection {conn_id!r}. Add one of type {', '.join(DATABASES)}, or set warehouse_conn_id to "
            "the id of another."
        ) from None
    if connection.conn_type not in DATABASES:
        raise ConfigurationError(
            f"Connection {conn_id!r} is of type {connection.conn_type}: warehouse_conn_id needs one of "
            f"{', '.join(DATABASES)}."
        )
    _check_masks(connection)
    return connection


def _check_masks(connection: Connection) -> None:
    """Check that no field holds a text that Airflow showed in place of a secret."""
    extra: Any = connection.extra_dejson  # whatever JSON it is
    fields = {"password": connection.password, **(extra if isinstance(extra, dict) else {})}
    for name in _masked("", fields):
        raise ConfigurationError(f"Connection {connection.conn_id!r}: {name} {HOLDS_A_MASK}.")


def _masked(name: str, value: object) -> Iterator[str]:
    """Yield the names of the fields that are masks, such as ``keyfile_dict.private_key``, in JSON as text, too."""
    if is_mask(value):
        yield name
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _masked(f"{name}.{key}" if name else key, inner)
