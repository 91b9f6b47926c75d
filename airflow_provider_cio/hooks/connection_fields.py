"""Read and check the fields of a connection for both hooks. Errors name the connection, the field and the fix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.values import HOLDS_A_MASK, flag_in, is_mask, kind_of, number_in, shown

try:
    from airflow.sdk.log import mask_secret
except ImportError:  # Airflow 3.0.0; common-compat 1.12 has no mask_secret
    from airflow.sdk.execution_time.secrets_masker import mask_secret  # type: ignore[no-redef]

if TYPE_CHECKING:
    from airflow.sdk import Connection

T = TypeVar("T")


class ConnectionFields:
    """Fields of one connection. Errors show only the kind of a value, except the region's."""

    @classmethod
    def of(cls, hook: Any, conn_id: str) -> Self:
        """Read a connection of a hook.

        :param hook: one of the provider's hooks, or its class.
        :raises ConfigurationError: there is none. The message names the parameter that has the id.
        """
        try:
            return cls(hook.get_connection(conn_id))
        except AirflowNotFoundException:
            raise ConfigurationError(
                f"There is no connection {conn_id!r}. Add one of type {hook.conn_type}, or set {hook.conn_name_attr} "
                "to the id of another."
            ) from None

    def __init__(self, connection: Connection) -> None:
        self.conn_id = str(connection.conn_id)
        self._connection = connection
        try:  # Connection.extra_dejson reads malformed JSON as an empty object, which hides the region
            extra = json.loads(connection.extra) if connection.extra else {}
        except ValueError:
            raise self.error("extra", "must be a JSON object, got text that is not JSON") from None
        if not isinstance(extra, Mapping):
            raise self.error("extra", f"must be a JSON object, got {kind_of(extra)}")
        self._extra: Mapping[str, Any] = extra

    def error(self, name: str, problem: str) -> ConfigurationError:
        """Return an error about the field `name`."""
        return ConfigurationError(f"Connection {self.conn_id!r}: {name} {problem}.")

    @property
    def has_password(self) -> bool:
        return bool((self._connection.password or "").strip())

    def secret(self, needed: str, fallback: str | None = None) -> str:
        """Return the password, stripped, else the extra field named `fallback`.

        :param needed: name of the secret, and the place to find it, for the error.
        """
        name, value = "password", self._unmasked("password", self._connection.password or "").strip()
        if not value and fallback and (value := self.text(fallback, "")):
            name = fallback
        if not value:
            raise self.error("password", f"is empty. Put {needed} there")
        return self._masked(name, value, needed)

    def extra_secret(self, name: str, needed: str) -> str | None:
        """Return an extra field, stripped; None if it is empty.

        :param needed: as for `secret`.
        """
        value = self.text(name, "")
        return self._masked(name, value, needed) if value else None

    def _given(self, name: str) -> Any:
        """Return an extra field as it is; None if it is empty."""
        value = self._unmasked(name, self._extra.get(name))
        return None if value == "" else value

    def _unmasked(self, name: str, value: T) -> T:
        """Return the value, unless Airflow showed it in place of the real one, and somebody saved it again."""
        if is_mask(value):
            raise self.error(name, HOLDS_A_MASK)
        return value

    def _masked(self, name: str, value: str, needed: str) -> str:
        """Check a secret, and have Airflow mask it in logs."""
        if not (value.isascii() and value.isprintable() and " " not in value):
            raise self.error(name, f"must be one word of plain ASCII, got other characters. Put {needed} there")
        # Airflow masks the password only with its blanks, and does not mask such an extra field.
        mask_secret(value)
        return value

    def region(self, known: Mapping[str, str]) -> str:
        """Return the region: one of the keys of `known`, the first by default."""
        value = self._given("region")
        if value is None:
            return next(iter(known))
        name = value.strip().lower() if isinstance(value, str) else ""
        if name not in known:
            choice = " or ".join(map(repr, known))
            raise self.error("region", f"must be {choice}, got {shown(value)}")
        return name

    def base_url(self, regional: str) -> str:
        """Return the URL of `host` and `port`, https unless it names a scheme; the regional URL if `host` is empty."""
        host = self._unmasked("host", self._connection.host or "").strip()
        if not host:
            return regional
        try:
            url = urlsplit(host if "://" in host else f"https://{host}")
            port = url.port
        except ValueError:
            raise self.error("host", "must be a base URL such as 'https://example.com', got a malformed one") from None
        has_host = url.scheme in ("http", "https") and url.hostname and not url.netloc.endswith(":")
        if not has_host or url.query or url.fragment or "@" in url.netloc or any(map(str.isspace, host)):
            raise self.error(
                "host",
                "must be a base URL such as 'https://example.com:8443', with neither login nor query in it",
            )
        netloc = url.netloc if port or not self._connection.port else f"{url.netloc}:{self._connection.port}"
        return f"{url.scheme}://{netloc}{url.path.rstrip('/')}"

    def number(
        self, name: str, default: float, *, unit: str, least: float, most: float, zero: str | None = None
    ) -> float:
        """Return a number from `least` to `most`, also from text. 0 is allowed if `zero` explains it."""
        value = self._given(name)
        if value is None:
            return default
        problem = f"must be a number of {unit} from {least:g} to {most:g}{f' (0: {zero})' if zero else ''}"
        number = number_in(value)
        if number is None:
            raise self.error(name, f"{problem}, got {kind_of(value)}")
        if not (least <= number <= most or (number == 0 and zero is not None)):
            raise self.error(name, f"{problem}, got a number outside that range")
        return number

    def flag(self, name: str) -> bool:
        """Return true or false, also from text; False if the field is empty."""
        value = self._given(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return False
        flag = flag_in(value)
        if flag is None:
            raise self.error(name, f"must be true or false, got {kind_of(value)}")
        return flag

    def text(self, name: str, default: str) -> str:
        """Return the text, stripped; the default if it is empty."""
        value = self._given(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, f"must be text, got {kind_of(value)}")
        return value.strip() or default
