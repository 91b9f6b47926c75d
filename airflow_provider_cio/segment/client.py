"""Client of Segment's HTTP Tracking API, which posts batches of encoded events."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime

from requests.auth import HTTPBasicAuth

from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError
from airflow_provider_cio.http.client import Client
from airflow_provider_cio.http.errors import StatusError, UnreadableBody
from airflow_provider_cio.http.rate_limit import RateLimiter
from airflow_provider_cio.http.transport import Answer, Retries, Transport

#: Base URL of each region.
REGIONS = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
#: Path of Segment's batch endpoint.
DEFAULT_PATH = "/v1/batch"
#: Bodies that say that a batch was taken, besides JSON objects.
_WORDS_OF_SUCCESS = (b"", b"ok", b"success")
#: Bytes of an answer. An acknowledgement has some 20; the longest known refusal, Jitsu's, a line of some 300 for each
#: of 2,500 events.
_LARGEST_ANSWER = 2**21
#: Statuses of a refusal that the events may have caused. Others, such as 402, concern the source and may pass.
_ABOUT_EVENTS = (*range(200, 300), 400, 413, 422)


class SegmentClient(Client):
    """Client of one Segment source, or of a receiver with the same API at `base_url` and `path`."""

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
        self._compress = compress
        super().__init__(
            Transport(
                base_url,
                name=name,
                auth=HTTPBasicAuth(write_key, ""),
                headers={"Content-Encoding": "gzip"} if compress else None,
                timeout=timeout,
                limiter=RateLimiter(events_per_second),
                retries=retries or Retries(),
                secrets=(write_key,),
                largest_answer=_LARGEST_ANSWER,
            )
        )
        self.envelope = len(self._body([]))

    def send(self, batch: list[bytes]) -> int:
        """Post one batch of encoded events, and return the bytes of its body before compression.

        Check each event before, because Segment answers 200 to events that it drops.

        :raises EventsRefusedError: the events may have caused the refusal.
        :raises ConfigurationError: the key, the source or the path caused the refusal.
        """
        size = 0

        def body() -> bytes:
            nonlocal size
            uncompressed = self._body(batch)
            size = len(uncompressed)
            return self._compressed(uncompressed)

        try:
            self._transport.request("POST", self._path, body=body, read=self._check, units=len(batch))
        except StatusError as error:
            raise self._explained(error, len(batch)) from None
        return size

    def _check(self, answer: Answer) -> None:
        """Check that the answer acknowledges the batch. docs/connections.md lists what does.

        :raises StatusError: the answer says that events were refused.
        :raises UnreadableBody: the answer says neither, like the page of a gateway.
        """
        if answer.body.strip().lower() in _WORDS_OF_SUCCESS:
            return
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            verdicts = [document[name] for name in ("success", "ok") if name in document]
            if any(verdict is False for verdict in verdicts):
                raise StatusError(answer.status, self._transport.error_text(answer))
            if all(verdict is True for verdict in verdicts) and not (document.get("error") or document.get("errors")):
                return
        raise UnreadableBody(f"no acknowledgement, but {self._transport.error_text(answer)}")

    def _body(self, batch: list[bytes]) -> bytes:
        """Return the body. `sentAt` is the time of this attempt, because Segment shifts event times by its age."""
        sent_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
        parts = [*batch] or [b""]
        parts[0] = b'{"batch":[' + parts[0]
        parts[-1] += b'],"sentAt":"%b","writeKey":%b}' % (sent_at, self._key)
        return b",".join(parts)  # the only copy of all events, because there are half a million bytes of them

    def _compressed(self, body: bytes) -> bytes:
        return gzip.compress(body, compresslevel=6) if self._compress else body

    def _explained(self, error: StatusError, events: int) -> Exception:
        """Return the error to raise for a refusal."""
        transport = self._transport
        answered = f"{transport.name} answered {error}."
        if error.status in (401, 403) or "write key" in error.text.lower():
            return ConfigurationError(
                f"{answered} Check that password holds the write key of the source, and the region."
            )
        if error.status in (404, 405):
            asked = f"{transport.base_url}{self._path}"
            return ConfigurationError(f"{answered} Check host, path and that the source is enabled: {asked} was asked.")
        if error.status not in _ABOUT_EVENTS:
            return ConfigurationError(f"{answered} No event causes that: check the source and its plan.")
        return EventsRefusedError(f"{answered} A batch of {events} events was not taken.", f"refused_{error.status}")
