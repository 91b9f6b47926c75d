"""Connection type `segment_source` -> `SegmentClient`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_cio.exceptions import CustomerIOToSegmentError, EventsRefusedError
from airflow_provider_cio.hooks.connection import ConnectionFields

if TYPE_CHECKING:
    from airflow_provider_cio.http.transport import Retries
    from airflow_provider_cio.segment.client import SegmentClient


class SegmentSettings(NamedTuple):
    """`timeout` in seconds. `base_url` is the region's, or what `host` puts in its place."""

    write_key: str
    base_url: str
    path: str
    compress: bool
    events_per_second: float
    timeout: float


class SegmentHook(BaseHook):
    """Sends to a Segment source through the Tracking API, or to a receiver of the same shape.

    The connection: `password` is the write key (extra `write_key` is read as a fallback); `host` (with `port`)
    replaces the region's base URL; extra fields are `region` (``us``, ``eu``), `path` (``/v1/batch``), `gzip`
    (false), `events_per_second` (1000; 0 is no limit), `timeout` (60 seconds) and `message_id_namespace`.

    :param segment_conn_id: read once, at first use.
    """

    conn_name_attr = "segment_conn_id"
    default_conn_name = "segment_default"
    conn_type = "segment_source"
    hook_name = "Segment source"

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """For Airflow 3.0 and 3.1; later ones read `get_provider_info`."""
        from airflow_provider_cio.hooks.form import widgets

        return widgets(cls.conn_type)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """For Airflow 3.0 and 3.1; later ones read `get_provider_info`."""
        from airflow_provider_cio.hooks.form import field_behaviour

        return field_behaviour(cls.conn_type)

    def __init__(self, *, segment_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.segment_conn_id = segment_conn_id

    @cached_property
    def _fields(self) -> ConnectionFields:
        return ConnectionFields(self.get_connection(self.segment_conn_id))

    @cached_property
    def settings(self) -> SegmentSettings:
        """:raises ConfigurationError: naming the connection, the field and the fix."""
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
            events_per_second=fields.number("events_per_second", 1000, unit="events", zero="no limit"),
            timeout=fields.number("timeout", 60, unit="seconds"),
        )

    @cached_property
    def message_id_namespace(self) -> str:
        """The extra field of that name, else derived from the write key: a new key then means new `messageId`s."""
        derived = hashlib.sha256(f"airflow-provider-cio:{self.settings.write_key}".encode()).hexdigest()
        return self._fields.text("message_id_namespace", derived)

    def get_conn(self, *, retries: Retries | None = None) -> SegmentClient:
        """A new client, which the caller closes.

        :param retries: other than for ten minutes.
        """
        from airflow_provider_cio.segment.client import SegmentClient

        return SegmentClient(
            **self.settings._asdict(), name=f"Segment (connection {self.segment_conn_id!r})", retries=retries
        )

    def track(self, events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """Send `track` calls as they are, in batches, with retries: ``hook.track(events_in("s3://..."))``.

        Each needs `event`, `messageId` and `userId` or `anonymousId`; `type` is added. A repeated `messageId` is
        dropped by Segment, so sending again does no harm for about a day.

        :returns: how many ``events``, in how many ``batches``, and ``bytes``.
        :raises ConfigurationError: an event lacks what it needs; the message names its position. Some of
            the earlier ones may be sent, and all can be given again.
        :raises EventsRefusedError: Segment refused events, all others were sent; the message names reasons and ids.
        """
        from airflow_provider_cio.segment.calls import send_calls

        with self.get_conn() as client:
            return send_calls(client, events)

    def test_connection(self) -> tuple[bool, str]:
        """Post an empty batch, which creates no event: proves network, host, path, and that a key is there.

        Segment's Tracking API does not check write keys (it answers 200 to unknown ones), and the one
        address that may know them has the key in its URL. Receivers such as RudderStack do check.
        """
        from airflow_provider_cio.http.transport import Retries

        try:
            with self.get_conn(retries=Retries(attempts=1)) as client:
                client.send([])
        except EventsRefusedError as error:  # "the batch is empty": the receiver was reached and has read it
            answer = f"answered to an empty batch, which it does not take ({error})"
        except CustomerIOToSegmentError as error:
            return False, str(error)
        except Exception as error:
            return False, f"Connection {self.segment_conn_id!r} can't be tested: {type(error).__name__}"
        else:
            answer = "took an empty batch"
        return True, (
            f"{self.settings.base_url}{self.settings.path} {answer}. Not checked: whether the write key is known. "
            "Segment does not tell; look for the first events in the source's debugger."
        )
