"""The entry point `airflow.plugins`: all that Airflow's server gets from this provider.

Every task process imports it, so it must stay small: its properties import what they need.
"""

from __future__ import annotations

from typing import Any

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ImportError:  # before Airflow 3.2; common-compat has both, but every task process would pay for its import
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment]


class CustomerIOStreamPlugin(AirflowPlugin):
    """Mount the streams at ``/cio`` in Airflow's API server.

    They are mounted if `[customerio] streams` is set, unless `[customerio] mount_streams` is false.

    Airflow does not check who calls a mounted app: only the signature of the webhooks protects it.
    """

    name = "customerio_stream"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the apps to mount. Only the API server reads this, no task does."""
        from airflow_provider_cio.stream.settings import log_streams, mount_streams, option_text

        text = option_text()
        if not (text and mount_streams()):
            return []
        from airflow_provider_cio.stream.app import app

        log_streams(text)  # a mounted app is not told of the server's start
        return [{"app": app, "url_prefix": "/cio", "name": "Customer.io streams"}]
