"""Segment's tables for Customer.io's events, in a warehouse of one's own.

Another database is one more file here, with a `Database` in it, and one more line below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_cio.warehouse.database import Database

#: Airflow's connection type -> the class that loads into such a database.
DATABASES = {
    "postgres": "airflow_provider_cio.warehouse.postgres:Postgres",
    "duckdb": "airflow_provider_cio.warehouse.duckdb:DuckDB",
    "redshift": "airflow_provider_cio.warehouse.redshift:Redshift",
    "gcpbigquery": "airflow_provider_cio.warehouse.bigquery:BigQuery",
    "google_cloud_platform": "airflow_provider_cio.warehouse.bigquery:BigQuery",
}


def database_for(conn_type: str) -> type[Database]:
    """:raises KeyError: nothing is known of this type."""
    module, _, name = DATABASES[conn_type].partition(":")
    database: type[Database] = getattr(import_module(module), name)
    return database
