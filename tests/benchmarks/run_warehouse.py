"""Load made-up events into a database, as the operator's sink does: seconds, and the greatest memory.

With `rows`, it writes the same events as CSV instead, one file for each table, for another loader.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.warehouse import database_for
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.sink import WarehouseSink
from airflow_provider_cio.warehouse.tables import (
    LOAD_COLUMNS,
    SENDER_VALUES,
    SPOOLED,
    TRACKS,
    columns_of,
    csv_lines,
    values_of,
)
from tests.unit.warehouse.events import NAMES, events
from tests.unit.warehouse.load import hook

PIECE = 2000


def main() -> None:
    wanted = json.loads(sys.argv[1])
    if "rows" in wanted:
        write(Path(wanted["rows"]), wanted["events"])
        print("{}")
        return
    print(json.dumps(load(wanted["connection"], wanted["events"])))


def load(connection: dict[str, Any], count: int) -> dict[str, Any]:
    """Load. Making the events is not part of the time."""
    database = partial(database_for(connection["conn_type"]), hook(connection))
    began, busy = time.perf_counter(), time.process_time()
    made = made_busy = 0.0
    with WarehouseSink(Warehouse("the warehouse", database, "customerio"), NAMES) as sink:
        for first in range(0, count, PIECE):
            making, making_busy = time.perf_counter(), time.process_time()
            piece = list(events(first, min(count, first + PIECE)))
            made, made_busy = made + time.perf_counter() - making, made_busy + time.process_time() - making_busy
            sink.take(piece)
        sink.flush()
    seconds, cpu = time.perf_counter() - began - made, time.process_time() - busy - made_busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_memory": peak, **sink.counts()}


def write(folder: Path, count: int) -> None:
    """Write each table as CSV with a header. The columns of the load have the event's time and its table."""
    tables = {name: CATALOG[name].table for name in NAMES}
    files = {table: (folder / f"{table}.csv").open("wb") for table in (TRACKS, *tables.values())}
    for table, file in files.items():
        file.write(",".join(column.name for column in columns_of(table)).encode() + b"\n")
    load_columns = {column.name for column in LOAD_COLUMNS}
    for one in events(0, count):
        values = dict(zip([column.name for column in SPOOLED], values_of(one), strict=True))
        table = tables[one.event]
        values |= dict.fromkeys(load_columns, values["original_timestamp"]) | SENDER_VALUES | {"event": table}
        for name in (TRACKS, table):
            files[name].write(csv_lines([tuple(values[column.name] for column in columns_of(name))]))
    for file in files.values():
        file.close()


if __name__ == "__main__":
    main()
