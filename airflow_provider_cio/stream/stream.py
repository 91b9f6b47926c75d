"""One stream: verify each report, map it, send its event to Segment, and only then acknowledge it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from airflow_provider_cio.events.event import encode, rule_broken
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Malformed, Occurrence, Reported
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.segment.batches import Sender, Settled
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.stream.cached import Cached, NotFoundYet
from airflow_provider_cio.stream.cached_names import CachedNames
from airflow_provider_cio.stream.counts import Counts
from airflow_provider_cio.stream.intake import Intake, Unavailable, text_for_log
from airflow_provider_cio.stream.reports import Ignored, TooLong, Wanted, is_too_long, overlong_text, read_report
from airflow_provider_cio.stream.settings import StreamOptions
from airflow_provider_cio.stream.signature import is_signed

#: Seconds to connect to Segment, and for each read. Customer.io waits for four in all.
_TIMEOUT = 2.0
#: One repetition at once, because Segment may just have closed an idle connection.
_RETRIES = Retries(attempts=2, total=0.5, first=0.05)
#: Channels and metrics without a collection that a stream names in the log.
_MOST_NAMES = 20


class Connections(NamedTuple):
    """Settings from a stream's two connections, and the objects that are built from them.

    :param identity: every setting of Segment's connection. New objects are built only if it changes.
    """

    secrets: tuple[str, ...]
    identity: tuple[object, ...]
    client: SegmentClient
    mapper: Mapper
    intake: Intake


class Stream:
    """Stream of reports, for one event loop.

    :param name: name in the URL.
    :param executor: runs look-ups and the calls of Airflow's metrics.
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
        self._connections = Cached(self._look_up, executor, self._look_up_failed)
        self._names = CachedNames(options.customerio_conn_id, lambda text: self.counts.problem("names", text))
        self._rate_limited: WeakKeyDictionary[SegmentClient, int] = WeakKeyDictionary()  # answers 429 already counted
        self._unknown: set[str] = set()  # channels and metrics that the log has named
        self._dead_letters = Intake(self._write_letters, name="dead-letters")

    async def connections(self) -> Connections:
        """Return the connections, from the cache.

        :raises NotFoundYet: they can't be read.
        :raises Unavailable: there is no signing key.
        """
        return self._usable(await self._connections.get())

    async def warm_up(self) -> None:
        """Read the connections and the names before the first report comes."""
        try:
            await self.connections()
            await self._names.ready()
        except (Unavailable, NotFoundYet) as error:
            self.counts.problem("connections", f"not ready yet: {error}")

    async def is_authentic(self, timestamp: bytes, body: bytes | bytearray, signature: bytes) -> bool:
        """Return False only after looking the keys up again: a 401 makes Customer.io wait for an hour.

        :raises Unavailable, NotFoundYet: no key is known, or there may be a newer one.
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
            raise Unavailable(
                "key_not_renewed",
                "The known keys do not fit a signature, and a newer one may. They are looked up once a second at most, "
                "so Customer.io has to repeat the report",
            )
        return False

    async def take(self, body: bytes) -> str:
        """Deliver an authentic report to Segment or to the dead letters, or ignore it. Return the outcome.

        :raises Unavailable: Customer.io has to repeat the report.
        """
        connections = await self.connections()
        await self._names.ready()
        try:
            mapped = self._event(body, connections.mapper)
        except Exception as error:  # Customer.io would repeat the report for days, and delay all others
            mapped = Malformed(body, f"can't be mapped: {type(error).__name__}")
        if isinstance(mapped, str):
            return mapped
        if isinstance(mapped, Malformed):
            return await self._refuse("malformed", body=body, problem=mapped.problem)
        if isinstance(mapped, TooLong):
            problem = f"its {mapped.field} alone is longer than an event may be"
            return await self._refuse("event_too_large", body=body, problem=problem)
        event, reason = mapped
        if reason == "unidentified" and self.options.on_unidentified != "dead_letter":
            return "skipped.unidentified"
        if not reason:
            try:
                refused = await connections.intake.put(event)
            finally:
                self._count_rate_limited(connections.client)
            if refused is None:
                return "sent"
            self.counts.problem("refused", f"Segment refuses an event: {refused.explanation}")
            reason = refused.reason
        return await self._refuse(reason, event=event)

    def segment_reached(self) -> bool | None:
        """Return True if the last batch reached Segment; None before the first one."""
        connections = self._connections.value
        return connections and connections.intake.reached

    def _event(self, body: bytes, mapper: Mapper) -> tuple[bytes, str | None] | Malformed | TooLong | str:
        """Return the encoded event and the rule that it breaks, or the report's problem, or the outcome ``ignored``."""
        left_out: set[str] = set()
        report = read_report(body, left_out)
        if isinstance(report, Malformed):
            return report
        occurrence = self._wanted.occurrence(report, left_out)
        if isinstance(occurrence, Ignored):
            self._name_unknown(occurrence.unknown)
            return f"ignored.{occurrence.reason}"
        if isinstance(occurrence, Malformed):
            return occurrence
        if left_out:
            self.counts.add("field_left_out", len(left_out))
            names = ", ".join(sorted(left_out))
            self.counts.problem("field_left_out", f"left out of an event, because they are malformed: {names}")
        if self.options.pii != "keep" and (field := overlong_text(occurrence)):
            return TooLong(field)
        return self._encoded(occurrence, mapper)

    def _name_unknown(self, name: str) -> None:
        """Log each channel and metric without a collection once, but not more of them than `_MOST_NAMES`."""
        if name and name not in self._unknown and len(self._unknown) < _MOST_NAMES:
            self._unknown.add(name)
            self.counts.problem(f"unknown {name}", f"Customer.io reports {name}, which no collection has")

    def _encoded(self, occurrence: Occurrence, mapper: Mapper) -> tuple[bytes, str | None]:
        """Map and encode an occurrence, without the message's content if that does not fit."""

        def checked(occurrence: Occurrence) -> tuple[bytes, str | None]:
            event = mapper.event(occurrence)
            encoded = encode(event)
            return encoded, rule_broken(event, encoded)

        message, reported = occurrence.message, occurrence.message.reported or Reported()
        if not is_too_long(reported.content):
            encoded, reason = checked(occurrence)
            if reason != "event_too_large" or not reported.content:
                return encoded, reason
        self.counts.add("content_left_out")
        return checked(replace(occurrence, message=replace(message, reported=replace(reported, content=None))))

    async def _refuse(self, reason: str, *, event: bytes = b"", body: bytes = b"", problem: str = "") -> str:
        """Write the event, or else the body, to the dead letters if a path is set. Return the outcome."""
        self.counts.problem(f"refused.{reason}", f"a report can't be sent ({reason}). {problem}".rstrip())
        if self.options.dead_letter_path is not None:
            from airflow_provider_cio.pipeline.dead_letters import event_letter, row_letter

            try:
                await self._dead_letters.put(
                    event_letter(reason, event) if event else row_letter(reason, body, problem)
                )
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
                f"connection {self.options.customerio_conn_id!r} has no webhook_signing_secret to verify reports with",
            )
        return connections

    def _look_up(self, before: Connections | None) -> Connections:
        from airflow_provider_cio.hooks.customerio import CustomerIOHook
        from airflow_provider_cio.hooks.segment import SegmentHook

        options = self.options
        if options.dead_letter_path is not None:
            from airflow_provider_cio.pipeline.dead_letters import check_location

            check_location(options.dead_letter_path)  # at the start, not at the first report that can't be sent
        secrets = CustomerIOHook(customerio_conn_id=options.customerio_conn_id).webhook_signing_secrets
        segment = SegmentHook(segment_conn_id=options.segment_conn_id)
        identity = (segment.settings, segment.message_id_namespace)
        if before and before.identity == identity:
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
        return Connections(secrets, identity, client, mapper, intake)

    def _look_up_failed(self, error: BaseException) -> None:
        self.counts.problem("connections", f"it can't be set up: {text_for_log(error)}")
