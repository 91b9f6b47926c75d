"""One stream: a report comes in, is verified, mapped and forwarded, and only then acknowledged."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from airflow_provider_cio.events.event import encode, rule_broken
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Malformed, Occurrence
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.segment.batches import Sender, Settled
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.stream.counts import Counts
from airflow_provider_cio.stream.intake import Intake, Unavailable, text_for_log
from airflow_provider_cio.stream.kept import Kept, NotFoundYet
from airflow_provider_cio.stream.kept_names import KeptNames
from airflow_provider_cio.stream.reports import Ignored, TooLong, Wanted, is_too_long, read_report, too_long_to_treat
from airflow_provider_cio.stream.settings import StreamOptions
from airflow_provider_cio.stream.signature import is_signed

#: Seconds for a connection to Segment, and for each read.
_TIMEOUT = 2.0
#: A request that fails at once, on a connection that was just closed say, is repeated once.
_RETRIES = Retries(attempts=2, total=0.5, first=0.05)


class Connections(NamedTuple):
    """What a stream reads from its two connections, and what it makes of it.

    :param place: all that decides where events go.
    """

    secrets: tuple[str, ...]
    place: tuple[object, ...]
    client: SegmentClient
    mapper: Mapper
    intake: Intake


class Stream:
    """Belongs to one event loop.

    :param name: as the URL has it.
    :param executor: runs look-ups and metrics.
    """

    def __init__(self, name: str, options: StreamOptions, executor: ThreadPoolExecutor) -> None:
        self.name = name
        self.options = options
        self.counts = Counts(name, executor)
        self._wanted = Wanted(
            options.collections,
            full_resolution=options.full_resolution,
            message_content=options.message_content,
        )
        self._connections = Kept(self._look_up, executor, self._look_up_failed)
        self._names = KeptNames(options.customerio_conn_id, lambda text: self.counts.problem("names", text))
        self._rate_limited: WeakKeyDictionary[SegmentClient, int] = WeakKeyDictionary()  # answers 429 that are counted
        self._letters = Intake(self._write_letters, name="dead-letters")

    async def connections(self) -> Connections:
        """:raises Unavailable: they can't be read, or lack the signing key."""
        return self._usable(await self._connections.get())

    async def warm_up(self) -> None:
        """Read the connections ahead of the first report."""
        try:
            await self.connections()
            await self._names.ready()
        except (Unavailable, NotFoundYet) as error:
            self.counts.problem("connections", f"is not ready: {error}")

    async def is_authentic(self, timestamp: bytes, body: bytes, signature: bytes) -> bool:
        """False only if no key fits that the connection has now: who is told so comes again after an hour.

        :raises Unavailable, NotFoundYet: there is no key to tell by, or there may be a newer one.
        """
        asked_at = time.monotonic()
        connections = await self.connections()
        if is_signed(connections.secrets, timestamp, body, signature):
            return True
        renewed = self._usable(await self._connections.renewed())
        if renewed.secrets != connections.secrets and is_signed(renewed.secrets, timestamp, body, signature):
            return True
        if self._connections.last_failed:
            raise NotFoundYet
        if self._connections.as_of < asked_at:
            raise Unavailable("key_not_renewed")
        return False

    async def take(self, body: bytes) -> str:
        """Return the outcome when the event is safe at Segment, kept aside, or knowingly ignored.

        :param body: of an authentic report.
        :raises Unavailable: it has to come again.
        """
        connections = await self.connections()
        await self._names.ready()
        try:
            made = self._event(body, connections.mapper)
        except Exception as error:  # it would come again for days, and hold up all that follows
            made = Malformed(body, f"can't be mapped: {type(error).__name__}")
        if isinstance(made, str):
            return made
        if isinstance(made, Malformed):
            return await self._kept_aside("malformed", body=body, problem=made.problem)
        if isinstance(made, TooLong):
            return await self._kept_aside(
                "event_too_large", body=body, problem=f"its {made.field} alone is longer than an event may be"
            )
        event, reason = made
        if reason == "unidentified" and self.options.on_unidentified != "dead_letter":
            return "skipped.unidentified"
        if not reason:
            try:
                refused = await connections.intake.put(event)
            finally:
                self._count_rate_limited(connections.client)
            if refused is None:
                return "sent"
            self.counts.problem("refused", f"Segment refuses an event: {refused.said}")
            reason = refused.reason
        return await self._kept_aside(reason, event=event)

    def segment_reached(self) -> bool | None:
        """Whether the last batch reached Segment; None if there was none yet."""
        connections = self._connections.value
        return connections and connections.intake.reached

    def _event(self, body: bytes, mapper: Mapper) -> tuple[bytes, str | None] | Malformed | TooLong | str:
        """The event, encoded, and why it can't be sent; what is wrong with the report; or why nobody wants it."""
        report = read_report(body)
        if isinstance(report, Malformed):
            return report
        occurrence = self._wanted.occurrence(report)
        if isinstance(occurrence, Ignored):
            return f"ignored.{occurrence.reason}"
        if isinstance(occurrence, Malformed):
            return occurrence
        if self.options.pii != "keep" and (field := too_long_to_treat(occurrence)):
            return TooLong(field)
        return self._encoded(occurrence, mapper)

    def _encoded(self, occurrence: Occurrence, mapper: Mapper) -> tuple[bytes, str | None]:
        left_out = is_too_long(occurrence.message.content)
        if left_out:
            occurrence = _without_content(occurrence)
        event = mapper.event(occurrence)
        encoded = encode(event)
        reason = rule_broken(event, encoded)
        if reason == "event_too_large" and occurrence.message.content:
            left_out = True
            event = mapper.event(_without_content(occurrence))
            encoded = encode(event)
            reason = rule_broken(event, encoded)
        if left_out:
            self.counts.add("content_left_out")
        return encoded, reason

    async def _kept_aside(self, reason: str, *, event: bytes = b"", body: bytes = b"", problem: str = "") -> str:
        self.counts.problem(f"refused.{reason}", f"a report can't be sent ({reason}). {problem}".rstrip())
        if self.options.dead_letter_path is not None:
            from airflow_provider_cio.pipeline.dead_letters import event_letter, row_letter

            try:
                await self._letters.put(event_letter(reason, event) if event else row_letter(reason, body, problem))
            except Unavailable as error:
                raise Unavailable("dead_letters", error.problem) from None
        return f"refused.{reason}"

    def _count_rate_limited(self, client: SegmentClient) -> None:
        limited = client.rate_limited
        if newly := limited - self._rate_limited.get(client, 0):
            self._rate_limited[client] = limited
            self.counts.add("rate_limited", newly)

    def _write_letters(self, letters: list[bytes]) -> Iterator[Settled]:
        from airflow_provider_cio.pipeline.dead_letters import write_letters

        folder = self.options.dead_letter_path
        assert folder is not None
        now = datetime.now(UTC)
        name = f"stream/{self.name}/{now:%Y-%m-%d}/{now:%H%M%S}-{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
        write_letters(folder, name, letters)
        yield Settled(letters)

    def _usable(self, connections: Connections) -> Connections:
        if not connections.secrets:
            raise Unavailable(
                "no_key",
                f"connection {self.options.customerio_conn_id!r} has no webhook_signing_secret to verify with",
            )
        return connections

    def _look_up(self, before: Connections | None) -> Connections:
        from airflow_provider_cio.hooks.customerio import CustomerIOHook
        from airflow_provider_cio.hooks.segment import SegmentHook

        options = self.options
        if options.dead_letter_path is not None:
            from airflow_provider_cio.pipeline.dead_letters import check_location

            check_location(options.dead_letter_path)  # the first report that can't be sent would hold up all others
        secrets = CustomerIOHook(customerio_conn_id=options.customerio_conn_id).webhook_signing_secrets
        segment = SegmentHook(segment_conn_id=options.segment_conn_id)
        place = (segment.settings, segment.message_id_namespace)
        if before and before.place == place:
            return before._replace(secrets=secrets)
        settings = segment.settings._replace(timeout=min(segment.settings.timeout, _TIMEOUT))
        client = SegmentClient(
            **settings._asdict(), name=f"Segment (connection {options.segment_conn_id!r})", retries=_RETRIES
        )
        mapper = Mapper(
            segment.message_id_namespace,
            send_to_customerio_destinations=options.send_to_customerio_destinations,
            pii=options.pii,
            cio_id_as_last_resort=options.on_unidentified == "cio_id",
            name_of=self._names.of,
        )
        intake = Intake(Sender(client).deliver, name=f"stream-{self.name}", envelope=client.envelope)
        return Connections(secrets, place, client, mapper, intake)

    def _look_up_failed(self, error: BaseException) -> None:
        self.counts.problem("connections", f"it can't be set up: {text_for_log(error)}")


def _without_content(occurrence: Occurrence) -> Occurrence:
    return msgspec.structs.replace(occurrence, message=msgspec.structs.replace(occurrence.message, content=None))
