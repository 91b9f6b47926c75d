"""`campaign_name` of every kind of parent, read beside the pages, once per run."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from airflow_provider_cio.customerio import client as customerio
from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.events.occurrence import Occurrence, Piece
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.pipeline.result import Result
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.parents import Names as GivenNames
from tests.unit.full import held, kept, run_full, to_send
from tests.unit.support import DAY, NOVEMBER, clients

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
KINDS = ("campaign_id", "newsletter_id", "broadcast_id", "transactional_message_id")
LISTS = ("/v1/campaigns", "/v1/newsletters", "/v1/broadcasts", "/v1/transactional")


def workspace(*parents: Mapping[str, int], names: GivenNames | None = None, sent: int = NOVEMBER) -> History:
    """Return a workspace with a delivery for each of these parents, sent then."""
    shared = {"type": "email", "created": NOVEMBER, "metrics": {"sent": sent}, "customer_id": "1"}
    return History(deliveries=[{"id": f"d{n}", **shared, **parent} for n, parent in enumerate(parents)], names=names)


def run(sandbox: Sandbox) -> tuple[Result, list[str]]:
    """Run, and return the result and the warnings."""
    warnings: list[str] = []
    result = run_full(sandbox, INTERVAL, ["Email Sent"], every=False, warn=warnings.append)
    return result, warnings


def at(piece: Piece) -> int:
    return piece.occurrences[0].time


def lists_asked(sandbox: Sandbox) -> Counter[str]:
    return Counter(asked.path for asked in sandbox.customerio.requests if asked.path != "/v1/messages")


def names_sent(sandbox: Sandbox) -> dict[str, str | None]:
    return {
        event["properties"]["delivery_id"]: event["properties"].get("campaign_name") for event in sandbox.segment.kept
    }


def test_parent_gives_its_name(sandbox: Sandbox) -> None:
    sandbox.history = workspace(
        *({kind: 7} for kind in KINDS),
        {},
        names={("campaign", 7): "C 🌞", ("newsletter", 7): "N", ("broadcast", 7): 'B "x"', ("transactional", 7): "T"},
    )
    _, warnings = run(sandbox)
    assert names_sent(sandbox) == {"d0": "C 🌞", "d1": "N", "d2": 'B "x"', "d3": "T", "d4": None}
    assert warnings == []
    assert lists_asked(sandbox) == dict.fromkeys(LISTS, 1)


def test_names_match_the_workspace(sandbox: Sandbox) -> None:
    sandbox.history = History.generate(seed=2, deliveries=800, start=NOVEMBER - DAY, end=NOVEMBER + DAY)
    names = ["Email Sent", "Push Sent", "SMS Sent", "Email Opened"]
    run_full(sandbox, INTERVAL, names)
    truth = held(sandbox.history, [INTERVAL], names)
    assert kept(sandbox.segment.kept) == to_send(truth)
    assert {one.parent_kind for one in truth} == {"campaign", "newsletter", "broadcast", "transactional"}
    assert any(one.parent_kind and one.campaign_name is None for one in truth)  # it was deleted


def test_lists_are_read_once_per_run(sandbox: Sandbox) -> None:
    sandbox.history = History.generate(seed=2, deliveries=4000, start=NOVEMBER - DAY, end=NOVEMBER + DAY)
    run_full(sandbox, INTERVAL)
    asked = Counter(one.path for one in sandbox.customerio.requests)
    assert [asked[path] for path in LISTS] == [1, 1, 1, 1]
    run_full(sandbox, INTERVAL)
    asked = Counter(one.path for one in sandbox.customerio.requests)
    assert [asked[path] for path in LISTS] == [2, 2, 2, 2]  # a campaign may have been renamed since


def test_lists_are_asked_beside_the_first_pages(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(latency=0.2)
    sandbox.history = workspace({}, {"campaign_id": 1})
    run(sandbox)
    first = [one for one in sandbox.customerio.requests if one.time < sandbox.customerio.requests[0].time + 0.2]
    assert {one.path for one in first} == {*LISTS, "/v1/messages"}


@pytest.mark.parametrize("kind", ["403", "500", "timeout"])
def test_list_without_need_does_not_matter(sandbox: Sandbox, kind: Any) -> None:
    """A workspace without newsletters may have a key that can't read them, or its list may be out of order."""
    sandbox.history = workspace({"campaign_id": 1}, {"campaign_id": 2}, {"campaign_id": 3, "newsletter_id": 4})
    for path in LISTS[1:]:
        sandbox.faults.add(Fault(side="customerio", kind=kind, path=path, times=10_000, seconds=5))
    began = time.monotonic()
    _, warnings = run(sandbox)
    assert time.monotonic() - began < 4
    assert warnings == []
    assert None not in names_sent(sandbox).values()


def test_newsletters_come_in_pages(sandbox: Sandbox) -> None:
    sandbox.history = workspace(*({"newsletter_id": number} for number in range(1, 361)))
    run(sandbox)
    found = names_sent(sandbox)
    assert len(found) == 360
    assert all(name and name.endswith(f" {int(each[1:]) + 1}") for each, name in found.items())
    assert lists_asked(sandbox) == dict.fromkeys(LISTS, 1) | {"/v1/newsletters": 4}
    cursors = [one.params.get("start") for one in sandbox.customerio.requests if one.path == "/v1/newsletters"]
    assert cursors[0] is None
    assert len(set(cursors)) == 4


def test_endless_list_ends(sandbox: Sandbox) -> None:
    sandbox.history = workspace(*({"newsletter_id": number} for number in range(1, 361)))
    sandbox.faults.add(Fault(side="customerio", kind="repeat_cursor", path="/v1/newsletters", times=1000))
    _, warnings = run(sandbox)
    assert warnings == []
    assert sum(name is not None for name in names_sent(sandbox).values()) == 200


@pytest.mark.parametrize("form", ["int", "string", "mixed"])
@pytest.mark.parametrize("text", [False, True])
def test_ids_are_matched_as_text(sandbox: Sandbox, form: Any, text: bool) -> None:
    """Ids are integers in the specification, and strings now and then in life, on either side."""
    sandbox.settings = Settings(parent_ids=form)
    sandbox.history = workspace(*({kind: number} for kind in KINDS for number in (3, 4, 5)))
    source, _ = clients(sandbox)
    warnings: list[str] = []
    with source, Reader(source) as reader:
        names = Names(reader, warnings.append)
        for kind in KINDS:
            for number in (3, 4, 5):
                row = {"id": "d", "type": "email", "created": 1, "metrics": {}, kind: str(number) if text else number}
                found = names.of(msgspec.convert(row, Delivery))
                assert found is not None
                assert found.endswith(f" {number}")
    assert warnings == []


def test_deleted_parent_leaves_its_id(sandbox: Sandbox) -> None:
    sandbox.history = workspace(
        {"campaign_id": 1},
        {"campaign_id": 2},
        {"newsletter_id": 3},
        names={("campaign", 2): None, ("newsletter", 3): None},
    )
    _, warnings = run(sandbox)
    found = names_sent(sandbox)
    assert found["d0"] is not None
    assert found["d1"] is found["d2"] is None
    by_id = {event["properties"]["delivery_id"]: event["properties"] for event in sandbox.segment.kept}
    assert by_id["d1"]["campaign_id"] == 2
    assert by_id["d2"]["newsletter_id"] == 3
    assert warnings == []


@pytest.mark.parametrize("null", [False, True])
def test_empty_list_costs_no_warning(sandbox: Sandbox, null: bool) -> None:
    sandbox.settings = Settings(null_when_empty=null)
    sandbox.history = workspace({"campaign_id": 1}, names={("campaign", 1): None})
    assert run(sandbox)[1] == []
    assert names_sent(sandbox) == {"d0": None}


# Unreadable lists


def test_missing_scopes_cost_one_warning(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(scopes=("messages", "activities", "broadcasts"))
    sandbox.history = workspace(*({kind: number} for number in range(1, 40) for kind in KINDS))
    report, warnings = run(sandbox)
    assert report.events["Email Sent"] == len(sandbox.segment.kept) == 39 * 4
    assert lists_asked(sandbox) == dict.fromkeys(LISTS, 1)  # a 403 is not asked again
    [warning] = warnings
    for path, kind in zip(LISTS, KINDS, strict=True):
        assert (path in warning) == (kind in warning) == (path != "/v1/broadcasts")
    assert warning.startswith("No campaign_name for events with a campaign_id, ")
    assert "403" in warning
    assert warning.count("Customer.io") == warning.count("scope") == 1
    named = {
        event["properties"].get("broadcast_id")
        for event in sandbox.segment.kept
        if "campaign_name" in event["properties"]
    }
    assert named == set(range(1, 40))
    assert sandbox.settings.app_key not in "".join(warnings)


@pytest.mark.parametrize("kind", ["500", "html200", "truncated_json", "reset"])
def test_failing_list_is_left_to_a_retry(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """An event sent without a name never gets one, because Segment drops the same messageId."""
    monkeypatch.setattr(customerio, "_PATIENCE_FOR_NAMES", 0.2)
    sandbox.history = workspace({"campaign_id": 1}, {"transactional_message_id": 1})
    for path in LISTS:
        sandbox.faults.add(Fault(side="customerio", kind=kind, path=path, times=10_000))
    with pytest.raises(TryAgainLaterError):
        run(sandbox)
    assert sandbox.segment.kept == []
    sandbox.faults.clear()
    assert run(sandbox)[1] == []
    assert None not in names_sent(sandbox).values()


def test_slow_list_does_not_stop_reading(sandbox: Sandbox) -> None:
    sandbox.history = History(
        deliveries=[
            {
                "id": f"d{n}",
                "type": "email",
                "created": NOVEMBER + n,
                "metrics": {"sent": NOVEMBER + n},
                "campaign_id": 1,
            }
            for n in range(4000)
        ]
    )
    sandbox.faults.add(Fault(side="customerio", kind="timeout", path="/v1/campaigns", seconds=0.5))
    run(sandbox)
    paths = {one.path: one for one in sandbox.customerio.requests}
    answered = paths["/v1/campaigns"].time + paths["/v1/campaigns"].seconds
    beside = [one for one in sandbox.customerio.requests if one.path == "/v1/messages" and one.time < answered]
    assert len(beside) >= 3  # two of them were there before


def test_slow_list_keeps_order() -> None:
    arrived = threading.Event()

    class Slow(CustomerIOClient):
        def names(self, path: str, key: str) -> dict[str, str]:
            arrived.wait(10)
            return {"1": "it"}

    def pieces() -> Iterator[Piece]:
        for part in range(40):
            drawn.append(part)
            row = {"id": "d", "type": "email", "created": 1, "metrics": {}, "campaign_id": 1}
            yield Piece([Occurrence(msgspec.convert(row, Delivery), CATALOG["Email Sent"], part)])

    drawn: list[int] = []
    with Slow("key") as client, Reader(client) as reader:
        names = Names(reader, print)
        found = names.ahead_of(pieces())
        first = next(found)
        assert len(drawn) == 17  # 16 wait behind it
        arrived.set()
        assert [at(piece) for piece in (first, *found)] == list(range(40))
        assert names.of(first.occurrences[0].message) == "it"


def test_passing_fault_costs_nothing(sandbox: Sandbox) -> None:
    sandbox.history = workspace({"campaign_id": 1})
    sandbox.faults.add(Fault(side="customerio", kinds=("502", "429"), path="/v1/campaigns", times=2))
    _, warnings = run(sandbox)
    assert warnings == []
    assert names_sent(sandbox)["d0"] is not None


def test_newsletters_in_pages_of_fifty(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(most_newsletters=50)
    sandbox.history = workspace(*({"newsletter_id": number} for number in range(1, 161)))
    _, warnings = run(sandbox)
    assert warnings == []
    assert all(names_sent(sandbox).values())
    # The first has a limit, which is refused.
    assert lists_asked(sandbox) == dict.fromkeys(LISTS, 1) | {"/v1/newsletters": 5}


@pytest.mark.parametrize("status", ["400", "403"])
def test_refused_later_page_is_retried(sandbox: Sandbox, status: Any) -> None:
    """The cursor may have expired, or another worker may read on. Names can't be added to events later."""
    sandbox.history = workspace(*({"newsletter_id": number} for number in range(1, 161)))
    sandbox.faults.add(Fault(side="customerio", kind=status, path="/v1/newsletters", at=1))
    with pytest.raises(TryAgainLaterError):
        run(sandbox)
    run(sandbox)
    assert all(names_sent(sandbox).values())


@pytest.mark.parametrize(
    "body",
    [
        '{"campaigns":"many"}',
        '{"campaigns":[{"name":"no id"}]}',
        '{"campaigns":{}}',
        "[]",
        '{"campaigns":[{"id":[1]}]}',
    ],
)
def test_malformed_list_is_a_warning(sandbox: Sandbox, body: str) -> None:
    sandbox.history = workspace({"campaign_id": 1})
    sandbox.faults.add(Fault(side="customerio", kind="html200", path="/v1/campaigns", body=body))
    report, warnings = run(sandbox)
    assert report.events["Email Sent"] == 1
    assert names_sent(sandbox) == {"d0": None}
    assert len(warnings) == 1


@pytest.mark.parametrize("name", ['""', "null"])
def test_nameless_parent_gives_no_name(sandbox: Sandbox, name: str) -> None:
    sandbox.history = workspace({"campaign_id": 1})
    body = f'{{"campaigns":[{{"id":1,"name":{name}}},{{"id":2}}],"next":null}}'
    sandbox.faults.add(Fault(side="customerio", kind="html200", path="/v1/campaigns", body=body))
    assert run(sandbox)[1] == []
    assert names_sent(sandbox) == {"d0": None}


@pytest.mark.parametrize("readable", [True, False])
def test_only_the_lists_stay_in_memory(readable: bool) -> None:
    """Each piece is made when it is drawn, and its events are named, so only the lists can add up."""

    class Lists(CustomerIOClient):
        def names(self, path: str, key: str) -> dict[str, str]:
            if not readable:
                raise ConfigurationError("403")
            return {str(number): f"{path} {number}" for number in range(20)}

    def pieces() -> Iterator[Piece]:
        for part in range(220):
            yield Piece([sent(part * 50 + number) for number in range(50)])

    def sent(number: int) -> Occurrence:
        row = {"id": f"d{number}", "type": "email", "created": 1, "metrics": {}, KINDS[number % 4]: number % 30}
        return Occurrence(msgspec.convert(row, Delivery), CATALOG["Email Sent"], number)

    held: list[int] = []
    warnings: list[str] = []
    found = Counter[bool]()
    tracemalloc.start()
    with Lists("key") as client, Reader(client) as reader:
        names = Names(reader, warnings.append)
        for piece in names.ahead_of(pieces()):
            found.update(names.of(one.message) is not None for one in piece.occurrences)
            if at(piece) in (19 * 50, 219 * 50):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        names.warn_of_missing()
    tracemalloc.stop()
    assert found.total() == 11_000
    assert (found[True] > 7_000) if readable else (found[True] == 0)
    assert len(warnings) == (0 if readable else 1)
    assert held[1] - held[0] < 20_000
