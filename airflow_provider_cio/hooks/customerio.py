"""Connection type `customerio` -> `CustomerIOClient`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import BaseHook

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError
from airflow_provider_cio.hooks.settings import ConnectionFields

if TYPE_CHECKING:
    from airflow_provider_cio.clients.customerio import CustomerIOClient
    from airflow_provider_cio.clients.transport import Retries


#: What it is and where it is found: the App API never shows it.
SIGNING_KEY = "the signing key (Customer.io: Reporting Webhooks > the menu of the webhook > Copy signing key)"


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
    fields are `region` (``us``, ``eu``), `requests_per_second` (8; Customer.io allows 10 to a
    workspace, all its clients together), `timeout` (60 seconds), and, to check reporting webhooks,
    `webhook_signing_secret` and `webhook_signing_secret_previous`.

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
    def _fields(self) -> ConnectionFields:
        return ConnectionFields(self.get_connection(self.customerio_conn_id))

    @cached_property
    def settings(self) -> CustomerIOSettings:
        """:raises ConfigurationError: naming the connection, the field and the fix."""
        from airflow_provider_cio.clients.customerio import REGIONS

        fields = self._fields
        region = fields.region(REGIONS)
        return CustomerIOSettings(
            api_key=fields.secret("an App API key (Account settings > API credentials > App API keys)"),
            base_url=fields.base_url(REGIONS[region]),
            region=region,
            requests_per_second=fields.number("requests_per_second", 8, unit="requests"),
            timeout=fields.number("timeout", 60, unit="seconds"),
        )

    @cached_property
    def webhook_signing_secrets(self) -> tuple[str, ...]:
        """The keys that a reporting webhook's signature may be made with, the current one first; empty if none is set.

        :raises ConfigurationError: naming the connection, the field and the fix.
        """
        found = (
            self._fields.extra_secret("webhook_signing_secret", SIGNING_KEY),
            self._fields.extra_secret("webhook_signing_secret_previous", SIGNING_KEY),
        )
        return tuple(secret for secret in found if secret)

    def get_conn(self, *, retries: Retries | None = None) -> CustomerIOClient:
        """A new client, which the caller closes.

        :param retries: other than for ten minutes.
        """
        from airflow_provider_cio.clients.customerio import CustomerIOClient

        return CustomerIOClient(
            **self.settings._asdict(),
            name=f"Customer.io (connection {self.customerio_conn_id!r})",
            retries=retries,
        )

    def test_connection(self) -> tuple[bool, str]:
        """Ask for one e-mail delivery, which every use needs; then for the lists that only some uses need."""
        from airflow_provider_cio.clients.transport import Retries

        try:
            with self.get_conn(retries=Retries(attempts=1)) as client:
                client.page({"type": "email", "limit": 1})
                limits = self._limits_of_the_key(client)
        except CustomerIOToSegmentError as error:
            return False, str(error)
        except Exception as error:
            return False, f"Connection {self.customerio_conn_id!r} can't be tested: {type(error).__name__}"
        return True, " ".join([f"{self.settings.base_url} accepts the key, and the key may read messages.", *limits])

    def _limits_of_the_key(self, client: CustomerIOClient) -> list[str]:
        """A sentence for what will not work since the key may not read a list."""
        from airflow_provider_cio.clients.customerio import NAME_LISTS

        lists = {path: "campaign_name" for path, _ in NAME_LISTS.values()}
        refused: dict[str, list[str]] = {}
        for path, needed_for in ({"/v1/activities": 'opens_and_clicks="every"'} | lists).items():
            try:
                client.check_access(path)
            except ConfigurationError:
                refused.setdefault(needed_for, []).append(path)
            except CustomerIOToSegmentError as error:  # the next requests would only keep the user waiting
                return [*_sentences(refused), f"It was not found out what else it may read: {error}"]
        return _sentences(refused)


def _sentences(refused: dict[str, list[str]]) -> list[str]:
    return [f"It may not read {', '.join(paths)}, which {needed_for} needs." for needed_for, paths in refused.items()]
