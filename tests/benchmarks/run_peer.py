"""Send ready-made events with segment-analytics-python. Runs in an environment of its own, without ours."""

from __future__ import annotations

import gc
import json
import sys
import time
import urllib.request
from datetime import datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    wanted = json.loads(sys.argv[1])
    with Path(wanted["bodies"]).open("rb") as bodies:
        calls = [_call(event) for body in bodies for event in json.loads(body)["batch"]]
    gc.collect()
    gc.freeze()  # the events that wait here must not slow it down
    make = import_module("segment.analytics.client").Client
    errors: list[str] = []

    def client() -> Any:
        return make(
            wanted["write_key"],
            host=wanted["url"],
            on_error=lambda error, batch: errors.append(f"{len(batch)} events: {error}"),
            max_queue_size=len(calls) + 1,
            thread=wanted["threads"],
            upload_size=wanted["upload_size"],
            upload_interval=wanted["upload_interval"],
        )

    warm = client()
    for number, call in enumerate(calls[:1000]):
        warm.track(**call | {"message_id": f"warm-up-{number}"})
    warm.shutdown()
    urllib.request.urlopen(urllib.request.Request(f"{wanted['url']}/_sandbox/reset", method="POST"), timeout=60).close()

    began, busy = time.perf_counter(), time.process_time()
    timed = client()
    refused = sum(not timed.track(**call)[0] for call in calls)
    timed.flush()
    timed.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "events": len(calls),
        "errors": errors[:3] + ([f"{refused} events found the queue full"] if refused else []),
        "version": version("segment-analytics-python"),
    }
    print(json.dumps(result))


def _call(event: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of its `track`."""
    return {
        "user_id": event.get("userId"),
        "anonymous_id": event.get("anonymousId"),
        "event": event["event"],
        "properties": event["properties"],
        "context": event["context"],
        "timestamp": datetime.fromisoformat(event["timestamp"]),
        "integrations": event["integrations"],
        "message_id": event["messageId"],
    }


if __name__ == "__main__":
    main()
