"""Measure the pipeline's requests and nothing else: pages are fetched undecoded, ready-made batches are posted."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter


def main() -> None:
    wanted = json.loads(sys.argv[1])
    bodies = Path(wanted["bodies"]).read_bytes().splitlines()
    queries = wanted["queries"]
    source, destination = _session(), _session()
    source.headers["Authorization"] = f"Bearer {wanted['app_key']}"
    destination.auth = (wanted["write_key"], "")
    destination.headers["Content-Type"] = "application/json"

    def fetch(query: dict[str, Any]) -> int:
        answer = source.get(f"{wanted['url']}/v1/messages", params=query, timeout=60)
        answer.raise_for_status()
        return len(answer.content)

    def post(body: bytes) -> None:
        destination.post(f"{wanted['url']}/v1/batch", data=body, timeout=60).raise_for_status()

    with ThreadPoolExecutor(wanted["reading"]) as readers, ThreadPoolExecutor(wanted["sending"]) as senders:
        fetch(queries[0])
        post(b'{"batch":[]}')
        requests.post(f"{wanted['url']}/_sandbox/reset", timeout=60).raise_for_status()
        began, busy = time.perf_counter(), time.process_time()
        fetched, posted = readers.map(fetch, queries), senders.map(post, bodies)
        size = sum(fetched)
        for _ in posted:
            pass
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "bytes_read": size,
        "bytes_sent": sum(map(len, bodies)),
        "requests": len(queries),
        "batches": len(bodies),
    }
    print(json.dumps(result))


def _session() -> requests.Session:
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=16))
    return session


if __name__ == "__main__":
    main()
