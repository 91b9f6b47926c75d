"""Read, map and send with no latency and no limits: the pipeline, another library, and bare requests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Lock, Thread
from typing import Any, NamedTuple

from airflow_provider_cio.customerio import reader as reading
from airflow_provider_cio.customerio.client import CustomerIOClient, Page
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.segment import batches as sending
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.benchmarks.figures import Figure
from tests.benchmarks.run_line import line
from tests.benchmarks.world import EVERYTHING, PEER_PYTHON, Served, run, serving

AIM_EVENTS = 100_000.0  # a second
AIM_TIMES, LEAST_TIMES = 6.0, 5.0  # as fast as the other library

#: What was fastest of what it can be told: batches that only their bytes end, not compressed, and a short wait for the
#: last one. Of 1, 2 and 4 threads one is the fastest, or within the noise: they share the interpreter's lock.
PEER = {"threads": 1, "upload_size": 2500, "upload_interval": 0.1}

Taken = dict[str, Any]


class Work(NamedTuple):
    """Recorded requests of the pipeline, for others to repeat. `bodies` has the body of one request in each line."""

    queries: list[dict[str, str | int]]
    bodies: Path


def measure(quick: bool) -> Iterator[Figure]:
    deliveries, rounds = (40_000, 1) if quick else (200_000, 5)
    lines: list[Taken] = []
    floors: list[Taken] = []
    peers: list[Taken] = []
    with serving(deliveries, interval=EVERYTHING, gives_way=True) as sandbox, tempfile.TemporaryDirectory() as folder:
        work = record(sandbox, Path(folder))
        again = {"bodies": str(work.bodies), "queries": work.queries}
        parallel = {"reading": reading.MAX_REQUESTS, "sending": sending.MAX_BATCHES}
        for _ in range(rounds):  # one right after the other, so that what slows the machine down slows all of them
            lines.append(take(sandbox, "run_line", {"interval": EVERYTHING}))
            floors.append(take(sandbox, "run_floor", again | parallel))
            if PEER_PYTHON.exists():
                peers.append(take(sandbox, "run_peer", {"bodies": str(work.bodies)} | PEER, python=str(PEER_PYTHON)))
    yield from beside_the_peer(lines, peers)
    yield beside_the_floor(lines, floors)


def take(sandbox: Served, module: str, wanted: Mapping[str, Any], **options: Any) -> Taken:
    """Run a program against the sandbox, and look at the arrived events. It resets the sandbox after warming up."""
    keys = {"url": sandbox.url, "app_key": sandbox.app_key, "write_key": sandbox.write_key}
    taken = run(module, keys | dict(wanted), **options)
    errors = "; ".join(taken.get("errors", ()))
    return taken | {"kept": sandbox.kept()["kept"], "wrong": " ".join(filter(None, (errors, sandbox.wrong())))}


def beside_the_peer(lines: Sequence[Taken], peers: Sequence[Taken]) -> Iterator[Figure]:
    part = "Reading, mapping and sending, no latency, no limits"
    ours, theirs = _rates(lines), _rates(peers)
    yield Figure(
        part,
        "the line: events a second",
        median(ours),
        "{:,.0f}",
        aim=AIM_EVENTS,
        more_is_better=True,
        note=(
            f"rounds: {_listed(ours, '{:,.0f}')}; {lines[0]['events']:,} events of {lines[0]['deliveries']:,} "
            f"deliveries; kept {lines[0]['kept']:,}; {_busy(lines)} of one core"
        ),
        wrong=_wrong(lines),
        details={"rounds": lines},
    )
    yield Figure(
        part,
        "segment-analytics-python, sending only: events a second",
        median(theirs) if theirs else None,
        "{:,.0f}",
        note=(
            f"{peers[0]['version']}; rounds: {_listed(theirs, '{:,.0f}')}; the same events, made before; "
            f"kept {peers[0]['kept']:,}; {_busy(peers)} of one core"
            if peers
            else "it is not installed: `make bench` does that"
        ),
        wrong=_wrong(peers),
        details={"rounds": peers, "configuration": PEER},
    )
    times = [one / other for one, other in zip(ours, theirs, strict=False)]
    yield Figure(
        part,
        "the line: times as fast",
        median(times) if times else None,
        "{:.1f}",
        aim=AIM_TIMES,
        least=LEAST_TIMES,
        more_is_better=True,
        note=f"rounds: {_listed(times, '{:.1f}')}",
    )


def beside_the_floor(lines: Sequence[Taken], floors: Sequence[Taken]) -> Figure:
    times = [one["seconds"] / other["seconds"] for one, other in zip(lines, floors, strict=True)]
    ours, bare = lines[0], floors[0]
    return Figure(
        "The line beside its floor: the same pages undecoded, the same batches ready-made",
        "time of the line over that of its floor",
        median(times),
        "{:.2f}",
        note=(
            f"rounds: {_listed(times, '{:.2f}')}; {median(one['seconds'] for one in lines):.2f} s beside "
            f"{median(one['seconds'] for one in floors):.2f} s; requests {ours['requests']} beside {bare['requests']}, "
            f"batches {ours['batches']} beside {bare['batches']}; {bare['bytes_read'] / 1e6:.0f} MB read, "
            f"{bare['bytes_sent'] / 1e6:.0f} MB sent; kept {bare['kept']:,}; floor {_busy(floors)} of one core"
        ),
        wrong=_wrong(floors),
        details={"rounds": floors},
    )


def _rates(taken: Sequence[Taken]) -> list[float]:
    return [one["events"] / one["seconds"] for one in taken]


def _busy(taken: Sequence[Taken]) -> str:
    return f"{median(one['cpu_seconds'] / one['seconds'] for one in taken):.0%}"


def _listed(values: Sequence[float], form: str) -> str:
    return ", ".join(map(form.format, values))


def _wrong(taken: Sequence[Taken]) -> str:
    return next((one["wrong"] for one in taken if one["wrong"]), "")


def record(sandbox: Served, folder: Path) -> Work:
    """Run the pipeline once, and record its requests."""
    bodies = folder / "bodies"
    with (
        writing_down(bodies) as url,
        _Noting(sandbox.app_key, base_url=sandbox.url, requests_per_second=100_000) as source,
        SegmentClient(sandbox.write_key, base_url=url, events_per_second=0) as destination,
    ):
        line(source, SegmentSink(destination), Interval(*EVERYTHING), "benchmark")
    return Work(source.queries, bodies)


class _Noting(CustomerIOClient):
    """Client that records its requests."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.queries: list[dict[str, str | int]] = []

    def page(self, query: Mapping[str, str | int]) -> Page[Delivery]:
        self.queries.append(dict(query))
        return super().page(query)


@contextmanager
def writing_down(path: Path) -> Iterator[str]:
    """Serve a URL that writes the body of every POST into a file, one in each line, and answers 200."""
    lock = Lock()
    with path.open("wb") as file:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    file.write(body + b"\n")
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"OK")

            def log_message(self, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()
