"""`make stream`: push reporting webhooks at the stream app, and compare them with Segment's events."""

import argparse
import asyncio
import json
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from statistics import median, quantiles
from typing import Any

import requests

from tests.e2e.compare import COLLECTIONS, differences
from tests.e2e.demo import say
from tests.e2e.processes import Processes, command
from tests.ports import free_port
from tests.sandbox import History
from tests.sandbox.reports import Report, Subscription, reports
from tests.sandbox.settings import APP_KEY
from tests.sandbox.webhooks import Call, Calling, Sender

NAME = "live"
DAY = 86_400
EVENTS = [f"email_{metric}" for metric in ("delivered", "opened", "clicked", "unsubscribed", "bounced", "spammed")]
LINE = "{:>6}  {:>11}  {:>12}  {:>12}  {:>8}  {:>13}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until all is pushed, or until a signal comes; return 0 only if both sides are the same."""
    options = _parser().parse_args(arguments)
    say("Making up a history ...")
    now = int(time.time())
    history = History.generate(
        seed=options.seed, deliveries=options.deliveries, channels=("email",), start=now - 40 * DAY, end=now - 35 * DAY
    )
    found = reports(history, Subscription(events=EVENTS))
    say("Starting the app, and a sandbox of Segment ...")
    with Processes() as processes:
        key = secrets.token_hex(16)
        sandbox = _start(processes, key, options)
        calling = Calling(
            signing_key=key, per_second=options.per_second, in_flight=options.in_flight, duplicates=options.duplicates
        )
        sender = Sender(f"{sandbox['app']}/{NAME}", calling)
        rate = f"{options.per_second:g} a second, {options.in_flight} at a time"
        say(f"{len(found):,} reports, {rate}; Ctrl-C ends it.\n")
        say(LINE.format("time", "reports/s", "median", "99 %", "failed", "Segment kept"))
        asyncio.run(_push(sender, found, sandbox["url"], options.seconds))
        return _compare(history, sender.calls, sandbox["url"])


def _start(processes: Processes, key: str, options: argparse.Namespace) -> dict[str, str]:
    """Return the URLs of app and sandbox, once both answer."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    segment = ("--deliveries", "0", "--segment-latency", str(options.segment_latency))
    processes.start("sandbox", "-m", "tests.sandbox", "--port", "0", *segment, env=plain, pipe=True)
    sandbox: dict[str, str] = json.loads(processes.first_line("sandbox"))
    connections = {
        "customerio": ("customerio", APP_KEY, {"webhook_signing_secret": key}),
        "segment": ("segment_source", sandbox["write_key"], {"events_per_second": 0}),
    }
    environment = {
        f"AIRFLOW_CONN_{name.upper()}_DEFAULT": json.dumps(
            {"conn_type": kind, "host": sandbox["url"], "password": password, "extra": extra}
        )
        for name, (kind, password, extra) in connections.items()
    }
    environment["AIRFLOW__CUSTOMERIO__STREAMS"] = json.dumps({NAME: {"collections": list(COLLECTIONS)}})
    environment["AIRFLOW_HOME"] = str(processes.home)
    port = free_port()
    app = ("-m", "uvicorn", "airflow_provider_cio.stream.app:app", "--port", str(port), "--no-access-log")
    processes.start("app", *app, env=plain | environment)
    sandbox["app"] = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{sandbox['app']}/{NAME}/health", timeout=5).status_code == 200
        return False

    processes.wait(answers, "app")
    return sandbox


async def _push(sender: Sender, found: Sequence[Report], sandbox_url: str, seconds: float | None) -> None:
    """Push, and print a line a second. A signal lets the calls under way end."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, sender.stop)
    loop.add_signal_handler(signal.SIGTERM, sender.stop)
    if seconds is not None:
        loop.call_later(seconds, sender.stop)
    pushing = asyncio.create_task(sender.run(found))
    began, seen = time.monotonic(), 0
    while not pushing.done():
        await asyncio.wait([pushing], timeout=1)
        calls, seen = sender.calls[seen:], len(sender.calls)
        kept = (await asyncio.to_thread(_received, sandbox_url))["kept"]
        say(_line(f"{time.monotonic() - began:.0f} s", calls, kept))
    await pushing


def _line(label: str, calls: Sequence[Call], kept: int) -> str:
    taken = [call.seconds * 1000 for call in calls if call.accepted]
    middle, highest = (median(taken), quantiles(taken, n=100)[-1]) if len(taken) > 1 else (0.0, 0.0)
    failed = len(calls) - len(taken)
    return LINE.format(label, len(taken), f"{middle:.0f} ms", f"{highest:.0f} ms", failed, f"{kept:,}")


def _received(sandbox_url: str, **params: int) -> Any:
    return requests.get(f"{sandbox_url}/_sandbox/segment", params=params, timeout=60).json()


def _compare(history: History, calls: Sequence[Call], sandbox_url: str) -> int:
    """Compare the reports answered 2xx with Segment's events, and print the result."""
    segment = _received(sandbox_url, events=1)
    kept = {(event["properties"]["delivery_id"], event["event"]) for event in segment["events"]}
    accepted = {(call.report.delivery_id, call.report.metric) for call in calls if call.accepted}
    # What was not acknowledged may have been kept nevertheless: it would come again.
    tried = {(call.report.delivery_id, call.report.metric) for call in calls}
    truth = [
        asdict(row)
        for row in history.truth(channels=["email"])
        if (row.delivery_id, row.metric) in accepted
        or ((row.delivery_id, row.metric) in tried and (row.delivery_id, row.collection) in kept)
    ]
    found = differences([row for row in truth if row["collection"] in COLLECTIONS], segment["events"])
    seconds = [call.began for call in calls]
    statuses = Counter(str(call.status or call.problem) for call in calls)
    took = max(seconds) - min(seconds) if seconds else 0.0
    say()
    say(_line("all", calls, segment["kept"]).replace("all", f"{took:.0f} s", 1))
    say(f"Answers: {', '.join(f'{count:,} x {status}' for status, count in statuses.most_common())}.")
    say(
        f"Segment received {segment['received']:,} events in {segment['requests']:,} requests, and knew "
        f"{segment['duplicates']:,} of them already."
    )
    for line in found[:20]:
        say(f"  {line}")
    if found:
        say(f"THEY DIFFER in {len(found):,} ways, the first of them above.")
        return 1
    say("THE SAME: Segment kept every occurrence that was acknowledged and that names a person, each once.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.stream", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--per-second", type=float, default=300, help="reports; 0 is no limit (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=64, help="calls at a time (default: %(default)s)")
    parser.add_argument("--duplicates", type=float, default=0.01, help="share of calls that are made twice")
    parser.add_argument("--segment-latency", type=float, default=0.1, help="seconds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="after which it ends by itself")
    return parser


if __name__ == "__main__":
    command(main)
