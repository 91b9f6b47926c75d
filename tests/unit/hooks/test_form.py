"""Check the form of both connection types, as the UI of this version of Airflow gets it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from airflow_provider_cio.get_provider_info import get_provider_info
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.hooks.segment import SegmentHook
from tests.airflow_names import AIRFLOW

TYPES = {one["connection-type"]: one for one in get_provider_info()["connection-types"]}
HOOKS: dict[str, type[CustomerIOHook | SegmentHook]] = {"customerio": CustomerIOHook, "segment_source": SegmentHook}

# In a process of its own: for the time of asking, Airflow puts other classes in place of those of wtforms.
ASK = """
import json, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
forms = {one.connection_type: one.model_dump() for one in HookMetaService.hook_meta_data()}
print(json.dumps({name: forms[name] for name in ("customerio", "segment_source")}))
"""


def ask(*absent: str) -> dict[str, Any]:
    """Return the API server's answer to `/ui/connections/hook_meta`, as if the modules `absent` were not installed."""
    ran = subprocess.run([sys.executable, "-c", ASK, *absent], capture_output=True, text=True, check=True, timeout=100)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def forms() -> dict[str, Any]:
    if AIRFLOW < (3, 1):
        pytest.importorskip(
            "wtforms", reason="without wtforms, which its FAB provider brings, Airflow 3.0 has no forms"
        )
    return ask()


@pytest.mark.parametrize("kind", TYPES)
def test_fields_have_defaults(forms: dict[str, Any], kind: str) -> None:
    declared = TYPES[kind]["conn-fields"]
    shown = forms[kind]["extra_fields"]
    assert list(shown) == list(declared)
    for name, field in declared.items():
        schema = field["schema"]
        default = schema.get("default")
        as_text = AIRFLOW < (3, 2) and not isinstance(default, bool | None)
        assert shown[name]["value"] == (str(default) if as_text else default)
        assert shown[name]["description"] == field["description"]
        assert shown[name]["schema"]["title"] == field["label"]
        assert shown[name]["schema"].get("enum") == schema.get("enum")
        expected = ["string", "null"] if AIRFLOW < (3, 2) and "number" in schema["type"] else schema["type"]
        assert shown[name]["schema"]["type"] == expected


@pytest.mark.parametrize(("kind", "password"), [("customerio", "App API key"), ("segment_source", "Write key")])
def test_standard_fields(forms: dict[str, Any], kind: str, password: str) -> None:
    standard = forms[kind]["standard_fields"]
    assert standard["password"] == {"hidden": False, "title": password, "placeholder": None}
    assert standard["host"]["title"] == "Base URL"
    assert standard["host"]["placeholder"].startswith("empty for ")
    assert {name for name, field in standard.items() if field and field["hidden"]} == {"login", "url_schema"}
    assert standard["port"] is None, "as Airflow shows it"


@pytest.mark.skipif(AIRFLOW >= (3, 1), reason="later versions of Airflow need no wtforms for forms")
def test_no_wtforms_no_extra_fields() -> None:
    for form in ask("wtforms", "flask_appbuilder").values():
        assert (form["standard_fields"], form["extra_fields"]) == (None, None)
        assert form["hook_name"] in ("Customer.io", "Segment source")


@pytest.mark.parametrize("kind", HOOKS)
def test_each_hook_has_the_older_form(kind: str) -> None:
    """Airflow looks at the class alone, not at its bases."""
    pytest.importorskip("wtforms", reason="the older form is made of wtforms")
    from wtforms import BooleanField, StringField  # type: ignore[import-untyped]

    hook = HOOKS[kind]
    assert {"get_connection_form_widgets", "get_ui_field_behaviour"} <= set(vars(hook))
    fields = hook.get_connection_form_widgets()
    assert list(fields) == list(TYPES[kind]["conn-fields"])
    assert {field.field_class for field in fields.values()} <= {BooleanField, StringField}
    assert set(hook.get_ui_field_behaviour()) == {"hidden_fields", "relabeling", "placeholders"}


@pytest.mark.parametrize("kind", HOOKS)
def test_older_form_fills_in_defaults(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wtforms", reason="the older form is made of wtforms")
    hook = HOOKS[kind]
    defaults = {name: field.kwargs["default"] for name, field in hook.get_connection_form_widgets().items()}
    found = []
    for extra in ({}, defaults):
        connection = {"conn_type": kind, "password": "key-0123456789abcdef", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_ITS_ID", json.dumps(connection))
        found.append(hook(**{hook.conn_name_attr: "its_id"}).settings)
    assert found[0] == found[1]
