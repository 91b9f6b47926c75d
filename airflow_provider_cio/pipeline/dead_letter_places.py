"""Places for dead letters: absolute folders, local or remote, and the files in them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from airflow.sdk import ObjectStoragePath

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import safe_text

#: Schemes of local paths.
_LOCAL = ("", "file", "local")
#: Tries to create a local file. Another task of the same run may remove the folders of its probe at the same time.
_TRIES = 20


def location(name: str, given: object) -> ObjectStoragePath:
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
        raise store_error(name, text, "can't be used", error) from error


def store_error(name: str, path: object, verb: str, error: Exception) -> ConfigurationError | TryAgainLaterError:
    """Return the error to raise for a store's exception, with its fix."""
    cause = ": ".join(filter(None, (type(error).__name__, safe_text(str(error)))))
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


def is_local(path: ObjectStoragePath) -> bool:
    return path.protocol in _LOCAL


def files_at(path: ObjectStoragePath) -> tuple[ObjectStoragePath, list[str]]:
    try:
        if path.fs.isfile(path.path):
            return path, [path.path]
        if not path.fs.exists(path.path):
            raise FileNotFoundError("there is nothing at this path")
        return path, sorted(name for name in path.fs.find(path.path) if name.endswith(".jsonl"))
    except Exception as error:
        raise store_error("path", path, "can't be read", error) from error


def create(path: ObjectStoragePath) -> IO[bytes]:
    """Create a file, or replace it. Create local folders, too."""
    if not is_local(path):
        return path.open("wb")  # type: ignore[no-any-return,no-untyped-call]
    return _open_local(Path(path.path), "wb")


def _open_local(path: Path, mode: str) -> IO[bytes]:
    for left in reversed(range(_TRIES)):
        try:
            make_folder(path.parent)
            return open(path, mode, buffering=0 if mode == "ab" else -1, opener=_for_its_owner)
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, each for its owner only. Folders that are there stay as they are."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def _for_its_owner(path: str, flags: int) -> int:
    """Open a file that only its owner may read, and that is no symbolic link."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    with suppress(OSError):  # some file systems know no modes
        os.fchmod(descriptor, 0o600)
    return descriptor


def probe_local(path: Path) -> None:
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
