"""Load Customer.io's events into your own warehouse, in the tables that Segment would make.

To add a database, write a file with a subclass of `Database`, and add its connection type to `DATABASES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_cio.warehouse.database import Database

#: Airflow connection type -> ``module:class`` of its `Database`, which is imported when it is used.
DATABASES = {
    "postgres": "airflow_provider_cio.warehouse.postgres:Postgres",
    "duckdb": "airflow_provider_cio.warehouse.duckdb:DuckDB",
    "redshift": "airflow_provider_cio.warehouse.redshift:Redshift",
    "gcpbigquery": "airflow_provider_cio.warehouse.bigquery:BigQuery",
    "google_cloud_platform": "airflow_provider_cio.warehouse.bigquery:BigQuery",
    "snowflake": "airflow_provider_cio.warehouse.snowflake:Snowflake",
}


def database_for(conn_type: str) -> type[Database]:
    """Return the `Database` class for an Airflow connection type.

    :raises KeyError: the type is not in `DATABASES`.
    """
    module, _, name = DATABASES[conn_type].partition(":")
    database: type[Database] = getattr(import_module(module), name)
    return database
