"""Rows that wait on the local disk for the next load."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import IO

from airflow_provider_cio.exceptions import TryAgainLaterError


class Spool:
    """One file for each table. The files have no name, so nothing is left of them however the process ends.

    :raises TryAgainLaterError: from any method, the disk can't take it.
    """

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes]] = {}
        self._open = ExitStack()
        #: Bytes, of all files.
        self.size = 0
        self.rows = 0

    def add(self, table: str, lines: bytes, rows: int) -> None:
        try:
            if table not in self._files:
                self._files[table] = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            self._files[table].write(lines)
        except OSError as error:
            raise _full(error) from error
        self.size += len(lines)
        self.rows += rows

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        """The tables that have rows, each with its file, which is read from its beginning."""
        for table, file in sorted(self._files.items()):
            try:
                file.flush()
            except OSError as error:
                raise _full(error) from error
            file.seek(0)
            yield table, file

    def clear(self) -> None:
        with suppress(OSError):  # closing writes what a full disk has not taken
            self._open.close()
        self._files = {}
        self.size = self.rows = 0


def _full(error: OSError) -> TryAgainLaterError:
    return TryAgainLaterError(
        f"Rows that wait for the warehouse can't be written to {tempfile.gettempdir()}: {error.strerror}. Make room "
        "there, or set TMPDIR to another folder"
    )
