"""Segment's HTTP Tracking API: events are encoded once, packed into batches, posted."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Self

import msgspec
from requests.auth import HTTPBasicAuth

from airflow_provider_cio.clients.transport import Answer, RateLimiter, Retries, StatusError, Transport, UnreadableBody
from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError

REGIONS = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
DEFAULT_PATH = "/v1/batch"

# Limits of the Tracking API (500 KB a batch, 32 KB an event, both uncompressed; 2,500 events; ids of 100 characters).
MAX_BATCH_BYTES = 475_000  # as Segment's own clients have it: whether its KB has 1,000 or 1,024 bytes is unclear
MAX_BATCH_EVENTS = 2_500
MAX_EVENT_BYTES = 32 * 1024
MAX_MESSAGE_ID = 100


class Event(msgspec.Struct, tag="track", tag_field="type", rename="camel", omit_defaults=True, gc=False):
    """A `track` call as it goes over the wire. `properties`, `context` and `integrations` are JSON objects."""

    event: str
    message_id: str
    timestamp: datetime
    properties: msgspec.Struct
    context: msgspec.Struct
    user_id: str | None = None
    anonymous_id: str | None = None
    integrations: msgspec.Raw | None = None


encode = msgspec.json.Encoder().encode


def breach(event: Event, encoded: bytes) -> str | None:
    """The rule of the Tracking API that the event breaks, by name, or None.

    Segment answers 200 to most such events and drops them, so this is the only place where it shows.
    """
    user_id, anonymous_id = event.user_id, event.anonymous_id
    if not (user_id or anonymous_id):
        return "unidentified"
    if "" in (user_id, anonymous_id):
        return "id_not_string"
    if not event.event:
        return "event_not_defined"
    if not 0 < len(event.message_id) <= MAX_MESSAGE_ID:
        return "message_id_length"
    if len(encoded) > MAX_EVENT_BYTES:
        return "event_too_large"
    return None


class Packer:
    """Groups encoded events so that no request reaches 475,000 bytes or exceeds 2,500 events. Order is kept.

    :param envelope: bytes of a request around its events.
    """

    def __init__(self, envelope: int) -> None:
        self._envelope = envelope
        self._batch: list[bytes] = []
        self._size = envelope

    def add(self, event: bytes) -> list[bytes]:
        """Returns the batch that the event found no more room in, or an empty list."""
        size = len(event) + 1  # with its comma
        full = self._size + size >= MAX_BATCH_BYTES or len(self._batch) == MAX_BATCH_EVENTS
        batch = self.flush() if full else []
        self._batch.append(event)
        self._size += size
        return batch

    def flush(self) -> list[bytes]:
        """Returns what has gathered, if anything, and starts anew."""
        batch, self._batch, self._size = self._batch, [], self._envelope
        return batch

    def __bool__(self) -> bool:
        return bool(self._batch)


class SegmentClient:
    """Sends to one source. Also fits receivers of the same shape, through `base_url` and `path`."""

    def __init__(
        self,
        write_key: str,
        *,
        base_url: str = REGIONS["us"],
        path: str = DEFAULT_PATH,
        compress: bool = False,
        events_per_second: float = 1000,
        timeout: float = 60,
        name: str = "Segment",
        retries: Retries | None = None,
    ) -> None:
        self._path = path
        self._key = json.dumps(write_key).encode()
        self._headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if compress else {})
        self._compress = compress
        self._transport = Transport(
            base_url,
            name=name,
            auth=HTTPBasicAuth(write_key, ""),
            timeout=timeout,
            limiter=RateLimiter(events_per_second),
            retries=retries or Retries(),
            secrets=(write_key, b64encode(f"{write_key}:".encode()).decode()),
        )
        self.envelope = len(self._body([]))

    def send(self, batch: list[bytes]) -> int:
        """Post one batch of encoded events, and return the bytes of its body before compression.

        A 200 is no proof that Segment keeps an event: check each with `breach` before.

        :raises EventsRefusedError: 4xx that is about the events.
        :raises ConfigurationError: 4xx that is about the key, the source or the path.
        """
        try:
            return self._transport.request(
                "POST",
                self._path,
                body=lambda: self._compressed(self._body(batch)),
                headers=self._headers,
                read=lambda answer: self._accepted(answer, batch),
                units=len(batch),
            )
        except StatusError as error:
            raise self._explained(error, len(batch)) from None

    def _accepted(self, answer: Answer, batch: list[bytes]) -> int:
        """Segment says ``{"success": true}``, others ``OK`` or nothing; a page of a gateway in between says neither."""
        body = answer.body[:1000].lstrip()
        if body.startswith(b"<"):
            raise UnreadableBody("a page of HTML or XML, not the word of a batch taken")
        if b'"success":false' in body.replace(b" ", b""):
            raise StatusError(answer.status, self._transport.words_of(answer))
        return self.envelope + sum(map(len, batch)) + max(0, len(batch) - 1)

    def _body(self, batch: list[bytes]) -> bytes:
        """`sentAt` is the time of this attempt: Segment shifts each event's time by what passed since it."""
        sent_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
        return b'{"batch":[%b],"sentAt":"%b","writeKey":%b}' % (b",".join(batch), sent_at, self._key)

    def _compressed(self, body: bytes) -> bytes:
        return gzip.compress(body, compresslevel=6) if self._compress else body

    def _explained(self, error: StatusError, events: int) -> Exception:
        transport = self._transport
        said = f"{transport.name} answered {error}."
        if error.status in (401, 403) or "write key" in error.words.lower():
            return ConfigurationError(f"{said} Check that password holds the write key of the source, and the region.")
        if error.status in (404, 405):
            return ConfigurationError(
                f"{said} Check host, path and that the source is enabled: {transport.base_url}{self._path} was asked."
            )
        return EventsRefusedError(f"{said} A batch of {events} events was not taken.", f"refused_{error.status}")

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
