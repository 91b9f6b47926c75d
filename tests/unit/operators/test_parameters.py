"""Check the operator's parameters: while the DAG is parsed if they are known by then, and else when the task runs."""

from __future__ import annotations

import inspect
import json
import re
import time
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task

from airflow_provider_cio.events.catalog import CATALOG, GROUPS
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.operators.options import READERS, Options, read_options
from tests.sandbox import Sandbox
from tests.unit.support import DAY, context_of

PARAMETERS = tuple(CustomerIOToSegmentOperator.template_fields)
START = int(time.time()) // DAY * DAY - 2 * DAY
RUN = context_of(START, START + DAY)


def operator(**parameters: Any) -> CustomerIOToSegmentOperator:
    return CustomerIOToSegmentOperator(task_id="send", **parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"opens_and_clicks": "all"},
            "opens_and_clicks must be one of 'first', 'first_human', 'every', 'every_human', got 'all'",
        ),
        (
            {"opens_and_clicks": None},
            "opens_and_clicks must be one of 'first', 'first_human', 'every', 'every_human', got nothing",
        ),
        ({"lookback": timedelta(days=181)}, "lookback must be 0 to 180 days, got 181 days"),
        ({"lookback": -1}, "lookback must be 0 to 180 days, got -1 days"),
        ({"lookback": "soon"}, "lookback must be a timedelta or a number of days, got a string"),
        ({"lookback": 0}, "lookback must be more than 0 days"),
        ({"older_than": 181}, "older_than must be 0 to 180 days, got 181 days"),
        ({"older_than": "soon"}, "older_than must be a timedelta or a number of days, got a string"),
        ({"older_than": 31}, r"older_than \(31 days\) must be less than lookback \(30 days\)"),
        (
            {"older_than": timedelta(days=7), "lookback": "7"},
            r"older_than \(7 days\) must be less than lookback \(7 days",
        ),
        (
            {"older_than": 1, "opens_and_clicks": "every"},
            "opens_and_clicks='every', a run without older_than .* remove these .*: Email Opened, Email Link Clicked$",
        ),
        (
            {"older_than": 1, "opens_and_clicks": "every_human", "collections": ["Email Sent", "SMS Link Clicked"]},
            "opens_and_clicks='every_human', .* Leave them to that run: .* from collections: SMS Link Clicked$",
        ),
        ({"settling_time": None}, "settling_time must be a timedelta or a number of minutes, got nothing"),
        ({"settling_time": True}, "settling_time must be a timedelta or a number of minutes, got true or false"),
        ({"preview": "maybe"}, "preview must be true or false, got a string"),
        ({"preview": None}, "preview must be true or false, got nothing"),
        (
            {"send_to_customerio_destinations": "nope"},
            "send_to_customerio_destinations must be true or false, got a string",
        ),
        ({"dead_letter_path": ""}, "dead_letter_path must be an absolute folder, local or remote, got empty text"),
        ({"dead_letter_path": "None"}, "dead_letter_path must be an absolute folder, .* got the text 'None'"),
        ({"on_unidentified": "dead_letter"}, "on_unidentified='dead_letter' needs dead_letter_path"),
        ({"collections": "[Email Opened"}, "collections is not a valid list: write it as JSON"),
        ({"collections": {"email": 1}}, "collections must be a list of names, got an object"),
        ({"pii": "mask"}, "pii must be one of 'keep', 'hash', 'drop', got 'mask'"),
        ({"pii": True}, "pii must be one of 'keep', 'hash', 'drop', got true or false"),
        (
            {"on_unidentified": "cio"},
            "on_unidentified must be one of 'skip', 'cio_id', 'dead_letter', 'fail', got 'cio'",
        ),
        ({"collections": "emails"}, "unknown collection 'emails'. Did you mean 'email'"),
        ({"collections": ["email", "inapp"]}, "unknown collection 'inapp'. Did you mean 'in_app'"),
        ({"collections": "twilio"}, "unknown collection 'twilio'. Groups are: email, push, sms"),
        ({"collections": ["all", "Email Clicked"]}, "Did you mean .*'Email Link Clicked'"),
        ({"collections": "subscription"}, "only streams have 'subscription', because Customer.io tells of people"),
        ({"collections": ["Email Opened", "Unsubscribed"]}, "only streams have 'Unsubscribed', because"),
        ({"collections": []}, "at least one collection"),
        ({"collections": None}, "collections must be a list of names, got nothing"),
        ({"lookback": float("nan")}, "lookback must be 0 to 180 days, got nan days"),
        ({"lookback": "7 days"}, "lookback must be a timedelta or a number of days, got a string"),
        ({"settling_time": 10**400}, "settling_time must be 0 to 7 days, got inf minutes"),
        ({"settling_time": timedelta(days=8)}, "settling_time must be 0 to 7 days"),
        ({"interval_start": "2026-11-01", "interval_end": "None"}, "interval_end must be ISO 8601"),
        ({"customerio_conn_id": ""}, "customerio_conn_id must be the id of a connection, got empty text"),
        ({"segment_conn_id": None}, "segment_conn_id must be the id of a connection, got nothing"),
    ],
)
def test_an_error_at_dag_parse(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        operator(**parameters)


def test_defaults_of_the_contract() -> None:
    task = operator()
    assert (task.opens_and_clicks, task.pii, task.on_unidentified) == ("first", "keep", "skip")
    assert (task.preview, task.send_to_customerio_destinations) == (False, False)
    assert (task.lookback, task.settling_time) == (timedelta(days=30), timedelta(minutes=30))
    assert len(task.collections) == 6
    assert "dry_run" not in vars(task)  # BaseOperator has a method of that name, which a parameter would hide


def test_defaults_of_options() -> None:
    assert set(READERS) == set(Options._fields)
    assert Options(pii="hash") == Options()._replace(pii="hash")
    for one in (CustomerIOToSegmentOperator, CustomerIOToWarehouseOperator):
        assert read_options(one(task_id="send")) == Options()


@pytest.mark.parametrize(
    "fine",
    [
        {"older_than": 0, "opens_and_clicks": "every"},
        {"older_than": 1, "opens_and_clicks": "first_human"},
        {"older_than": 1, "opens_and_clicks": "every", "collections": ["Email Sent", "WhatsApp Opened"]},
        {"older_than": 29.999},
    ],
)
def test_ages_that_fit(fine: dict[str, Any]) -> None:
    assert read_options(operator(**fine)).older_than == timedelta(days=fine["older_than"])


@pytest.mark.parametrize(
    ("parameters", "it", "message"),
    [
        ({"older_than": "{{ params.it }}"}, "40", r"older_than \(40 days\) must be less than lookback"),
        ({"older_than": 1, "lookback": "{{ params.it }}"}, "1", r"must be less than lookback \(1 day\)"),
        ({"older_than": 1, "opens_and_clicks": "{{ params.it }}"}, "every", "Leave them to that run"),
    ],
)
def test_ages_that_only_the_run_knows(parameters: dict[str, Any], it: str, message: str) -> None:
    given = operator(**parameters)
    given.render_template_fields(RUN | {"params": {"it": it}})
    with pytest.raises(AirflowFailException, match=message):
        given.execute(RUN)


def names_of(task: CustomerIOToSegmentOperator) -> list[str]:
    return [one.name for one in read_options(task).collections]


def test_groups_of_collections() -> None:
    assert names_of(operator(collections="sms")) == [name for name in CATALOG if name.startswith("SMS ")]
    of_messages = [name for name, one in CATALOG.items() if not one.is_of_person]
    assert names_of(operator(collections="all")) == of_messages
    assert names_of(operator(collections=("Slack Sent", "email", "Email Sent"))) == ["Slack Sent", *GROUPS["email"]]
    assert names_of(operator(collections="Email Sent")) == ["Email Sent"]
    channels = [name for name in GROUPS if name not in ("subscription", "all")]
    assert names_of(operator(collections=channels)) == of_messages


def test_values_given_as_text() -> None:
    task = operator(
        collections='["Email Opened", "Email Sent"]',
        opens_and_clicks=" every ",
        lookback="7",
        settling_time="5",
        preview="true",
    )
    options = read_options(task)
    assert [one.name for one in options.collections] == ["Email Opened", "Email Sent"]
    assert options[1:5] == ("every", timedelta(days=7), timedelta(0), timedelta(minutes=5))
    assert options.preview is True
    assert names_of(operator(collections="['Email Opened']")) == ["Email Opened"]
    assert read_options(operator(preview="False")).preview is False


def test_every_parameter_is_templated() -> None:
    own = set(inspect.signature(CustomerIOToSegmentOperator.__init__).parameters) - {"self", "kwargs"}
    assert set(CustomerIOToSegmentOperator.template_fields) == own
    assert set(CustomerIOToSegmentOperator.template_fields_renderers) <= own
    given = {name: f"{{{{ params.{name} }}}}" for name in own}
    task = operator(**given)
    assert {name: getattr(task, name) for name in own} == given


CHANGES: dict[str, object] = {
    "customerio_conn_id": "other",
    "segment_conn_id": "other",
    "collections": ["Email Sent"],
    "opens_and_clicks": "every",
    "lookback": timedelta(days=7),
    "older_than": 1,
    "settling_time": timedelta(minutes=5),
    "interval_start": "2026-09-01",
    "interval_end": "2026-11-02",
    "on_unidentified": "cio_id",
    "pii": "hash",
    "dead_letter_path": "/dead_letters",
    "preview": True,
    "send_to_customerio_destinations": True,
}


def serialized(**parameters: Any) -> str:
    """Serialize the task as Airflow stores it with a version of its DAG."""
    module: Any = import_module("airflow.serialization.serialized_objects")
    with DAG(dag_id="stored", schedule=None) as dag:
        operator(**parameters)
    # Airflow 3.2 has put it into a class of its own.
    serialization = getattr(module, "DagSerialization", module.SerializedDAG)
    return json.dumps(serialization.to_dict(dag), sort_keys=True)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_change_makes_a_dag_version(name: str) -> None:
    before = {"interval_start": "2026-10-01", "interval_end": "2026-10-02"}
    assert serialized(**before) == serialized(**before)
    assert serialized(**before | {name: CHANGES[name]}) != serialized(**before)


def with_its_other_half(name: str, value: object) -> dict[str, Any]:
    """Return the parameter, and the other bound of the interval if it is one."""
    bounds = ("interval_start", "interval_end")
    return dict.fromkeys(bounds if name in bounds else (name,), value)


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        (name, rendered)
        for name in PARAMETERS
        for rendered in ("", " ", "None", "nonsense =")
        if name != "interval_end" and not (rendered == "nonsense =" and name.endswith(("conn_id", "path")))
    ],
)
def test_wrong_rendered_values(sandbox: Sandbox, name: str, rendered: str) -> None:
    given = operator(**with_its_other_half(name, "{{ params.it }}"))
    given.render_template_fields(RUN | {"params": {"it": rendered}})
    with pytest.raises(AirflowFailException, match=rf"\b{name}\b|unknown collection"):
        given.execute(RUN)
    assert sandbox.customerio.requests == []


@pytest.mark.parametrize(
    ("name", "value", "native", "meant"),
    [
        ("collections", ["Email Opened", "Email Sent"], False, ["Email Opened", "Email Sent"]),
        ("collections", ["Email Opened", "Email Sent"], True, ["Email Opened", "Email Sent"]),
        ("collections", ("Email Opened",), False, ["Email Opened"]),
        ("collections", '["Email Opened"]', False, ["Email Opened"]),
        ("collections", "Email Opened", True, ["Email Opened"]),
        ("lookback", 7, False, timedelta(days=7)),
        ("lookback", 0.5, True, timedelta(hours=12)),
        ("older_than", 7, False, timedelta(days=7)),
        ("older_than", None, True, timedelta(0)),
        ("settling_time", 0, False, timedelta(0)),
        ("settling_time", timedelta(hours=1), True, timedelta(hours=1)),
        ("preview", True, False, True),
        ("preview", False, True, False),
        ("preview", 1, False, True),
        ("dead_letter_path", None, True, None),
        ("dead_letter_path", " /tmp/x ", False, "/tmp/x"),
    ],
)
def test_params_as_text_or_native(name: str, value: object, native: bool, meant: object) -> None:
    with DAG(dag_id="rendered", schedule=None, render_template_as_native_obj=native):
        given = operator(**{name: "{{ params.it }}"})
    context: Any = {"params": {"it": value}}
    given.render_template_fields(context)
    found = getattr(read_options(given), name)
    assert ([one.name for one in found] if name == "collections" else found) == meant


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("form", ["output", "param", "template"])
def test_values_known_only_in_the_run(name: str, form: str) -> None:
    with DAG(dag_id="results", schedule=None, params={"it": "x"}) as dag:

        @task
        def before() -> None: ...

        later: object = before() if form == "output" else dag.param("it") if form == "param" else "{{ params.it }}"
        parameters = with_its_other_half(name, later)
        after = CustomerIOToSegmentOperator(task_id="after", **parameters)
    assert {one: getattr(after, one) for one in parameters} == parameters
    assert after.upstream_task_ids == ({"before"} if form == "output" else set())


def test_a_list_with_a_task_result() -> None:
    with DAG(dag_id="results", schedule=None):
        before: Any = operator(collections="email").output
        CustomerIOToSegmentOperator(task_id="after", collections=["Email Opened", before])


# Mapped tasks


@pytest.mark.parametrize("wrong", [{"pii": "nope"}, {"lookback": 5000}, {"preview": "maybe"}, {"interval_start": ""}])
def test_wrong_mapped_parameter_fails(wrong: dict[str, Any]) -> None:
    """Airflow fails a task without a retry for `AirflowFailException`, wherever it is raised."""
    with DAG(dag_id="mapped", schedule=None):
        expanded = CustomerIOToSegmentOperator.partial(task_id="expanded").expand_kwargs([wrong])
        partial = CustomerIOToSegmentOperator.partial(task_id="partial", **wrong).expand(collections=["email", "push"])
    for mapped, kwargs in ((expanded, wrong), (partial, {"collections": "email"})):
        with pytest.raises(AirflowFailException, match=next(iter(wrong))) as caught:
            mapped.unmap(kwargs)
        assert isinstance(caught.value, ConfigurationError)


def test_a_mapped_task() -> None:
    with DAG(dag_id="mapped", schedule=None):
        mapped = CustomerIOToSegmentOperator.partial(task_id="send", pii="hash").expand(collections=["email", "push"])
    one = mapped.unmap({"collections": "push"})
    assert isinstance(one, CustomerIOToSegmentOperator)
    assert (read_options(one).pii, names_of(one)) == ("hash", list(GROUPS["push"]))


def test_both_operators_document_alike() -> None:
    """Users look only at the operator that they import, so each documents all parameters, and in the same words."""

    def documented(operator: type) -> dict[str, str]:
        text = " ".join(str(operator.__doc__).split())
        return dict(re.findall(r":param (\w+): (.*?)(?= :param | :returns: )", text))

    segment, warehouse = documented(CustomerIOToSegmentOperator), documented(CustomerIOToWarehouseOperator)
    assert set(segment) == set(CustomerIOToSegmentOperator.template_fields)
    assert set(warehouse) == set(CustomerIOToWarehouseOperator.template_fields)
    shared = segment.keys() & warehouse.keys()
    assert {name: segment[name] for name in shared} == {name: warehouse[name] for name in shared}
