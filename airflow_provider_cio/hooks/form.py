"""The connection forms for Airflow 3.0 and 3.1, which ask the hooks for them.

Later versions read the provider's metadata alone. This makes the same form of the same data.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_cio.get_provider_info import get_provider_info


def widgets(conn_type: str) -> dict[str, Any]:
    """The form's own fields, by the name that each has in extra.

    :raises ImportError: Airflow 3.0 without wtforms. It then shows the standard fields and extra as JSON.
    """
    # Airflow puts classes of its own in place of these while it asks, so they must be looked up here.
    from wtforms import BooleanField, StringField  # type: ignore[import-untyped]
    from wtforms.validators import any_of  # type: ignore[import-untyped]

    made: dict[str, Any] = {}
    for name, field in _connection_type(conn_type)["conn-fields"].items():
        schema = field["schema"]
        default = schema.get("default")
        shared = {
            "label": field["label"],
            "description": field["description"],
            "validators": [any_of(schema["enum"])] if "enum" in schema else [],
        }
        if "boolean" in schema["type"]:
            made[name] = BooleanField(**shared, default=default)
        else:  # numbers too, since IntegerField takes no fractions; the hook reads text that is a number
            made[name] = StringField(**shared, default=None if default is None else str(default))
    return made


def field_behaviour(conn_type: str) -> dict[str, Any]:
    """Which of the standard fields are hidden or have another label."""
    behaviour = _connection_type(conn_type)["ui-field-behaviour"]
    return {name.replace("-", "_"): value for name, value in behaviour.items()}


def _connection_type(name: str) -> dict[str, Any]:
    return next(one for one in get_provider_info()["connection-types"] if one["connection-type"] == name)
