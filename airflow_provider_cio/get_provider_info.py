"""Metadata of the provider. It must stay a literal, because a mistake in it breaks every `airflow` command."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the metadata that Airflow reads through the entry point `apache_airflow_provider`."""
    return {
        "package-name": "airflow-provider-cio",
        "name": "Customer.io to Segment",
        "description": "Sends the events of Customer.io's messages to Segment or a warehouse, interval by interval.",
        "integrations": [
            {
                "integration-name": "Customer.io",
                "external-doc-url": "https://docs.customer.io/integrations/api/app/",
                "tags": ["service"],
            },
            {
                "integration-name": "Segment",
                "external-doc-url": "https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/",
                "tags": ["service"],
            },
        ],
        "operators": [
            {
                "integration-name": "Customer.io",
                "python-modules": [
                    "airflow_provider_cio.operators.customerio_to_segment",
                    "airflow_provider_cio.operators.customerio_to_warehouse",
                ],
            },
        ],
        "transfers": [
            {
                "source-integration-name": "Customer.io",
                "target-integration-name": "Segment",
                "python-module": "airflow_provider_cio.operators.customerio_to_segment",
            },
        ],
        "asset-uris": [
            {
                "schemes": ["customerio", "segment"],
                "handler": "airflow_provider_cio.observability.assets.check_uri",
                "to_openlineage_converter": "airflow_provider_cio.observability.lineage.dataset_of_asset",
            },
        ],
        "hooks": [
            {"integration-name": "Customer.io", "python-modules": ["airflow_provider_cio.hooks.customerio"]},
            {"integration-name": "Segment", "python-modules": ["airflow_provider_cio.hooks.segment"]},
        ],
        "config": {
            "customerio": {
                "description": "What Airflow's API server does: take in reporting webhooks, and show what flowed.",
                "options": {
                    "streams": {
                        "description": "The streams, as a JSON object of options by name. If it is empty, nothing is "
                        "mounted.\nA change takes effect when the API server is restarted.\n",
                        "version_added": "1.0.0",
                        "type": "string",
                        "example": '{"main": {"collections": ["Email Opened", "Email Link Clicked"]}}',
                        "default": "",
                    },
                    "mount_streams": {
                        "description": "Set it to false if another server serves the streams, so that Airflow's API "
                        "server does not. Both read the option streams.\n",
                        "version_added": "1.0.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                    "flow": {
                        "description": "Set it to false to have neither the page that shows what flowed and what is "
                        "missing, nor the ways to it.\n",
                        "version_added": "1.0.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                    "dag_tab": {
                        "description": "Airflow 3.1 to 3.3 only: show the page as a tab of each DAG and task. They "
                        "can't show it on some only, as Airflow 3.4 does by itself.\n",
                        "version_added": "1.0.0",
                        "type": "boolean",
                        "example": None,
                        "default": "False",
                    },
                },
            },
        },
        "connection-types": [
            {
                "connection-type": "customerio",
                "hook-class-name": "airflow_provider_cio.hooks.customerio.CustomerIOHook",
                "hook-name": "Customer.io",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "schema", "extra"],
                    "relabeling": {"password": "App API key", "host": "Base URL"},
                    "placeholders": {"host": "empty for Customer.io itself; else a base URL in its place"},
                },
                "conn-fields": {
                    "region": {
                        "label": "Region",
                        "description": "Region of the Customer.io account. Default: us.",
                        "schema": {"type": ["string", "null"], "enum": ["us", "eu"], "default": "us"},
                    },
                    "requests_per_second": {
                        "label": "Requests per second",
                        "description": "Customer.io allows 10 to a workspace, all its clients together. Default: 8.",
                        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 1000, "default": 8},
                    },
                    "timeout": {
                        "label": "Time-out (seconds)",
                        "description": "For each read. A connection is tried for 10 at most. Default: 60.",
                        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 600, "default": 60},
                    },
                    "webhook_signing_secret": {
                        "label": "Webhook signing key",
                        "description": "Only for reporting webhooks. Customer.io: Reporting Webhooks > the menu "
                        "of the webhook > Copy signing key.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "webhook_signing_secret_previous": {
                        "label": "Previous webhook signing key",
                        "description": "For the time after a rotation, when reports may still have the old signature.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                },
            },
            {
                "connection-type": "segment_source",
                "hook-class-name": "airflow_provider_cio.hooks.segment.SegmentHook",
                "hook-name": "Segment source",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "schema", "extra"],
                    "relabeling": {"password": "Write key", "host": "Base URL"},
                    "placeholders": {"host": "empty for Segment itself; else a receiver of the same shape"},
                },
                "conn-fields": {
                    "region": {
                        "label": "Region",
                        "description": "Region of the Segment workspace. Default: us.",
                        "schema": {"type": ["string", "null"], "enum": ["us", "eu"], "default": "us"},
                    },
                    "path": {
                        "label": "Path",
                        "description": "Path of the batch endpoint. Default: /v1/batch.",
                        "schema": {"type": ["string", "null"], "default": "/v1/batch"},
                    },
                    "gzip": {
                        "label": "Compress requests (gzip)",
                        "description": "Less traffic for more work. Default: off.",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                    "events_per_second": {
                        "label": "Events per second",
                        "description": "Segment's ceiling for a workspace is 1000. 0: no limit. Default: 1000.",
                        "schema": {"type": ["number", "null"], "minimum": 0, "maximum": 100_000, "default": 1000},
                    },
                    "timeout": {
                        "label": "Time-out (seconds)",
                        "description": "For each read. A connection is tried for 10 at most. Default: 60.",
                        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 600, "default": 60},
                    },
                    "message_id_namespace": {
                        "label": "Namespace of messageId",
                        "description": "Distinguishes events from those of another source. Default: a hash of the "
                        "write key. Set it before you rotate the key.",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            },
        ],
    }
