"""Hook for connections of type `customerio`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError
from airflow_provider_cio.hooks.connection_fields import ConnectionFields
from airflow_provider_cio.hooks.form import connection_form_widgets, ui_field_behaviour
from airflow_provider_cio.values import kind_of

if TYPE_CHECKING:
    from airflow_provider_cio.customerio.client import CustomerIOClient
    from airflow_provider_cio.customerio.reader import Reader
    from airflow_provider_cio.customerio.rows import Activity, Delivery
    from airflow_provider_cio.events.occurrence import Malformed
    from airflow_provider_cio.http.transport import Retries

T = TypeVar("T")

#: Name of the signing key, and the place to find it, for texts: the App API never shows the key.
SIGNING_KEY = "the signing key (Customer.io: Reporting Webhooks > the menu of the webhook > Copy signing key)"


class CustomerIOSettings(NamedTuple):
    """Settings from a connection. `base_url` is the region's unless `host` replaces it; `timeout` is in seconds."""

    api_key: str
    base_url: str
    region: str
    requests_per_second: float
    timeout: float


class CustomerIOHook(BaseHook):
    """Hook for a Customer.io workspace, through its App API.

    In the connection, `password` is the App API key; `host` (with `port`) replaces the region's base URL; extra
    fields are `region` (``us``, ``eu``), `requests_per_second` (8; Customer.io allows 10 to a workspace, for all its
    clients together), `timeout` (60 seconds), and, to verify reporting webhooks, `webhook_signing_secret` and
    `webhook_signing_secret_previous`.

    :param customerio_conn_id: id of the connection, which is read once, at first use.
    """

    conn_name_attr = "customerio_conn_id"
    default_conn_name = "customerio_default"
    conn_type = "customerio"
    hook_name = "Customer.io"
    # Airflow 3.0 and 3.1 call these; later versions read the provider's metadata.
    get_connection_form_widgets = classmethod(connection_form_widgets)
    get_ui_field_behaviour = classmethod(ui_field_behaviour)

    def __init__(self, *, customerio_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.customerio_conn_id = customerio_conn_id

    @cached_property
    def _fields(self) -> ConnectionFields:
        return ConnectionFields.of(self, self.customerio_conn_id)

    @cached_property
    def settings(self) -> CustomerIOSettings:
        """Settings of the client.

        :raises ConfigurationError: a field is wrong. The message names connection, field and fix.
        """
        from airflow_provider_cio.customerio.client import REGIONS

        fields = self._fields
        region = fields.region(REGIONS)
        return CustomerIOSettings(
            api_key=fields.secret("an App API key (Account settings > API credentials > App API keys)"),
            base_url=fields.base_url(REGIONS[region]),
            region=region,
            requests_per_second=fields.number("requests_per_second", 8, unit="requests", least=0.1, most=1000),
            timeout=fields.number("timeout", 60, unit="seconds", least=0.1, most=600),
        )

    @property
    def has_api_key(self) -> bool:
        """True if the connection has an App API key. A stream runs without one.

        :raises ConfigurationError: there is no such connection, or its extra can't be read.
        """
        return self._fields.has_password

    @cached_property
    def webhook_signing_secrets(self) -> tuple[str, ...]:
        """Signing keys of reporting webhooks, the current one first; empty if none is set.

        :raises ConfigurationError: a field is wrong. The message names connection, field and fix.
        """
        found = (
            self._fields.extra_secret("webhook_signing_secret", SIGNING_KEY),
            self._fields.extra_secret("webhook_signing_secret_previous", SIGNING_KEY),
        )
        return tuple(secret for secret in found if secret)

    def get_conn(self, *, retries: Retries | None = None) -> CustomerIOClient:
        """Return a new client, which the caller has to close.

        :param retries: limits in place of the default, which retries for ten minutes.
        """
        from airflow_provider_cio.customerio.client import CustomerIOClient

        return CustomerIOClient(
            **self.settings._asdict(),
            name=f"Customer.io (connection {self.customerio_conn_id!r})",
            retries=retries,
        )

    def deliveries(
        self,
        start: datetime | str,
        end: datetime | str,
        channel: str = "email",
        *,
        drafts: bool = False,
        on_malformed: Callable[[Malformed], None] | None = None,
    ) -> Generator[Delivery]:
        """Iterate over the deliveries that were created in ``[start, end)``, in no order.

        Their `metrics` have the times of everything that happened to them until now. Pages are read in parallel, as
        fast as the connection's rate allows, and none stays in memory. To stop early, call `close()` on the iterator.

        :param start: a datetime or ISO 8601 text, in UTC unless it says otherwise; `end` too.
        :param channel: ``email``, ``push``, ``sms``, ``in_app``, ``whatsapp``, ``slack`` or ``webhook``.
        :param drafts: read drafts, which were never sent, in place of sent messages.
        :param on_malformed: called with each row of another shape than documented.
        :raises ConfigurationError: at once if a parameter is wrong; during the iteration if the connection is wrong.
        :raises TryAgainLaterError: Customer.io was out of reach for ten minutes.
        :raises UnexpectedDataError: without `on_malformed`, after the last row, if rows were malformed.
        """
        from airflow_provider_cio.customerio import listing
        from airflow_provider_cio.customerio.windows import created_between
        from airflow_provider_cio.events.catalog import CHANNELS
        from airflow_provider_cio.events.interval import interval_between

        kind = CHANNELS.get(channel, channel)
        if kind not in CHANNELS.values():
            raise ConfigurationError(f"channel must be one of {', '.join(CHANNELS)}, got {channel!r}")
        windows = created_between(interval_between(start, end), kind, drafts=drafts)

        def read(reader: Reader) -> Iterator[Delivery]:
            return listing.well_shaped(listing.deliveries(reader, windows, self.log.warning), on_malformed)

        return self._rows(read)

    def activities(
        self,
        start: datetime | str,
        end: datetime | str,
        types: Sequence[str] = ("opened_email", "clicked_email"),
        *,
        on_malformed: Callable[[Malformed], None] | None = None,
    ) -> Generator[Activity]:
        """Iterate over the activities of ``[start, end)``, each type about newest first.

        All activities since `end` are read too, because Customer.io can't select them by time. It guarantees 30 days.

        :param types: Customer.io's names, such as ``delivered_email``, ``clicked_push``, ``event``.

        The other parameters and the errors are those of `deliveries`.
        """
        from airflow_provider_cio.customerio import listing
        from airflow_provider_cio.events.interval import interval_between

        interval = interval_between(start, end)
        if isinstance(types, str) or not types:
            raise ConfigurationError(f"types must be a list of names, such as ['opened_email'], got {kind_of(types)}")
        names = list(dict.fromkeys(types))
        return self._rows(lambda reader: listing.well_shaped(listing.activities(reader, names, interval), on_malformed))

    def _rows(self, read: Callable[[Reader], Iterator[T]]) -> Generator[T]:
        """Read with a client of its own, so that any number of iterators may be open."""
        from airflow_provider_cio.customerio.reader import Reader
        from airflow_provider_cio.pipeline.ticker import logging_waits

        with Reader(self.get_conn()) as reader, logging_waits(self.log.info, reader.waiting):
            yield from read(reader)

    def ensure_reporting_webhook(
        self, name: str, url: str, collections: str | Iterable[str], full_resolution: bool = False
    ) -> dict[str, Any]:
        """Subscribe a stream to these collections: create its reporting webhook, or correct the existing one.

        A new webhook is disabled, because its signing key has to be copied by hand first: the App API never shows the
        key. Once the connection has the key, another call enables the webhook. No call disables a webhook, because
        Customer.io does not document whether it keeps the reports of that time.

        :param name: name of the webhook. A webhook with this name or this URL is the existing one.
        :param url: URL of the stream for Customer.io: ``https://airflow.example.com/cio/<stream>``.
        :param collections: names or groups, the same as in the stream's options.
        :param full_resolution: report each open and click, not only the first; the same as in the stream's options.
        :returns: ``id``, ``enabled``, ``changed`` (sentences) and ``next_step`` (a sentence, or empty).
        :raises ConfigurationError: a parameter is wrong, several webhooks have this name or URL, or the key of the
            connection may not change webhooks.
        """
        from airflow_provider_cio.customerio.webhooks import differences, find_webhook, wanted_webhook
        from airflow_provider_cio.pipeline.ticker import logging_waits

        wanted = wanted_webhook(name, url, collections, full_resolution)
        has_key = bool(self.webhook_signing_secrets)
        with self.get_conn() as client, logging_waits(self.log.info, client.waiting):
            found = find_webhook(client.reporting_webhooks(), wanted)
            if found is None:
                wanted.disabled = True
                changed = ["it is new, and disabled"]
            else:
                wanted.id, wanted.with_content = found.id, found.with_content
                wanted.disabled = found.disabled and not has_key
                changed = differences(found, wanted)
                if found.disabled and has_key:
                    changed.append("it was disabled")
            saved = client.save_reporting_webhook(wanted) if changed else wanted
        next_step = self._next_step(name, has_key, enabled=not wanted.disabled)
        for line in (*changed, next_step):
            if line:
                self.log.info("Reporting webhook %r: %s", name, line)
        return {"id": saved.id, "enabled": not wanted.disabled, "changed": changed, "next_step": next_step}

    def reporting_webhook_drift(
        self, name: str, url: str, collections: str | Iterable[str], full_resolution: bool = False
    ) -> list[str]:
        """Return the changes that `ensure_reporting_webhook` would make, in sentences. Change nothing.

        The parameters and the errors are those of `ensure_reporting_webhook`.

        :returns: empty if all reports can arrive.
        """
        from airflow_provider_cio.customerio.webhooks import differences, find_webhook, wanted_webhook
        from airflow_provider_cio.pipeline.ticker import logging_waits

        wanted = wanted_webhook(name, url, collections, full_resolution)
        with self.get_conn() as client, logging_waits(self.log.info, client.waiting):
            found = find_webhook(client.reporting_webhooks(), wanted)
        drift = ["there is no such webhook"] if found is None else differences(found, wanted)
        if found is not None and found.disabled:
            drift.append("it is disabled")
        if not self.webhook_signing_secrets:
            drift.append(f"connection {self.customerio_conn_id!r} has no webhook_signing_secret")
        return drift

    def _next_step(self, name: str, has_key: bool, *, enabled: bool) -> str:
        """Return the step that is left to do by hand, or empty text."""
        copy = f"copy {SIGNING_KEY} into webhook_signing_secret of connection {self.customerio_conn_id!r}"
        if has_key:
            return "" if enabled else f"call this again if the connection has its signing key, else {copy} before"
        if enabled:
            return f"{copy}: it is enabled, and without the key every report has to be sent again later"
        return f"{copy}, then call this again: it enables the webhook"

    def test_connection(self) -> tuple[bool, str]:
        """Request one e-mail delivery, which every use needs, then the lists that only some uses need."""
        from airflow_provider_cio.http.transport import Retries

        try:
            with self.get_conn(retries=Retries(attempts=1)) as client:
                client.page({"type": "email", "limit": 1})
                limits = self._limits_of_the_key(client)
        except CustomerIOToSegmentError as error:
            return False, str(error)
        except Exception as error:
            return False, f"Connection {self.customerio_conn_id!r} can't be tested: {type(error).__name__}"
        answer = " ".join([f"{self.settings.base_url} accepts the key, and the key may read messages.", *limits])
        self.log.info("%s", answer)  # `airflow connections test` shows the log only
        return True, answer

    def _limits_of_the_key(self, client: CustomerIOClient) -> list[str]:
        """Return a sentence for each feature that lacks a list, because the key may not read it."""
        from airflow_provider_cio.customerio.names import NAME_LISTS

        lists = {path: "campaign_name" for path, _ in NAME_LISTS.values()}
        refused: dict[str, list[str]] = {}
        for path, needed_for in ({"/v1/activities": 'opens_and_clicks="every"'} | lists).items():
            try:
                client.check_access(path)
            except ConfigurationError:
                refused.setdefault(needed_for, []).append(path)
            except CustomerIOToSegmentError as error:  # more requests would only keep the user waiting
                return [*_sentences(refused), f"Could not check the other permissions: {error}"]
        return _sentences(refused)


def _sentences(refused: dict[str, list[str]]) -> list[str]:
    return [f"It may not read {', '.join(paths)}, which {needed_for} needs." for needed_for, paths in refused.items()]
