"""Hook for connections of type `segment_source`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_cio.exceptions import CustomerIOToSegmentError, EventsRefusedError
from airflow_provider_cio.hooks.connection_fields import ConnectionFields
from airflow_provider_cio.hooks.form import connection_form_widgets, ui_field_behaviour

if TYPE_CHECKING:
    from airflow_provider_cio.http.transport import Retries
    from airflow_provider_cio.segment.client import SegmentClient


class SegmentSettings(NamedTuple):
    """Settings from a connection. `base_url` is the region's unless `host` replaces it; `timeout` is in seconds."""

    write_key: str
    base_url: str
    path: str
    compress: bool
    events_per_second: float
    timeout: float


class SegmentHook(BaseHook):
    """Hook for a Segment source, or a receiver with the same API.

    In the connection, `password` is the write key (extra `write_key` is read as a fallback); `host` (with `port`)
    replaces the region's base URL; extra fields are `region` (``us``, ``eu``), `path` (``/v1/batch``), `gzip`
    (false), `events_per_second` (1000; 0 is no limit), `timeout` (60 seconds) and `message_id_namespace`.

    :param segment_conn_id: id of the connection, which is read once, at first use.
    """

    conn_name_attr = "segment_conn_id"
    default_conn_name = "segment_default"
    conn_type = "segment_source"
    hook_name = "Segment source"
    # Airflow 3.0 and 3.1 call these; later versions read the provider's metadata.
    get_connection_form_widgets = classmethod(connection_form_widgets)
    get_ui_field_behaviour = classmethod(ui_field_behaviour)

    def __init__(self, *, segment_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.segment_conn_id = segment_conn_id

    @cached_property
    def _fields(self) -> ConnectionFields:
        return ConnectionFields.of(self, self.segment_conn_id)

    @cached_property
    def settings(self) -> SegmentSettings:
        """Settings of the client.

        :raises ConfigurationError: a field is wrong. The message names connection, field and fix.
        """
        from airflow_provider_cio.segment.client import DEFAULT_PATH, REGIONS

        fields = self._fields
        write_key = fields.secret("the write key of the source (its Overview page shows it)", fallback="write_key")
        path = fields.text("path", DEFAULT_PATH)
        if not path.startswith("/"):
            raise fields.error("path", f"must start with a slash, such as {DEFAULT_PATH!r}")
        return SegmentSettings(
            write_key=write_key,
            base_url=fields.base_url(REGIONS[fields.region(REGIONS)]),
            path=path,
            compress=fields.flag("gzip"),
            events_per_second=fields.number(
                "events_per_second", 1000, unit="events", least=0.1, most=100_000, zero="no limit"
            ),
            timeout=fields.number("timeout", 60, unit="seconds", least=0.1, most=600),
        )

    @cached_property
    def message_id_namespace(self) -> str:
        """Namespace of `messageId`: the extra field, else a hash of the write key. Then a new key makes new ids."""
        derived = hashlib.sha256(f"airflow-provider-cio:{self.settings.write_key}".encode()).hexdigest()
        return self._fields.text("message_id_namespace", derived)

    def get_conn(self, *, retries: Retries | None = None) -> SegmentClient:
        """Return a new client, which the caller has to close.

        :param retries: limits in place of the default, which retries for ten minutes.
        """
        from airflow_provider_cio.segment.client import SegmentClient

        return SegmentClient(
            **self.settings._asdict(), name=f"Segment (connection {self.segment_conn_id!r})", retries=retries
        )

    def track(self, events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """Send `track` calls as they are, in batches, with retries: ``hook.track(events_in("s3://..."))``.

        Each needs `event`, `messageId` and `userId` or `anonymousId`; `type` is added. For about a day the same calls
        can be sent again, because Segment drops a repeated `messageId`.

        :returns: numbers of ``events``, ``batches`` and ``bytes``.
        :raises ConfigurationError: a call lacks a field; the message names its position. Some earlier calls may have
            been sent, and all can be sent again.
        :raises EventsRefusedError: Segment refused some calls. All others were sent; the message names reasons and ids.
        """
        from airflow_provider_cio.pipeline.ticker import logging_waits
        from airflow_provider_cio.segment.calls import send_calls

        with self.get_conn() as client, logging_waits(self.log.info, client.waiting):
            return send_calls(client, events)

    def test_connection(self) -> tuple[bool, str]:
        """Check network, host and path with an empty batch, which makes no event.

        The write key is not checked, because Segment's Tracking API answers 200 to unknown keys, and the one address
        that may know them has the key in its URL. Receivers such as RudderStack do check it.
        """
        from airflow_provider_cio.http.transport import Retries

        try:
            with self.get_conn(retries=Retries(attempts=1)) as client:
                client.send([])
        except EventsRefusedError as error:  # the receiver has read the batch, and may only refuse it for being empty
            answer = f"refused an empty batch ({error})"
        except CustomerIOToSegmentError as error:
            return False, str(error)
        except Exception as error:
            return False, f"Connection {self.segment_conn_id!r} can't be tested: {type(error).__name__}"
        else:
            answer = "took an empty batch"
        answer = (
            f"{self.settings.base_url}{self.settings.path} {answer}. Not checked: whether the write key is known. "
            "Segment does not tell; look for the first events in the source's debugger."
        )
        self.log.info("%s", answer)  # `airflow connections test` shows the log only
        return True, answer
