"""Run a sandbox over a history of its own until stdin ends."""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter

import msgspec

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, resolve_collections
from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.rows import Filter


def main() -> None:
    """Print one line of JSON when it listens."""
    wanted = json.loads(sys.argv[1])
    history = History.generate(**wanted["history"])
    truth = count(history, *wanted["interval"]) if wanted["interval"] else {}
    settings = msgspec.convert(wanted["settings"], Settings)
    history.rows.listing(Filter("email"), 0, 0)  # makes the list now, not while the first requests wait for their turn
    gc.collect()
    gc.freeze()  # a large history must not make the sandbox slower
    with Sandbox(history, settings) as sandbox:
        line = {
            "url": sandbox.url,
            "app_key": settings.app_key,
            "write_key": settings.write_key,
            "deliveries": len(history),
            "truth": truth,
        }
        print(json.dumps(line), flush=True)
        sys.stdin.read()


def count(history: History, start: int, end: int) -> dict[str, int]:
    """Count the events in [start, end) of the default collections, by name, without those of unidentified people."""
    wanted = resolve_collections(DEFAULT_COLLECTIONS)
    truth = history.truth(start, end, {one.metric for one in wanted}, {one.channel for one in wanted})
    return dict(Counter(one.collection for one in truth if one.user_id or one.anonymous_id))


if __name__ == "__main__":
    main()
