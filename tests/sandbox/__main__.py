"""`python -m tests.sandbox`: a sandbox for other processes."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from datetime import UTC, datetime
from shlex import quote
from typing import get_args

from tests.sandbox.catalog import CHANNELS
from tests.sandbox.history import DAY, History
from tests.sandbox.limiters import KINDS
from tests.sandbox.rows import Order
from tests.sandbox.server import Sandbox
from tests.sandbox.settings import Settings


def main() -> None:
    """Print one line of JSON when it listens, and for people the connections, then run until SIGINT or SIGTERM."""
    options = _parser().parse_args()
    start = datetime.fromisoformat(options.start)
    begin = int((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp())
    history = History.generate(
        seed=options.seed,
        deliveries=options.deliveries,
        start=begin,
        end=begin + int(options.days * DAY),
        burst=options.burst,
        channels=tuple(options.channels.split(",")),
        longest_lag=int(options.longest_lag * DAY),
        late_opens=options.late_opens,
        nasty=options.nasty,
        lean=options.lean,
    )
    settings = Settings(
        latency=options.latency,
        segment_latency=options.segment_latency,
        requests_per_second=options.requests_per_second,
        limiter=options.limiter,
        other_client=options.other_client,
        arrival_jitter=options.arrival_jitter,
        order=options.order,
        displaced=options.displaced,
        displaced_by=options.displaced_by,
        events_per_second=options.events_per_second,
        retry_after=None if options.retry_after == "none" else options.retry_after,
        remember=options.remember,
        app_key=options.app_key,
        write_key=options.write_key,
    )
    # Blocked before the server's thread begins, so that they wait for sigwait wherever they arrive.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with Sandbox(history, settings, port=options.port) as sandbox:
        line = {"url": sandbox.url, "app_key": settings.app_key, "write_key": settings.write_key}
        print(json.dumps(line), flush=True)
        print(_for_people(line, options), file=sys.stderr, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def exports(url: str, app_key: str, write_key: str) -> list[str]:
    """Return both connections to the sandbox, as lines for a shell."""
    connections = {
        "CUSTOMERIO": {"conn_type": "customerio", "host": url, "password": app_key},
        "SEGMENT": {"conn_type": "segment_source", "host": url, "password": write_key},
    }
    return [f"export AIRFLOW_CONN_{name}_DEFAULT={quote(json.dumps(fields))}" for name, fields in connections.items()]


def _for_people(line: dict[str, str], options: argparse.Namespace) -> str:
    history = f"{options.deliveries:,} deliveries in {options.days:g} days, from {options.start} on."
    return "\n".join(
        [
            f"{history} Paste this where your Airflow starts:",
            *exports(**line),
            f"{line['url']}/_sandbox/segment counts what Segment has received. Ctrl-C ends the sandbox.",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=8431, help="0 is a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deliveries", type=int, default=2000)
    parser.add_argument("--start", default="2026-11-01", help="when the first delivery is created, UTC")
    parser.add_argument("--days", type=float, default=5)
    parser.add_argument("--burst", type=float, default=0.3, help="share that goes out as newsletters")
    parser.add_argument("--channels", default=",".join(CHANNELS))
    parser.add_argument("--longest-lag", type=float, default=28, help="days at most from a creation to what happens")
    parser.add_argument(
        "--late-opens", type=float, default=0.0, help="share of the opens that come at any time until then"
    )
    parser.add_argument("--nasty", type=float, default=0.0, help="share of odd recipients that look like addresses")
    parser.add_argument("--lean", action="store_true", help="keep rows only: for millions of deliveries")
    parser.add_argument("--latency", type=float, default=0.3, help="seconds, App API")
    parser.add_argument("--segment-latency", type=float, default=0.0, help="seconds, Tracking API")
    parser.add_argument("--requests-per-second", type=float, default=10, help="App API; 0 is no limit")
    parser.add_argument("--limiter", choices=tuple(KINDS), default=defaults.limiter, help="what that limit means")
    parser.add_argument("--other-client", type=float, default=0.0, help="its requests per second, under that limit")
    parser.add_argument("--arrival-jitter", type=float, default=0.0, help="seconds at most on the way to the App API")
    parser.add_argument("--order", choices=get_args(Order), default=defaults.order, help="of deliveries, by creation")
    parser.add_argument("--displaced", type=float, default=defaults.displaced, help='share of the rows, with "nearly"')
    parser.add_argument("--displaced-by", type=int, default=defaults.displaced_by, help="seconds at most")
    parser.add_argument("--events-per-second", type=float, default=0, help="Tracking API; 0 is no limit")
    parser.add_argument("--retry-after", choices=("none", "seconds", "date"), default="none")
    parser.add_argument("--remember", choices=("events", "counts"), default="events")
    parser.add_argument("--app-key", default=defaults.app_key)
    parser.add_argument("--write-key", default=defaults.write_key)
    return parser


if __name__ == "__main__":
    main()
