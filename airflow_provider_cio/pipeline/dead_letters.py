"""What can't be sent, kept aside as JSON lines, and read again.

A file has two kinds of lines::

    {"reason": "refused_400", "event": {...}}                            an event, as it would have been sent
    {"reason": "malformed", "row": {...}, "problem": "Expected `int`"}   a row of Customer.io's that made no event
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, Self
from urllib.parse import quote

from airflow.sdk import ObjectStoragePath

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import presentable

log = logging.getLogger(__name__)

_LOCAL = ("", "file", "local")


class DeadLetters:
    """The file of one run and try, made when its first line comes, whole once it is closed.

    It holds events and rows in full, personal data included, whatever `pii` says of the rows.
    Nothing but the file is made on a remote store, neither bucket nor folder: a bucket whose name is mistyped must not
    come into being with personal data in it. So stores that need real folders, such as SFTP, are not for this.

    :param folder: an absolute local path, or a remote one (``s3://conn_id@bucket/folder``).
    :raises ConfigurationError: it is empty or relative, or nothing is known of its scheme.
    """

    def __init__(self, folder: str, context: Mapping[str, Any]) -> None:
        self._folder = _location("dead_letter_path", folder)
        self.path = self._folder / _name(context)
        self._file: IO[bytes] | None = None

    def check(self) -> None:
        """Write and remove a probe, to see before a run what would else show at its first refused event.

        A local folder is made. On a remote store the probe lies beside the file to come; if it can't be removed, since
        the store lets nobody delete, it stays, and the log names it.

        :raises ConfigurationError: nothing can be written there.
        :raises TryAgainLaterError: the store is out of reach.
        """
        probe = self.path.parent / f"{self.path.name}.probe"
        try:
            if _is_local(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                probe = self._folder / f".probe-{uuid.uuid4().hex}"
            with probe.fs.open(probe.path, "wb") as file:
                file.write(b"probe\n")
        except Exception as error:  # each store has its own
            raise _trouble("dead_letter_path", self._folder, "can't be written to", error) from error
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
        """Keep an event, given as JSON."""
        self._write(event_letter(reason, event))

    def write_row(self, reason: str, raw: bytes, problem: str) -> None:
        """Keep a row as it came; one that is no JSON at all becomes a JSON string."""
        self._write(row_letter(reason, raw, problem))

    def _write(self, line: bytes) -> None:
        if self._file is None:
            if _is_local(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")  # type: ignore[no-untyped-call]
        self._file.write(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def event_letter(reason: str, event: bytes) -> bytes:
    """The line for an event, given as JSON."""
    return b'{"reason":%b,"event":%b}\n' % (_json(reason), event)


def row_letter(reason: str, raw: bytes, problem: str) -> bytes:
    """The line for a row or a report as it came; one that is no JSON at all becomes a JSON string."""
    return b'{"reason":%b,"row":%b,"problem":%b}\n' % (_json(reason), _one_line(raw), _json(problem))


def check_location(folder: str) -> None:
    """Find what can be known of a folder without looking at it.

    :raises ConfigurationError: it is empty or relative, or nothing is known of its scheme.
    """
    _location("dead_letter_path", folder)


def write_letters(folder: str, name: str, letters: Iterable[bytes]) -> None:
    """Keep these lines in a new file of their own.

    :param name: below the folder, with ``/`` between its parts; no other file has it.
    :raises ConfigurationError: the folder is not a good one, or can't be written to.
    :raises TryAgainLaterError: the store is out of reach.
    """
    path = _location("dead_letter_path", folder) / name
    try:
        if _is_local(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # type: ignore[no-untyped-call]
            file.writelines(letters)
    except Exception as error:  # each store has its own
        raise _trouble("dead_letter_path", folder, "can't be written to", error) from error


class EventsIn(Iterator[dict[str, Any]]):
    """See `events_in`."""

    def __init__(self, path: str) -> None:
        self.files = self.events = self.rows = self.unreadable = 0
        self._events = self._read(*_files(_location("path", path)))

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
                "%d events of %d files in %s were read. %d lines hold rows of Customer.io's that made no event, %d "
                "lines can't be read: nothing of these can be sent.",
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
            self.unreadable += 1  # the last line of a task that was killed, say
        return None


def events_in(path: str) -> EventsIn:
    """The events that were kept aside, one after the other, for sending again::

        events = events_in("s3://conn_id@bucket/dead_letters/daily")
        SegmentHook().track(events)
        print(events.events, events.rows, events.unreadable)

    The events of one try can be in the file of the next one, too. They have the same `messageId` there.

    :param path: a file, or a folder of whose files, however deep, all ``*.jsonl`` are read, sorted by name.
    :returns: an iterator that counts what it has met: ``files``, ``events``, and the lines without an event, ``rows``
        (of an unexpected shape) and ``unreadable``. If there are such, the log says so at the end.
    :raises ConfigurationError: there is nothing at the path, or it can't be read.
    """
    return EventsIn(path)


def _files(path: ObjectStoragePath) -> tuple[ObjectStoragePath, list[str]]:
    try:
        if path.fs.isfile(path.path):
            return path, [path.path]
        if not path.fs.exists(path.path):
            raise FileNotFoundError("there is nothing at this path")
        return path, sorted(name for name in path.fs.find(path.path) if name.endswith(".jsonl"))
    except Exception as error:
        raise _trouble("path", path, "can't be read", error) from error


def _location(name: str, given: object) -> ObjectStoragePath:
    """The path, if it says clearly where it is."""
    text = str(given).strip()
    if text in ("", "None"):
        raise ConfigurationError(
            f"{name} is {given!r}: probably a template that rendered to nothing. Give it an absolute path, "
            "local or remote, or leave it out."
        )
    scheme, has_scheme, rest = text.partition("://")
    user, _, rest_of_remote = rest.rpartition("@") if "@" in rest.split("/")[0] else ("", "", rest)
    if ":" in user:
        raise ConfigurationError(
            f"{name} has credentials in it. Put them into an Airflow connection, and its id into the path: "
            f"{scheme}://conn_id@{rest_of_remote}"
        )
    if not (has_scheme or text.startswith("/")) or (scheme.lower() in _LOCAL and has_scheme and rest[:1] != "/"):
        relative = rest if has_scheme else text
        raise ConfigurationError(
            f"{name} {text!r} is relative, and a worker's current folder is anywhere. Make it absolute: "
            f"/path/to/{relative} or file:///path/to/{relative}"
        )
    if has_scheme and not rest_of_remote.strip("/") and scheme.lower() not in _LOCAL:
        raise ConfigurationError(f"{name} {text!r} names no bucket: {scheme}://conn_id@bucket/folder")
    try:
        return ObjectStoragePath(text)
    except ValueError as error:
        raise _trouble(name, text, "can't be used", error) from error


def _trouble(name: str, path: object, verb: str, error: Exception) -> ConfigurationError | TryAgainLaterError:
    """The kind of problem, and what to do about it."""
    said = f"{name} {path} {verb}: {': '.join(filter(None, (type(error).__name__, presentable(str(error), ()))))}."
    if isinstance(error, ConnectionError | TimeoutError):
        return TryAgainLaterError(f"{said} The store is out of reach.")
    return ConfigurationError(f"{said} {next((fix for kinds, fix in _FIXES if isinstance(error, kinds)), _OTHER_FIX)}")


_FIXES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (FileNotFoundError,),
        "Correct the path, or create the bucket or folder: on a remote store, none is made.",
    ),
    ((PermissionError,), "Allow the worker, or the account of the path's connection, to write and read there."),
    (
        (NotADirectoryError, FileExistsError, IsADirectoryError),
        "A file stands where a folder should be, or the reverse.",
    ),
    (
        (ValueError, ImportError),
        "Correct the scheme, or install the provider that brings it, such as apache-airflow-providers-amazon[s3fs].",
    ),
)
_OTHER_FIX = "Check the path, the connection that it names, and the store."


def _is_local(path: ObjectStoragePath) -> bool:
    return path.protocol in _LOCAL


def _json(text: str) -> bytes:
    return json.dumps(text).encode()


def _one_line(raw: bytes) -> bytes:
    """JSON is UTF-8 (RFC 8259), though `json` guesses at others; it may have line breaks only between its tokens."""
    try:
        json.loads(raw.decode())
    except (ValueError, RecursionError):
        return _json(raw.decode("utf-8", "replace"))
    return re.sub(rb"[\r\n]+", b" ", raw)


def _name(context: Mapping[str, Any]) -> str:
    """``dag/run/task.try1.jsonl``, with the map index of a mapped task; percent-encoded, so no two tasks share one."""
    ti = context["ti"]
    dag, run, task = (quote(part, safe="+-") for part in (ti.dag_id, ti.run_id, ti.task_id))
    index = f".map{ti.map_index}" if ti.map_index >= 0 else ""
    return f"{dag}/{run}/{task}{index}.try{ti.try_number}.jsonl"
