"""Write events and rows that can't be sent to files of JSON lines, and read the events again.

A file has two kinds of lines::

    {"reason": "refused_400", "event": {...}}                            an event that was not accepted
    {"reason": "malformed", "row": {...}, "problem": "Expected `int`"}   a row of Customer.io that made no event
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

from airflow.sdk import ObjectStoragePath

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.pipeline.dead_letter_places import (
    create,
    files_at,
    is_local,
    location,
    make_folder,
    probe_local,
    store_error,
)

log = logging.getLogger(__name__)

#: End of the name of a probe on a remote store.
_PROBE = ".probe"
#: Bytes of the longest part of a path that file systems allow.
_LONGEST_PART = 255


class DeadLetters:
    """Dead letter file of one try. It is created with its first line, and complete once it is closed.

    Rows are written in full: `pii` applies to events only. So on a local disk only the owner may read the files and the
    new folders, and a symbolic link in place of the file is not followed. On a remote store nothing but the file is
    created, because a mistyped name would put personal data into a new bucket. So stores that need real folders, such
    as SFTP, do not work.

    :param folder: an absolute local path, or a remote one (``s3://conn_id@bucket/folder``).
    :raises ConfigurationError: it is empty or relative, or its scheme is unknown.
    """

    def __init__(self, folder: str, context: Mapping[str, Any]) -> None:
        self._folder = location("dead_letter_path", folder)
        self.path = self._folder / _name(context)
        self._file: IO[bytes] | None = None

    def check(self) -> None:
        """Write a probe and remove it, so that a wrong folder fails before the run and not at the first refused event.

        On a local disk the probe is written to the very file, and what is in it stays. On a remote store it has a name
        beside the file, because some stores forbid to replace a file. If a store forbids deletion, the probe stays,
        and the log names it.

        :raises ConfigurationError: nothing can be written there.
        :raises TryAgainLaterError: the store is out of reach.
        """
        try:
            if is_local(self.path):
                make_folder(Path(self._folder.path))
                probe_local(Path(self.path.path))
                return
            probe = self.path.parent / f"{self.path.name}{_PROBE}"
            with probe.fs.open(probe.path, "wb") as file:
                file.write(b"probe\n")
        except Exception as error:  # each store has its own
            raise self._trouble(error) from error
        try:
            with suppress(FileNotFoundError):
                probe.fs.rm_file(probe.path)
        except Exception as error:
            log.warning(
                "dead_letter_path %s can be written to, but nothing can be deleted there: the probe %s stays (%s).",
                self._folder,
                probe,
                type(error).__name__,
            )

    def write(self, reason: str, event: bytes) -> None:
        """Write a line for an event, given as JSON."""
        self._write(event_letter(reason, event))

    def write_row(self, reason: str, raw: bytes, problem: str) -> None:
        """Write a line for a row, given as received."""
        self._write(row_letter(reason, raw, problem))

    def _write(self, line: bytes) -> None:
        try:
            if self._file is None:
                self._file = create(self.path)
            self._file.write(line)
        except Exception as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> ConfigurationError | TryAgainLaterError:
        return store_error("dead_letter_path", self._folder, "can't be written to", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file.

        :raises ConfigurationError, TryAgainLaterError: the end of the file could not be written. If an error is under
            way, it is only logged.
        """
        if self._file is None:
            return
        try:
            self._file.close()
        except Exception as error:
            trouble = self._trouble(error)
            if kind is None:
                raise trouble from error
            log.warning("%s", trouble)


def event_letter(reason: str, event: bytes) -> bytes:
    """Return the line for an event, given as JSON."""
    return b'{"reason":%b,"event":%b}\n' % (_json(reason), event)


def row_letter(reason: str, raw: bytes, problem: str) -> bytes:
    """Return the line for a row or a report, given as received. If it is not JSON, it becomes a JSON string."""
    return b'{"reason":%b,"row":%b,"problem":%b}\n' % (_json(reason), _one_line(raw), _json(problem))


def check_location(folder: str) -> None:
    """Check a folder's path without access to it.

    :raises ConfigurationError: it is empty or relative, or its scheme is unknown.
    """
    location("dead_letter_path", folder)


def write_letters(folder: str, name: str, letters: Iterable[bytes]) -> None:
    """Write lines into a new file.

    :param name: unique path below the folder, with ``/`` between its parts.
    :raises ConfigurationError: the folder is wrong, or can't be written to.
    :raises TryAgainLaterError: the store is out of reach.
    """
    path = location("dead_letter_path", folder) / name
    try:
        with create(path) as file:
            file.writelines(letters)
    except Exception as error:  # each store has its own
        raise store_error("dead_letter_path", folder, "can't be written to", error) from error


class EventsIn(Iterator[dict[str, Any]]):
    """Iterator over the events in dead letter files, returned by `events_in`."""

    def __init__(self, path: str) -> None:
        self.files = self.events = self.rows = self.unreadable = 0
        self._events = self._read(*files_at(location("path", path)))

    def __next__(self) -> dict[str, Any]:
        return next(self._events)

    def _read(self, folder: ObjectStoragePath, names: list[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            self.files += 1
            with folder.fs.open(name, "rb") as file:
                for line in file:
                    if (event := self._event(line)) is not None:
                        self.events += 1
                        yield event
        if self.rows or self.unreadable:
            log.warning(
                "Read %d events from %d files in %s. %d lines hold rows that made no event, %d lines can't be read: "
                "these are left out.",
                self.events,
                self.files,
                folder,
                self.rows,
                self.unreadable,
            )

    def _event(self, line: bytes) -> dict[str, Any] | None:
        if not line.strip():
            return None
        try:
            letter = json.loads(line)
        except (ValueError, RecursionError):
            letter = None
        if isinstance(letter, dict) and isinstance(letter.get("event"), dict):
            event: dict[str, Any] = letter["event"]
            return event
        if isinstance(letter, dict) and "row" in letter:
            self.rows += 1
        else:
            self.unreadable += 1  # such as the last line of a task that was killed
        return None


def events_in(path: str) -> EventsIn:
    """Return the events in dead letter files, to send them again::

        events = events_in("s3://conn_id@bucket/dead_letters/daily")
        SegmentHook().track(events)
        print(events.events, events.rows, events.unreadable)

    The files of two tries can hold the same event. It has the same `messageId` in both.

    :param path: a file, or a folder in which all files ``*.jsonl``, at any depth, are read in order of their names.
    :returns: an iterator that counts ``files``, ``events``, and lines without an event: ``rows`` (malformed ones) and
        ``unreadable``. If there are such lines, the log says so at the end.
    :raises ConfigurationError: there is nothing at the path, or it can't be read.
    """
    return EventsIn(path)


def _json(text: str) -> bytes:
    return json.dumps(text).encode()


def _one_line(raw: bytes) -> bytes:
    """Return JSON without line breaks, which can only be between tokens; a JSON string if it is not UTF-8 JSON."""
    try:
        json.loads(raw.decode())
    except (ValueError, RecursionError):
        return _json(raw.decode("utf-8", "replace"))
    return re.sub(rb"[\r\n]+", b" ", raw)


def _name(context: Mapping[str, Any]) -> str:
    """Return ``dag/run/task.try1.jsonl``, with the index of a mapped task. No two tries share a name."""
    ti = context["ti"]
    index = f".map{ti.map_index}" if ti.map_index >= 0 else ""
    return f"{_part(ti.dag_id)}/{_part(ti.run_id)}/{_part(ti.task_id, f'{index}.try{ti.try_number}.jsonl')}"


def _part(text: str, end: str = "") -> str:
    """Return a text as one part of a path, with room for a probe. No two texts have the same part.

    A text that is too long is cut, and gets a hash after a ``=``, which is in no quoted text.
    """
    quoted = quote(text, safe="+-")
    if end:  # else the task `send.map1` would be the first one of the mapped task `send`
        quoted = re.sub(r"\.(?=map\d+$)", "%2E", quoted)
    elif quoted in (".", ".."):
        quoted = quoted.replace(".", "%2E")
    room = _LONGEST_PART - len(end) - len(_PROBE)
    if len(quoted) > room:
        quoted = f"{quoted[: room - 33]}={hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return quoted + end
