"""Connection forms for Airflow 3.0 and 3.1. Later versions read the same data from the provider's metadata."""

from __future__ import annotations

from typing import Any, Protocol

from airflow_provider_cio.get_provider_info import get_provider_info


class Hook(Protocol):
    """A hook whose connection type has a form."""

    conn_type: str


def connection_form_widgets(hook: type[Hook]) -> dict[str, Any]:
    """Return the form's own fields by their names in extra.

    :raises ImportError: Airflow 3.0 without wtforms. It then shows the standard fields, and extra as JSON.
    """
    # Import here, because Airflow puts its own classes in place of these while it calls this method.
    from wtforms import BooleanField, StringField  # type: ignore[import-untyped]
    from wtforms.validators import any_of  # type: ignore[import-untyped]

    widgets: dict[str, Any] = {}
    for name, field in _connection_type(hook.conn_type)["conn-fields"].items():
        schema = field["schema"]
        default = schema.get("default")
        shared = {
            "label": field["label"],
            "description": field["description"],
            "validators": [any_of(schema["enum"])] if "enum" in schema else [],
        }
        if "boolean" in schema["type"]:
            widgets[name] = BooleanField(**shared, default=default)
        else:  # numbers too, because IntegerField accepts no fractions; the hook reads numbers from text
            widgets[name] = StringField(**shared, default=None if default is None else str(default))
    return widgets


def ui_field_behaviour(hook: type[Hook]) -> dict[str, Any]:
    """Return the standard fields that are hidden or have another label."""
    behaviour = _connection_type(hook.conn_type)["ui-field-behaviour"]
    return {name.replace("-", "_"): value for name, value in behaviour.items()}


def _connection_type(name: str) -> dict[str, Any]:
    return next(one for one in get_provider_info()["connection-types"] if one["connection-type"] == name)
