"""Loads numbered events from a process of its own: `python -m tests.unit.sinks.warehouse.load CONNECTION FIRST LAST`,
CONNECTION the fields of an Airflow connection as JSON. It says "loading" once all is read and the load begins."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow_provider_cio.sinks.warehouse import database_for
from airflow_provider_cio.sinks.warehouse.loading import Warehouse
from airflow_provider_cio.sinks.warehouse.sink import WarehouseSink
from tests.unit.sinks.warehouse.events import NAMES, events


def opener(fields: dict[str, Any]) -> Callable[[], Any]:
    """As the hook's `get_conn`, without Airflow, which takes seconds to start."""
    if fields["conn_type"] == "duckdb":
        import duckdb

        return partial(duckdb.connect, fields["host"])
    if fields["conn_type"] == "redshift":
        import redshift_connector

        where = {"host": fields["host"], "port": fields["port"], "database": fields["schema"]}
        return partial(redshift_connector.connect, user=fields["login"], **where, **fields["extra"])
    import psycopg

    return partial(
        psycopg.connect, host=fields["host"], port=fields["port"], user=fields["login"], dbname=fields["schema"]
    )


def main(connection: str, first: str, last: str) -> None:
    fields = json.loads(connection)
    database = partial(database_for(fields["conn_type"]), SimpleNamespace(get_conn=opener(fields)))
    with WarehouseSink(Warehouse("the warehouse", database, "customerio"), NAMES) as sink:
        sink.take(events(int(first), int(last)))
        print("loading", flush=True)
        sink.flush()
    print(json.dumps(sink.counts()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
