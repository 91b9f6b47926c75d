"""Events that can't be sent, kept aside as JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, Self
from urllib.parse import quote

from airflow.sdk import ObjectStoragePath


class DeadLetters:
    """A file for one run and try, made when its first line comes: ``{"reason": ..., "event": {...}}``.

    It holds events in full, personal data included, and it is whole once it is closed.

    :param folder: local or remote (``s3://conn_id@bucket/folder``).
    """

    def __init__(self, folder: str, context: Mapping[str, Any]) -> None:
        self.path = ObjectStoragePath(folder) / _name(context)
        self._file: IO[bytes] | None = None

    def write(self, reason: str, event: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")  # type: ignore[no-untyped-call]
        self._file.write(b'{"reason":"%b","event":%b}\n' % (reason.encode(), event))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _name(context: Mapping[str, Any]) -> str:
    """``dag/run/task.try1.jsonl``, with the map index of a mapped task; percent-encoded, so no two tasks share one."""
    ti = context["ti"]
    dag, run, task = (quote(part, safe="+-") for part in (ti.dag_id, ti.run_id, ti.task_id))
    index = f".map{ti.map_index}" if ti.map_index >= 0 else ""
    return f"{dag}/{run}/{task}{index}.try{ti.try_number}.jsonl"
