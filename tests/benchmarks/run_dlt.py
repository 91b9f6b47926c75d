"""Load rows with dlt by upsert, from Arrow tables in memory. Runs in an environment of its own, without ours."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# It would look for settings in a folder of the user's, and tell its makers of this run.
os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}


def main() -> None:
    wanted = json.loads(sys.argv[1])
    dlt = import_module("dlt")
    csv = import_module("pyarrow.csv")
    options = csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=["null"])
    tables = {
        path.stem: csv.read_csv(path, convert_options=options) for path in sorted(Path(wanted["rows"]).glob("*.csv"))
    }
    connection = wanted["connection"]
    with TemporaryDirectory(prefix="dlt-") as folder:
        os.environ["DLT_DATA_DIR"] = folder
        pipeline = dlt.pipeline(
            "events", pipelines_dir=folder, dataset_name="by_dlt", destination=_destination(dlt, connection)
        )
        resources = [_resource(dlt, name, table) for name, table in tables.items()]
        formats = {"postgres": "csv", "duckdb": "parquet"}
        began, busy = time.perf_counter(), time.process_time()
        pipeline.run(resources, loader_file_format=formats[connection["conn_type"]])
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "version": version("dlt")}))


def _destination(dlt: Any, connection: dict[str, Any]) -> Any:
    if connection["conn_type"] == "duckdb":
        return dlt.destinations.duckdb(connection["host"])
    user, host, port, database = (connection[part] for part in ("login", "host", "port", "schema"))
    return dlt.destinations.postgres(f"postgresql://{user}:none@{host}:{port}/{database}")


def _resource(dlt: Any, name: str, table: Any) -> Any:
    # A column of nothing has no type, and is left out: dlt makes none for it.
    columns = [field.name for field in table.schema if str(field.type) != "null"]
    disposition = {"disposition": "merge", "strategy": "upsert"}
    return dlt.resource([table.select(columns)], name=name, primary_key="id", write_disposition=disposition)


if __name__ == "__main__":
    main()
