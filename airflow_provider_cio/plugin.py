"""The entry point `airflow.plugins`: all that Airflow's server gets from this provider.

Every task process imports it, so it must stay small: its properties import what they need.
"""

from __future__ import annotations

from typing import Any

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ImportError:  # before Airflow 3.2; common-compat has both, but every task process would pay for its import
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment]


class CustomerIOPlugin(AirflowPlugin):
    """Mount the streams at ``/cio``, and the picture of what flowed at ``/cio-flow``, in Airflow's API server.

    The streams are mounted if `[customerio] streams` is set, unless `[customerio] mount_streams` is false. The picture,
    and the ways to it, are there unless `[customerio] flow` is false.

    Airflow does not check who calls a mounted app: only the signature of the webhooks protects the streams, and the
    picture is made of files without data.
    """

    name = "customerio"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the apps to mount. Only the API server reads this, no task does."""
        return [*_streams(), *_picture()]

    @property
    def external_views(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the ways to the picture, anew each time, because Airflow changes them. Only the API server asks."""
        from airflow_provider_cio.flow.ways_in import external_views, is_on

        return external_views() if is_on() else []

    @property
    def operator_extra_links(self) -> list[Any]:  # type: ignore[override]
        """Return the button of both operators. Only the API server reads this."""
        from airflow_provider_cio.flow.ways_in import FlowLink, is_on

        return [FlowLink()] if is_on() else []


def _streams() -> list[dict[str, Any]]:
    from airflow_provider_cio.stream.settings import log_streams, mount_streams, option_text

    text = option_text()
    if not (text and mount_streams()):
        return []
    from airflow_provider_cio.stream.app import app

    log_streams(text)  # a mounted app is not told of the server's start
    return [{"app": app, "url_prefix": "/cio", "name": "Customer.io streams"}]


def _picture() -> list[dict[str, Any]]:
    from airflow_provider_cio.flow.app import app
    from airflow_provider_cio.flow.ways_in import is_on

    return [{"app": app, "url_prefix": "/cio-flow", "name": "Customer.io events"}] if is_on() else []
