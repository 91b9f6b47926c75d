"""Run the operator's `execute` once, with the connections of the environment."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pendulum

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator


def main() -> None:
    start, end = json.loads(sys.argv[1])["interval"]
    context: Any = {
        "data_interval_start": pendulum.from_timestamp(start),
        "data_interval_end": pendulum.from_timestamp(end),
    }
    operator = CustomerIOToSegmentOperator(task_id="send")
    began, busy = time.perf_counter(), time.process_time()
    result = operator.execute(context)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "result": result}))


if __name__ == "__main__":
    main()
