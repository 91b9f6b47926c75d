"""The entry point `airflow.plugins`: streams in Airflow's API server. Every task process imports it: keep it small."""

from __future__ import annotations

from typing import Any

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ImportError:  # before Airflow 3.2; common-compat has both, but every task process would pay for its import
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment]


class CustomerIOStreamPlugin(AirflowPlugin):
    """Mounts the streams at ``/cio`` in Airflow's API server, if `[customerio] streams` is set.

    Airflow checks nobody who calls a mounted app: the signature of the webhooks is all that guards it.
    """

    name = "customerio_stream"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Read by the API server, not by tasks."""
        from airflow_provider_cio.stream.settings import option_text

        if not option_text():
            return []
        from airflow_provider_cio.stream.app import app

        return [{"app": app, "url_prefix": "/cio", "name": "Customer.io streams"}]
