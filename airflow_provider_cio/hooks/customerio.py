"""Connection type `customerio` -> `CustomerIOClient`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import BaseHook

from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.hooks.settings import Settings

if TYPE_CHECKING:
    from airflow_provider_cio.clients.customerio import CustomerIOClient
    from airflow_provider_cio.clients.transport import Retries


class CustomerIOSettings(NamedTuple):
    """`timeout` in seconds. `base_url` is the region's, or what `host` puts in its place."""

    api_key: str
    base_url: str
    region: str
    requests_per_second: float
    timeout: float


class CustomerIOHook(BaseHook):
    """Reads a Customer.io workspace through its App API.

    The connection: `password` is the App API key; `host` (with `port`) replaces the region's base URL; extra
    fields are `region` (``us``, ``eu``), `requests_per_second` (10) and `timeout` (60 seconds).

    :param customerio_conn_id: read once, at first use.
    """

    conn_name_attr = "customerio_conn_id"
    default_conn_name = "customerio_default"
    conn_type = "customerio"
    hook_name = "Customer.io"

    def __init__(self, *, customerio_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.customerio_conn_id = customerio_conn_id

    @cached_property
    def settings(self) -> CustomerIOSettings:
        """:raises ConfigurationError: naming the connection, the field and the fix."""
        from airflow_provider_cio.clients.customerio import REGIONS

        fields = Settings(self.get_connection(self.customerio_conn_id))
        region = fields.region(REGIONS)
        return CustomerIOSettings(
            api_key=fields.secret("an App API key (Account settings > API credentials > App API keys)"),
            base_url=fields.base_url(REGIONS[region]),
            region=region,
            requests_per_second=fields.number("requests_per_second", 10, unit="requests"),
            timeout=fields.number("timeout", 60, unit="seconds"),
        )

    @cached_property
    def client(self) -> CustomerIOClient:
        """The caller closes it."""
        return self.make_client()

    def make_client(self, retries: Retries | None = None) -> CustomerIOClient:
        """A new client with the connection's settings."""
        from airflow_provider_cio.clients.customerio import CustomerIOClient

        return CustomerIOClient(
            **self.settings._asdict(),
            name=f"Customer.io (connection {self.customerio_conn_id!r})",
            retries=retries,
        )

    def get_conn(self) -> CustomerIOClient:
        return self.client

    def test_connection(self) -> tuple[bool, str]:
        """Ask for one e-mail delivery: just what the operator needs of the key."""
        from airflow_provider_cio.clients.transport import Retries

        try:
            with self.make_client(Retries(attempts=1)) as client:
                client.page({"type": "email", "limit": 1})
        except CustomerIOToSegmentError as error:
            return False, str(error)
        except Exception as error:
            return False, f"Connection {self.customerio_conn_id!r} can't be tested: {type(error).__name__}"
        return True, f"{self.settings.base_url} accepts the key, and the key may read messages."
