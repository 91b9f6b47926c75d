"""Keep rows on the local disk until the next load."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import IO

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError


class Spool:
    """Rows on the local disk, one file for each table. The files have no name, so they vanish with the process.

    :raises TryAgainLaterError: from `add` and `files`, when the disk is full or read-only.
    """

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes]] = {}
        self._open_files = ExitStack()
        #: Bytes in all files.
        self.size = 0
        #: Rows in all files.
        self.rows = 0

    def add(self, table: str, lines: bytes, rows: int) -> None:
        """Append lines to the file of a table.

        :param rows: number of rows in `lines`; a text may contain line breaks, so it can be less than the lines.
        """
        try:
            if table not in self._files:
                self._files[table] = self._open_files.enter_context(temporary_file())
            self._files[table].write(lines)
        except OSError as error:
            raise write_error(error) from error
        self.size += len(lines)
        self.rows += rows

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield each table that has rows, by name, with its file at its beginning."""
        for table, file in sorted(self._files.items()):
            try:
                file.flush()
            except OSError as error:
                raise write_error(error) from error
            file.seek(0)
            yield table, file

    def clear(self) -> None:
        """Drop all rows. The spool can be filled again."""
        with suppress(OSError):  # closing writes the buffer, which a full disk refuses
            self._open_files.close()
        self._files = {}
        self.size = self.rows = 0


def temporary_file() -> IO[bytes]:
    """Open a file without a name.

    :raises ConfigurationError: there is no folder for it. Python would fall back to another one than TMPDIR, which may
        have less room.
    :raises TryAgainLaterError: the folder's disk is full or read-only.
    """
    asked = os.environ.get("TMPDIR")
    if asked and not os.path.isdir(asked):
        raise ConfigurationError(
            f"TMPDIR is {asked}, and there is no such folder on the worker: create it, or unset TMPDIR"
        )
    try:
        return tempfile.TemporaryFile()
    except FileNotFoundError as error:  # no folder can be written to, or it was removed after the start
        raise ConfigurationError(
            f"there is no folder for temporary files ({error.filename or tempfile.tempdir or 'none can be used'}): "
            "create it, or set TMPDIR to another one"
        ) from error
    except OSError as error:
        raise write_error(error) from error


def write_error(error: OSError) -> TryAgainLaterError:
    """Return the error for rows that can't be written to the disk."""
    return TryAgainLaterError(
        f"Rows for the warehouse can't be written to {tempfile.gettempdir()}: {error.strerror}. Make room there, or "
        "set TMPDIR to another folder"
    )
