"""Write events and rows that can't be sent to files of JSON lines, and read the events again.

A file has two kinds of lines::

    {"reason": "refused_400", "event": {...}}                            an event that was not accepted
    {"reason": "malformed", "row": {...}, "problem": "Expected `int`"}   a row of Customer.io that made no event
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

from airflow.sdk import ObjectStoragePath

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import presentable

log = logging.getLogger(__name__)

#: Schemes of local paths.
_LOCAL = ("", "file", "local")
#: End of the name of a probe on a remote store.
_PROBE = ".probe"
#: Bytes of the longest part of a path that file systems allow.
_LONGEST_PART = 255
#: Tries to create a local file. Another task of the same run may remove the folders of its probe at the same time.
_TRIES = 20


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
        self._folder = _location("dead_letter_path", folder)
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
            if _is_local(self.path):
                _make_folder(Path(self._folder.path))
                _probe_local(Path(self.path.path))
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
                self._file = _create(self.path)
            self._file.write(line)
        except Exception as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> ConfigurationError | TryAgainLaterError:
        return _trouble("dead_letter_path", self._folder, "can't be written to", error)

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


def _create(path: ObjectStoragePath) -> IO[bytes]:
    """Create a file, or replace it. Create local folders, too."""
    if not _is_local(path):
        return path.open("wb")  # type: ignore[no-any-return,no-untyped-call]
    return _open_local(Path(path.path), "wb")


def _open_local(path: Path, mode: str) -> IO[bytes]:
    for left in reversed(range(_TRIES)):
        try:
            _make_folder(path.parent)
            return open(path, mode, buffering=0 if mode == "ab" else -1, opener=_for_its_owner)
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it, each for its owner only. Folders that are there stay as they are."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def _for_its_owner(path: str, flags: int) -> int:
    """Open a file that only its owner may read, and that is no symbolic link."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    with suppress(OSError):  # some file systems know no modes
        os.fchmod(descriptor, 0o600)
    return descriptor


def _probe_local(path: Path) -> None:
    """Write to a file, and undo it: cut the probe off, or remove the file and the folders of its run and DAG."""
    is_new = not os.path.lexists(path)
    try:
        with _open_local(path, "ab") as file:
            size = file.seek(0, os.SEEK_END)
            try:
                file.write(b"probe\n")
                os.fsync(file.fileno())
            finally:
                file.truncate(size)
    finally:
        if is_new:
            with suppress(FileNotFoundError):
                path.unlink()
            with suppress(OSError):  # they are not empty
                for above in path.parents[:2]:
                    above.rmdir()


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
    _location("dead_letter_path", folder)


def write_letters(folder: str, name: str, letters: Iterable[bytes]) -> None:
    """Write lines into a new file.

    :param name: unique path below the folder, with ``/`` between its parts.
    :raises ConfigurationError: the folder is wrong, or can't be written to.
    :raises TryAgainLaterError: the store is out of reach.
    """
    path = _location("dead_letter_path", folder) / name
    try:
        with _create(path) as file:
            file.writelines(letters)
    except Exception as error:  # each store has its own
        raise _trouble("dead_letter_path", folder, "can't be written to", error) from error


class EventsIn(Iterator[dict[str, Any]]):
    """Iterator over the events in dead letter files, returned by `events_in`."""

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
    """Return an absolute path, local or remote.

    :raises ConfigurationError: it is empty, relative, without a bucket, with credentials, or of an unknown scheme.
    """
    text = str(given).strip()
    if text in ("", "None"):
        raise ConfigurationError(
            f"{name} is {given!r}: probably a template that rendered to nothing. Set it to an absolute path, "
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
            f"{name} {text!r} is relative, but workers have different current folders. Make it absolute: "
            f"/path/to/{relative} or file:///path/to/{relative}"
        )
    if has_scheme and not rest_of_remote.strip("/") and scheme.lower() not in _LOCAL:
        raise ConfigurationError(f"{name} {text!r} names no bucket: {scheme}://conn_id@bucket/folder")
    try:
        return ObjectStoragePath(text)
    except ValueError as error:
        raise _trouble(name, text, "can't be used", error) from error


def _trouble(name: str, path: object, verb: str, error: Exception) -> ConfigurationError | TryAgainLaterError:
    """Return the error to raise for a store's exception, with its fix."""
    cause = ": ".join(filter(None, (type(error).__name__, presentable(str(error), ()))))
    problem = f"{name} {path} {verb}: {cause}."
    if isinstance(error, ConnectionError | TimeoutError):
        return TryAgainLaterError(f"{problem} The store is out of reach.")
    number = error.errno if isinstance(error, OSError) else None
    fix = _FIXES_BY_NUMBER.get(number or 0) or next(
        (fix for kinds, fix in _FIXES if isinstance(error, kinds)), _OTHER_FIX
    )
    return ConfigurationError(f"{problem} {fix}")


_FULL = "Free some space there, or set another path."
_FIXES_BY_NUMBER = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "Raise the greatest size of a file there, or set another path.",
    errno.ELOOP: "A symbolic link stands where the file should be, and is not followed: remove it.",
    errno.ENAMETOOLONG: "Set a shorter path.",
}
_FIXES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (FileNotFoundError,),
        "Correct the path, or create the bucket or folder: on a remote store, this provider creates none.",
    ),
    ((PermissionError,), "Allow the worker, or the account of the path's connection, to write and read there."),
    (
        (NotADirectoryError, FileExistsError, IsADirectoryError),
        "A file stands where a folder should be, or the reverse.",
    ),
    (
        (ValueError, ImportError),
        "Correct the scheme, or install the provider that supports it, such as apache-airflow-providers-amazon[s3fs].",
    ),
)
_OTHER_FIX = "Check the path, the connection that it names, and the store."


def _is_local(path: ObjectStoragePath) -> bool:
    return path.protocol in _LOCAL


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
