"""Refused events, and unidentified people's, go to a file, or the task fails at its end."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import resource
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.io import store as stores
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError, TryAgainLaterError
from airflow_provider_cio.hooks.segment import SegmentHook
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.pipeline.dead_letters import DeadLetters, events_in, write_letters
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, small_pages, truth_of

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
HISTORY = History.generate(seed=5, deliveries=2500, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)
UNIDENTIFIED = [row for row in truth_of(HISTORY, INTERVAL) if not (row["user_id"] or row["anonymous_id"])]
assert UNIDENTIFIED
KEYS = {"interval", "read", "events", "sent", "skipped", "ages"}


def row(number: int, **fields: Any) -> dict[str, Any]:
    shared = {"type": "email", "created": NOVEMBER + number, "customer_id": "1", "subject": "fine"}
    return {"id": f"d{number}", "metrics": {"opened": NOVEMBER + 5000}} | shared | fields


POISONED = History(deliveries=[row(n, subject="POISON" if n in {3, 77} else "fine") for n in range(200)])
MIXED_ROWS = [
    *(row(n) for n in range(20)),
    row(20, subject="POISON"),
    row(21, subject="x" * 40_000),
    row(22, customer_id=None, recipient="nobody"),
]
MIXED = History(deliveries=MIXED_ROWS)


SETTINGS = Settings(refuse_containing="POISON")


def run(try_number: int = 1, *, run_id: str = "scheduled__2026-11-01T00:00:00+00:00", **parameters: Any) -> Any:
    """Run the operator and return its result; the file is named after `ti`."""
    map_index = parameters.pop("map_index", -1)
    ti = SimpleNamespace(dag_id="daily", run_id=run_id, task_id="send", map_index=map_index, try_number=try_number)
    context: Any = {
        "ti": ti,
        "data_interval_start": pendulum.from_timestamp(INTERVAL.start),
        "data_interval_end": pendulum.from_timestamp(INTERVAL.end),
    }
    return CustomerIOToSegmentOperator(task_id="send", **parameters).execute(context)


def letters(path: Path | str) -> list[tuple[str, str]]:
    """Return (reason, delivery id) of each line."""
    found = []
    for line in Path(path).read_text().splitlines():
        letter = json.loads(line)
        assert set(letter) == {"reason", "event"}
        assert letter["event"]["type"] == "track"
        assert letter["event"]["messageId"].startswith("cio-")
        found.append((letter["reason"], letter["event"]["properties"]["delivery_id"]))
    return found


# The file


def test_refused_events_are_kept(sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sandbox.history = POISONED
    folder = tmp_path / "dead" / "letters"
    result = run(dead_letter_path=str(folder))
    assert set(result) == KEYS | {"dead_letters"}
    assert json.loads(json.dumps(result)) == result
    (file,) = folder.rglob("*.jsonl")
    assert result["dead_letters"]["events"] == {"refused_400": 2}
    assert result["dead_letters"]["path"].endswith(str(file))
    assert sorted(letters(file)) == [("refused_400", "d3"), ("refused_400", "d77")]
    assert result["sent"]["events"] == result["events"]["Email Opened"] == len(sandbox.segment.kept) == 198
    said = "".join(capfd.readouterr())
    assert "warning" in said.lower()
    assert "refused_400: 2 (first ids: d77, d3)" in said or "refused_400: 2 (first ids: d3, d77)" in said
    assert str(file) in said


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_file_has_every_reason(sandbox: Sandbox, tmp_path: Path, scheme: str) -> None:
    sandbox.history = MIXED
    result = run(dead_letter_path=f"{scheme}{tmp_path}", on_unidentified="dead_letter")
    (file,) = tmp_path.rglob("*.jsonl")
    assert sorted(letters(file)) == [("event_too_large", "d21"), ("refused_400", "d20"), ("unidentified", "d22")]
    assert result["dead_letters"]["events"] == {"event_too_large": 1, "refused_400": 1, "unidentified": 1}
    assert result["skipped"] == {}
    assert result["sent"]["events"] == 20


def test_no_refusal_makes_no_file(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(dead_letter_path=str(tmp_path / "none"))
    assert set(result) == KEYS
    assert list((tmp_path / "none").rglob("*")) == []
    assert_kept_is_truth(sandbox, INTERVAL)


def test_each_run_and_try_has_its_file(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.history = POISONED
    runs: list[dict[str, Any]] = [
        {},
        {"try_number": 2},
        {"run_id": "manual/../../2026 ü"},
        {"map_index": 0},
        {"map_index": 1, "try_number": 2},
    ]
    for one in runs:
        run(dead_letter_path=str(tmp_path), **one)
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jsonl"))
    assert len(files) == len(runs)
    assert all(len(letters(tmp_path / name)) == 2 for name in files)
    assert "daily/scheduled__2026-11-01T00%3A00%3A00+00%3A00/send.try1.jsonl" in files
    assert "daily/scheduled__2026-11-01T00%3A00%3A00+00%3A00/send.try2.jsonl" in files
    assert "daily/scheduled__2026-11-01T00%3A00%3A00+00%3A00/send.map1.try2.jsonl" in files


def test_failed_try_leaves_whole_file(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_cio.pipeline import pipeline as line
    from airflow_provider_cio.segment import batches as segment

    small_pages(monkeypatch, 10)
    monkeypatch.setattr(segment, "MAX_BATCH_EVENTS", 10)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    sandbox.history = POISONED
    sandbox.settings = Settings(refuse_containing="POISON", latency=0.01)
    sandbox.faults.add(Fault(side="customerio", kind="429", at=19, times=1000, retry_after=100_000))
    with pytest.raises(TryAgainLaterError):
        run(dead_letter_path=str(tmp_path))
    for file in tmp_path.rglob("*.jsonl"):
        assert {reason for reason, _ in letters(file)} == {"refused_400"}
    sandbox.faults.clear()
    run(2, dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*try2.jsonl")
    assert sorted(letters(file)) == [("refused_400", "d3"), ("refused_400", "d77")]


def test_the_path_is_templated(tmp_path: Path) -> None:
    task = CustomerIOToSegmentOperator(task_id="send", dead_letter_path=f"{tmp_path}/{{{{ ds }}}}")
    context: Any = {"ds": "2026-11-01"}
    task.render_template_fields(context)
    assert task.dead_letter_path == f"{tmp_path}/2026-11-01"


# The file alone, local and remote

CONTEXT: dict[str, Any] = {
    "ti": SimpleNamespace(dag_id="daily", run_id="manual 1", task_id="send", map_index=-1, try_number=1)
}
FILE = "daily/manual%201/send.try1.jsonl"


class Upload(io.BytesIO):
    """Object of a store, which exists once it is closed."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self._put = (store, path)

    def close(self) -> None:
        store, path = self._put
        if not self.closed:
            data = self.getvalue()
            super().close()
            store.put_object(path, data)


class Store(MemoryFileSystem):  # type: ignore[misc]
    """Object store with one bucket, which notes everything else that it is asked to make."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.made: list[str] = []
        self.put: list[str] = []
        self.broken: Exception | None = None
        self.deletes: Exception | None = None

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return Upload(self, path) if mode == "wb" else super()._open(path, mode, **options)

    def put_object(self, path: str, data: bytes) -> None:
        if self.broken:
            raise self.broken
        if not path.startswith("/bucket/"):
            raise FileNotFoundError("The specified bucket does not exist")
        self.put.append(path)
        self.store[path] = MemoryFile(self, path, data)

    def _rm(self, path: str) -> None:
        if self.deletes:
            raise self.deletes
        del self.store[path]

    rm_file = _rm

    def objects(self) -> dict[str, bytes]:
        return {path: file.getvalue() for path, file in self.store.items()}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """Replace the store behind ``memory://``, with and without a connection."""
    store = Store()
    for make in ("mkdir", "makedirs"):  # Airflow's paths ask another instance where they have no connection
        monkeypatch.setattr(MemoryFileSystem, make, lambda self, path, *args, **options: store.made.append(path))
    for conn_id in (None, "my_store"):
        alias = f"memory-{conn_id}" if conn_id else "memory"
        monkeypatch.setitem(stores._STORE_CACHE, alias, stores.ObjectStore("memory", conn_id, store))
    return store


@pytest.fixture(params=["local", "file", "remote", "remote with a connection"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, store: Store) -> str:
    return {
        "local": f"{tmp_path}/dead/letters",
        "file": f"file://{tmp_path}/dead/letters",
        "remote": "memory://bucket/dead/letters",
        "remote with a connection": "memory://my_store@bucket/dead/letters",
    }[request.param]


def content_of(letters: DeadLetters) -> bytes:
    with letters.path.fs.open(letters.path.path, "rb") as file:
        return bytes(file.read())


def lines_of(letters: DeadLetters) -> list[Any]:
    content = content_of(letters)
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def test_closed_file_is_whole(folder: str) -> None:
    with DeadLetters(folder, CONTEXT) as kept:
        kept.write("refused_400", b'{"a":1}')
        kept.write("refused_413", b'{"a":2}')
    assert str(kept.path).endswith(f"bucket/dead/letters/{FILE}" if "memory" in folder else f"{folder}/{FILE}")
    assert content_of(kept) == (b'{"reason":"refused_400","event":{"a":1}}\n{"reason":"refused_413","event":{"a":2}}\n')


def test_file_is_closed_on_every_exit(folder: str) -> None:
    kept = DeadLetters(folder, CONTEXT)

    def killed() -> None:
        with kept:
            kept.write("refused_400", b'{"a":1}')
            raise SystemExit

    with pytest.raises(SystemExit):
        killed()
    assert lines_of(kept) == [{"reason": "refused_400", "event": {"a": 1}}]


@pytest.mark.parametrize(
    ("raw", "row"),
    [
        (b'{"id": "d1", "metrics": null}', {"id": "d1", "metrics": None}),
        (b'{\n  "id": "d1",\r\n  "subject": "a\\nb"\n}', {"id": "d1", "subject": "a\nb"}),
        ('{"subject": "Größe \u2028 ✗"}'.encode(), {"subject": "Größe \u2028 ✗"}),
        (b'{"subject": "\\ud83d"}', {"subject": "\ud83d"}),
        (b"7", 7),
        (b'{"id": ', '{"id": '),
        (b"\xff\n", "\ufffd\n"),
        ("6".encode("utf-16-le"), "6\0"),
        (b"\xef\xbb\xbf7", "\ufeff7"),
        (b"", ""),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_row_is_kept_on_one_line(folder: str, raw: bytes, row: Any) -> None:
    with DeadLetters(folder, CONTEXT) as kept:
        kept.write_row("malformed", raw, 'Expected `int`, got "a\nb"')
        kept.write("refused_400", b'{"a":1}')
    problem = 'Expected `int`, got "a\nb"'
    assert lines_of(kept) == [
        {"reason": "malformed", "row": row, "problem": problem},
        {"reason": "refused_400", "event": {"a": 1}},
    ]


@pytest.mark.parametrize("bucket", ["bucket", "my_store@bucket"])
def test_remote_store_gets_one_file(store: Store, bucket: str) -> None:
    with DeadLetters(f"memory://{bucket}/a/b", CONTEXT) as kept:
        kept.check()
        kept.write("refused_400", b"{}")
    assert store.made == []
    assert list(store.objects()) == [f"/bucket/a/b/{FILE}"]


def test_a_mistyped_bucket_is_not_made(store: Store) -> None:
    kept = DeadLetters("memory://bukcet/a", CONTEXT)
    with pytest.raises(ConfigurationError, match="bucket does not exist. Correct the path"), kept:
        kept.write("refused_400", b"{}")
    assert (store.made, store.objects()) == ([], {})


def test_an_error_that_is_under_way_is_not_replaced(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def away() -> None:
        with DeadLetters("memory://bukcet/a", CONTEXT) as kept:
            kept.write("refused_400", b"{}")
            raise TryAgainLaterError("away")

    with pytest.raises(TryAgainLaterError, match="away"):
        away()
    assert "can't be written to: FileNotFoundError" in caplog.text


# Its name


def named(**ids: Any) -> str:
    """Return the path of a file below its folder."""
    ti = SimpleNamespace(**vars(CONTEXT["ti"]) | ids)
    return str(DeadLetters("/letters", {"ti": ti}).path).removeprefix("file://").removeprefix("/letters/")


@pytest.mark.parametrize("odd", [".", "..", "a/../b", "../..", "/", "%2E", "ü" * 250, "x" * 250, "a" * 2000])
@pytest.mark.parametrize("name", ["dag_id", "run_id", "task_id"])
def test_a_file_stays_in_its_folder(tmp_path: Path, name: str, odd: str) -> None:
    ti = SimpleNamespace(**vars(CONTEXT["ti"]) | {name: odd, "map_index": 123_456, "try_number": 100})
    with DeadLetters(str(tmp_path), {"ti": ti}) as kept:
        kept.check()
        kept.write("refused_400", b"{}")
    [file] = tmp_path.rglob("*.jsonl")
    assert len(file.relative_to(tmp_path).parts) == 3
    assert max(len(os.fsencode(part)) for part in file.parts) <= 255
    assert file.name.endswith(".map123456.try100.jsonl")


ids = st.text(alphabet="ab./%=é", min_size=1, max_size=4) | st.sampled_from(
    [".", "..", "%2E", "send", "send.map1", "x" * 249, "x" * 250, "x" * 300, "x" * 299 + "y"]
)
tries = st.tuples(ids, ids, ids, st.sampled_from([-1, 0, 1]), st.sampled_from([1, 11]))


@given(tries, tries)
@example(("x" * 299 + "y", "r", "t", -1, 1), ("x" * 300, "r", "t", -1, 1))
def test_no_two_tries_share_a_file(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    fields = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    names = [named(**dict(zip(fields, each, strict=True))) for each in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert all(name.count("/") == 2 and not {".", "..", ""} & {*name.split("/")} for name in names)


def test_a_task_is_not_taken_for_a_mapped_one() -> None:
    assert named(task_id="send.map1") != named(task_id="send", map_index=1)


# On a local disk


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_may_read_a_local_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for folder in (tmp_path / "new" / "deep", tmp_path):
            DeadLetters(str(folder), CONTEXT).check()
            with DeadLetters(str(folder), CONTEXT) as kept:
                kept.write("refused_400", b"{}")
        write_letters(str(tmp_path), "stream/main/2026-11-01/1.jsonl", [b"{}\n"])
    finally:
        os.umask(before)
    made = list(tmp_path.rglob("*"))
    assert {mode_of(path) for path in made if path.is_file()} == {0o600}
    assert {mode_of(path) for path in made if path.is_dir()} == {0o700}
    assert len(made) == 2 + 3 * 3 + 1


def test_a_new_file_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is right from its creation on, not only after it is changed."""

    def refused(descriptor: int, mode: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refused)
    before = os.umask(0)
    try:
        with DeadLetters(str(tmp_path), CONTEXT) as kept:
            kept.write("refused_400", b"{}")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / FILE) == 0o600


def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.parent.mkdir(parents=True)
    file.touch(0o644)
    with DeadLetters(str(tmp_path), CONTEXT) as kept:
        kept.write("refused_400", b"{}")
    assert mode_of(file) == 0o600


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "letters" / FILE
    elsewhere.write_text("mine")
    file.parent.mkdir(parents=True)
    file.symlink_to(elsewhere)
    kept = DeadLetters(str(tmp_path / "letters"), CONTEXT)
    for attempt in (kept.check, lambda: kept.write("refused_400", b"{}")):
        with pytest.raises(ConfigurationError, match=r"dead_letter_path .*/letters can't .* A symbolic link .* remove"):
            attempt()
    assert (elsewhere.read_text(), file.is_symlink()) == ("mine", True)
    with pytest.raises(ConfigurationError, match="A symbolic link"):
        write_letters(str(tmp_path / "letters"), FILE, [b"{}"])


def test_a_folder_where_the_file_should_be_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir(parents=True)
    kept = DeadLetters(str(tmp_path), CONTEXT)
    for attempt in (kept.check, lambda: kept.write("refused_400", b"{}")):
        with pytest.raises(
            ConfigurationError, match="dead_letter_path .* can't be written to: .* A file stands where a"
        ):
            attempt()


def test_a_file_in_place_of_the_folder_of_a_dag_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "daily").touch()
    with pytest.raises(ConfigurationError, match="A file stands where a folder should be"):
        DeadLetters(str(tmp_path), CONTEXT).check()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file become larger: as on a full disk, a write ends early or fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_found_at_the_start(tmp_path: Path) -> None:
    kept = DeadLetters(str(tmp_path), CONTEXT)
    with largest_file(0), pytest.raises(ConfigurationError, match="can't be written to: .* or set another path"):
        kept.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1, 100_000], ids=["at its end", "at once"])
def test_a_disk_that_gets_full_is_named(tmp_path: Path, size: int) -> None:
    """A short event is written only when the file is closed."""
    kept = DeadLetters(str(tmp_path), CONTEXT)
    kept.check()
    message = rf"dead_letter_path (file://)?{tmp_path} can't be written to: .*File too large. Raise .* set another path"
    with largest_file(10), pytest.raises(ConfigurationError, match=message), kept:
        kept.write("refused_400", b'"%b"' % (b"x" * size))


def test_probes_of_many_tasks_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each probe removes the folder of the run that it has made, if it is empty."""

    def task(number: int) -> None:
        ti = SimpleNamespace(**vars(CONTEXT["ti"]) | {"map_index": number})
        for _ in range(20):
            DeadLetters(str(tmp_path), {"ti": ti}).check()
        with DeadLetters(str(tmp_path), {"ti": ti}) as kept:
            kept.write("refused_400", b"{}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(task, range(8)))
    assert len(list(tmp_path.rglob("*.jsonl"))) == 8


# The check before a run


def test_check_leaves_nothing_behind(folder: str, store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        DeadLetters(folder, CONTEXT).check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert (store.made, store.objects()) == ([], {})
    if folder.startswith("memory"):
        assert store.put == [f"/bucket/dead/letters/{FILE}.probe"] * 2
    else:
        assert (tmp_path / "dead" / "letters").is_dir()


def test_check_keeps_existing_files(folder: str) -> None:
    with DeadLetters(folder, CONTEXT) as kept:
        kept.write("refused_400", b"{}")
    DeadLetters(folder, CONTEXT).check()
    assert len(lines_of(kept)) == 1


@pytest.mark.parametrize(
    ("broken", "raised", "said"),
    [
        (PermissionError("Forbidden"), ConfigurationError, "PermissionError: Forbidden. Allow the worker"),
        (FileNotFoundError("no such bucket"), ConfigurationError, "no such bucket. Correct the path, or create"),
        (ImportError("Install s3fs"), ConfigurationError, "ImportError: Install s3fs. Correct the scheme, or install"),
        (
            OSError(28, "No space left"),
            ConfigurationError,
            "No space left. Free some space there, or set another path.",
        ),
        (OSError(122, "Quota"), ConfigurationError, "Quota. Free some space there, or set another path."),
        (OSError(36, "Too long"), ConfigurationError, "Too long. Set a shorter path."),
        (OSError("odd"), ConfigurationError, "OSError: odd. Check the path, the connection"),
        (KeyError(), ConfigurationError, "KeyError. Check the path"),
        (RuntimeError("of jane.doe@example.com\nand more"), ConfigurationError, "of <address> and more."),
        (TimeoutError("too slow"), TryAgainLaterError, "TimeoutError: too slow. The store is out of reach."),
        (ConnectionResetError("gone"), TryAgainLaterError, "ConnectionResetError: gone. The store is out of reach."),
    ],
)
def test_unwritable_store_is_named(store: Store, broken: Exception, raised: type[Exception], said: str) -> None:
    store.broken = broken
    with pytest.raises(raised) as caught:
        DeadLetters("memory://bucket/a", CONTEXT).check()
    assert re.match("dead_letter_path memory:///?bucket/a can't be written to: ", str(caught.value))
    assert said in str(caught.value)
    assert store.objects() == {}


def test_undeletable_probe_is_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.deletes = PermissionError("AccessDenied")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            DeadLetters("memory://bucket/a", CONTEXT).check()
    assert list(store.objects()) == [f"/bucket/a/{FILE}.probe"]
    stays = f"bucket/a/{FILE}.probe stays (PermissionError)"
    assert re.search(f"the probe memory:///?{re.escape(stays)}", caplog.text)


def test_deleted_probe_is_no_problem(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.deletes = FileNotFoundError("gone")
    DeadLetters("memory://bucket/a", CONTEXT).check()
    assert caplog.text == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match=r"can't be written to: PermissionError.* Allow the worker"):
        DeadLetters(str(tmp_path), CONTEXT).check()


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_file_in_place_of_the_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="A file stands where a folder should be"):
        DeadLetters(f"{tmp_path}/file{below}", CONTEXT).check()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "dead_letter_path is '': probably a template that rendered to nothing"),
        (" \n", "rendered to nothing"),
        ("None", "rendered to nothing"),
        (" None ", "rendered to nothing"),
        (None, "rendered to nothing"),
        ("letters", "'letters' is relative.* /path/to/letters or file:///path/to/letters"),
        ("./letters", "is relative"),
        ("../letters", "is relative"),
        ("~/letters", "is relative"),
        ("file://letters/x", "is relative.* file:///path/to/letters/x"),
        ("file:letters", "is relative"),
        ("s3:/bucket", "is relative"),
        ("memory://", "names no bucket: memory://conn_id@bucket/folder"),
        ("memory://my_store@", "names no bucket"),
        ("s3:///", "names no bucket"),
        ("nope://bucket/x", "dead_letter_path nope:///?bucket/x can't be .*: ValueError: .*nope.* Correct the scheme"),
    ],
)
def test_unclear_path_is_refused(
    path: Any, said: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=said):
        DeadLetters(path, CONTEXT).check()
    assert (list(tmp_path.iterdir()), store.objects(), store.made) == ([], {}, [])


def test_credentials_in_path_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="s3://conn_id@bucket/x") as caught:
        DeadLetters("s3://AKIA1:secret@bucket/x", CONTEXT)
    assert not any(word in str(caught.value) for word in ("AKIA1", "secret"))


def test_unknown_store(tmp_path: Path) -> None:
    """The store is unknown as S3 is without Amazon's provider."""
    with pytest.raises(ConfigurationError, match="dead_letter_path github://bucket/x .*Correct the scheme, or install"):
        DeadLetters("github://bucket/x", CONTEXT).check()


# Reading them again


def keep(folder: str, try_number: int, *events: int, rows: int = 0) -> DeadLetters:
    ti = SimpleNamespace(**vars(CONTEXT["ti"]) | {"try_number": try_number})
    with DeadLetters(folder, {"ti": ti}) as letters:
        for number in events:
            letters.write("refused_400", json.dumps({"type": "track", "messageId": f"cio-{number}"}).encode())
        for _ in range(rows):
            letters.write_row("malformed", b'{"event": {"messageId": "no event"}}', "odd")
    return letters


def test_events_of_a_folder(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    keep(folder, 1, 1, 2, rows=2)
    keep(folder, 2, 3)
    keep(folder, 3, rows=1)
    keep(f"{folder}/deeper", 1, 4)
    events = events_in(folder)
    assert [event["messageId"] for event in events] == ["cio-1", "cio-2", "cio-3", "cio-4"]
    assert (events.files, events.events, events.rows, events.unreadable) == (4, 4, 3, 0)
    assert "3 lines hold rows" in caplog.text
    assert [event["messageId"] for event in events_in(f"{folder}/deeper")] == ["cio-4"]


def test_events_of_a_file(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = keep(folder, 1, 1, 2)
    keep(folder, 2, 3)
    events = events_in(str(kept.path))
    assert list(events) == [{"type": "track", "messageId": "cio-1"}, {"type": "track", "messageId": "cio-2"}]
    assert (events.files, events.events, events.rows) == (1, 2, 0)
    assert caplog.text == ""


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    kept = keep(str(tmp_path), 1, 1)
    (tmp_path / "notes.txt").write_text("mine")
    with Path(str(kept.path)).open("ab") as file:
        file.write(b'\n  \n[]\n7\n{"reason":"x"}\n{"event":7}\n\xff\n' + b"[" * 100_000 + b'\n{"reason":"ref')
    events = events_in(str(tmp_path))
    assert [event["messageId"] for event in events] == ["cio-1"]
    assert (events.files, events.rows, events.unreadable) == (1, 0, 7)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=3), max_size=4))
def test_written_events_are_read_back(tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]) -> None:
    folder = str(tmp_path_factory.mktemp("letters"))
    with DeadLetters(folder, CONTEXT) as letters:
        for event in written:
            letters.write("a\nreason", json.dumps(event).encode())
            letters.write_row("malformed", json.dumps(event, indent=1).encode(), "odd")
    events = events_in(folder)
    assert list(events) == written
    assert (events.rows, events.unreadable) == (len(written), 0)


def test_an_empty_folder_has_no_events(tmp_path: Path) -> None:
    assert list(events_in(str(tmp_path))) == []


def test_nothing_at_the_path(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="path .* can't be read: FileNotFoundError: there is nothing"):
        events_in(folder)


def test_the_docs_send_unidentified_as_cio_id_does(sandbox: Sandbox, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "operator.md").read_text()
    (code,) = re.findall(r"^```python\n((?:(?!```).)*?def send_unidentified.*?)^```$", page, re.M | re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    run(on_unidentified="dead_letter", dead_letter_path=str(tmp_path))
    before = len(sandbox.segment.kept)
    found["send_unidentified"].function(str(tmp_path))
    sent = people(sandbox)
    assert len(sent) > before
    sandbox.reset()
    run(on_unidentified="cio_id")
    assert people(sandbox) == sent


def people(sandbox: Sandbox) -> dict[str, tuple[Any, Any]]:
    return {event["messageId"]: (event.get("userId"), event.get("anonymousId")) for event in sandbox.segment.kept}


@pytest.mark.parametrize("path", ["", "None", "letters"])
def test_unclear_path_to_read(path: str) -> None:
    with pytest.raises(ConfigurationError, match="^path "):
        events_in(path)


# Without one


def test_no_path_fails_the_task(sandbox: Sandbox) -> None:
    sandbox.history = MIXED
    with pytest.raises(AirflowFailException) as caught:
        run()
    said = str(caught.value)
    assert said.startswith("2 events or rows can't be sent, all others were: ")
    assert "event_too_large: 1 (first ids: d21)" in said
    assert "refused_400: 1 (first ids: d20)" in said
    assert "answered 400: Bad Request" in said
    assert "dead_letter_path" in said
    assert len(sandbox.segment.kept) == 20


def test_reasons_are_explained(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[row(1), row(2, subject="POISON"), row(3) | {"customer_identifiers": 7}])
    with pytest.raises(AirflowFailException) as caught:
        run()
    said = str(caught.value)
    assert re.search(r"malformed: 1 \(first ids: d3\): .*got `int`.*customer_identifiers", said)
    assert re.search(r"refused_400: 1 \(first ids: d2\): .*answered 400: Bad Request", said)


def test_only_the_first_ids_are_named(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[row(n, subject="POISON" if n % 20 == 0 else "fine") for n in range(200)])
    with pytest.raises(AirflowFailException, match=r"refused_400: 10 \(first ids: (d\d+, ){4}d\d+\)"):
        run()
    assert len(sandbox.segment.kept) == 190


# Unidentified people


def test_unidentified_skip_is_the_default(sandbox: Sandbox, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{}, {"on_unidentified": "skip"}, {"dead_letter_path": str(tmp_path)}]
    for parameters in ways:
        sandbox.reset()
        result = run(**parameters)
        assert result["skipped"] == {"unidentified": len(UNIDENTIFIED)} != {"unidentified": 0}
        assert set(result) == KEYS
        assert_kept_is_truth(sandbox, INTERVAL)
    assert list(tmp_path.iterdir()) == []


def test_unidentified_dead_letter(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(on_unidentified="dead_letter", dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*.jsonl")
    assert sorted(letters(file)) == sorted(("unidentified", row["delivery_id"]) for row in UNIDENTIFIED)
    assert result["dead_letters"]["events"] == {"unidentified": len(UNIDENTIFIED)}
    assert result["skipped"] == {}
    assert_kept_is_truth(sandbox, INTERVAL)


def test_unidentified_fail(sandbox: Sandbox) -> None:
    named = rf"unidentified: {len(UNIDENTIFIED)} \(first ids: "
    with pytest.raises(AirflowFailException, match=named):
        run(on_unidentified="fail")
    assert_kept_is_truth(sandbox, INTERVAL)


def test_unidentified_fail_with_a_path(sandbox: Sandbox, tmp_path: Path) -> None:
    """Other events go to the file and the task succeeds; for unidentified people the user has asked for failure."""
    with pytest.raises(AirflowFailException, match=f"unidentified: {len(UNIDENTIFIED)} "):
        run(on_unidentified="fail", dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*.jsonl")
    assert len(letters(file)) == len(UNIDENTIFIED)
    sandbox.history = POISONED
    assert run(on_unidentified="fail", dead_letter_path=str(tmp_path))["dead_letters"]["events"] == {"refused_400": 2}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"on_unidentified": "drop"}, "on_unidentified must be one of 'skip', 'cio_id', 'dead_letter', 'fail'"),
        ({"on_unidentified": None}, "on_unidentified must be one of"),
        ({"on_unidentified": "dead_letter"}, "on_unidentified='dead_letter' needs dead_letter_path"),
    ],
)
def test_wrong_parameters_at_parse(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CustomerIOToSegmentOperator(task_id="send", **parameters)


def test_dead_letters_are_sent_again(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sandbox.history = POISONED
    sandbox.settings = Settings(refuse_containing="POISON")
    result = run(dead_letter_path=str(tmp_path))
    before = len(sandbox.segment.kept)
    sandbox.settings = Settings()  # the receiver was mended
    events = events_in(str(tmp_path))
    sent = SegmentHook().track(events)
    assert sent["events"] == events.events == sum(result["dead_letters"]["events"].values()) == 2
    assert len(sandbox.segment.kept) == before + 2
    SegmentHook().track(events_in(str(tmp_path)))
    assert len(sandbox.segment.duplicates) == 2
    assert len({event["messageId"] for event in sandbox.segment.kept}) == before + 2


def test_resending_names_refused_letters(sandbox: Sandbox, tmp_path: Path) -> None:
    """A row that made no event is left out."""
    odd = row(30, customer_id={"odd": 1})
    sandbox.history = History(deliveries=[*MIXED_ROWS, odd])
    result = run(dead_letter_path=str(tmp_path), on_unidentified="dead_letter")
    assert result["dead_letters"]["events"] == {
        "event_too_large": 1,
        "refused_400": 1,
        "unidentified": 1,
        "malformed": 1,
    }
    sandbox.settings = Settings()
    (file,) = tmp_path.rglob("*.jsonl")
    again = [letter for letter in map(json.loads, file.read_text().splitlines()) if "event" in letter]
    id_of = {letter["reason"]: letter["event"]["messageId"] for letter in again}
    for duplicates in (0, 1):
        events = events_in(str(file))
        with pytest.raises(EventsRefusedError, match="^2 events can't be sent, all others were") as caught:
            SegmentHook().track(events)
        assert (events.events, events.rows) == (3, 1)
        assert f"event_too_large: 1 (first messageIds: {id_of['event_too_large']})" in str(caught.value)
        assert f"unidentified: 1 (first messageIds: {id_of['unidentified']})" in str(caught.value)
        assert "d20" in [event["properties"]["delivery_id"] for event in sandbox.segment.kept]
        assert len(sandbox.segment.kept) == 21
        assert [event["messageId"] for event in sandbox.segment.duplicates] == [id_of["refused_400"]] * duplicates


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        ({"messageId": "m", "userId": "1"}, ConfigurationError, "Event 1 .*'event'"),
        (7, ConfigurationError, "Event 1 .*can't be encoded as JSON"),
        ({"event": "E", "properties": object()}, ConfigurationError, "Event 1 .*can't be encoded as JSON"),
        ({"event": "E", "userId": "1"}, ConfigurationError, "Event 1 .*'messageId'"),
        ({"event": "E", "messageId": "m"}, EventsRefusedError, "unidentified: 1 .*m"),
        ({"event": "E", "messageId": "m", "userId": 7}, EventsRefusedError, "id_not_string: 1"),
        ({"event": "E", "messageId": "m" * 101, "userId": "1"}, EventsRefusedError, "message_id_length: 1"),
        (
            {"event": "E", "messageId": "m", "userId": "1", "properties": {"x": "x" * 40_000}},
            EventsRefusedError,
            "event_too_large",
        ),
    ],
)
def test_plain_event_is_checked(sandbox: Sandbox, event: Any, error: type[Exception], message: str) -> None:
    fine = {"event": "E", "messageId": "fine", "userId": "1"}
    with pytest.raises(error, match=message):
        SegmentHook().track([fine, event])
    if error is EventsRefusedError:
        assert [one["messageId"] for one in sandbox.segment.kept] == ["fine"]
