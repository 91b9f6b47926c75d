"""Connection forms for Airflow 3.0 and 3.1. Later versions read the same data from the provider's metadata."""

from __future__ import annotations

from typing import Any

from airflow_provider_cio.get_provider_info import get_provider_info


class FormMixin:
    """Mixin for a hook that has a connection form: the methods that Airflow 3.0 and 3.1 call."""

    conn_type: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if FormMixin in cls.__bases__:  # Airflow calls a method only if the hook's own class has it
            for name in ("get_connection_form_widgets", "get_ui_field_behaviour"):
                setattr(cls, name, vars(FormMixin)[name])

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's own fields by their names in extra.

        :raises ImportError: Airflow 3.0 without wtforms. It then shows the standard fields, and extra as JSON.
        """
        # Import here, because Airflow puts its own classes in place of these while it calls this method.
        from wtforms import BooleanField, StringField  # type: ignore[import-untyped]
        from wtforms.validators import any_of  # type: ignore[import-untyped]

        widgets: dict[str, Any] = {}
        for name, field in _connection_type(cls.conn_type)["conn-fields"].items():
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

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the standard fields that are hidden or have another label."""
        behaviour = _connection_type(cls.conn_type)["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}


def _connection_type(name: str) -> dict[str, Any]:
    return next(one for one in get_provider_info()["connection-types"] if one["connection-type"] == name)
