"""The counts of a run in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.observability.summary import progress, summary
from airflow_provider_cio.pipeline.result import LOADED, Result, Tally

EVENTS = {"Email Delivered": 75, "Email Opened": 31, "Email Marked as Spam": 7, "Email Bounced": 0}


def result(
    events: dict[str, int], *, read: dict[str, int] | None = None, skipped: dict[str, int] | None = None, **more: Any
) -> Result:
    tally = Tally(Counter(read or {"deliveries": 1335}), Counter(events), Counter(skipped or {}))
    work = {"requests": 7, "events": sum(events.values())} | more.pop("work", {})
    return Result(Interval(0, 1), tally, Counter(work), **more)


def test_events_come_first() -> None:
    assert summary(result(EVENTS, skipped={"unidentified": 7})) == (
        "113 events sent (delivered 75, opened 31, marked as spam 7), "
        "7 events of people without id or address skipped; 1,335 deliveries read in 7 requests"
    )


def test_one_of_each() -> None:
    one = result({"Email Opened": 1}, read={"deliveries": 1, "activities": 1}, skipped={"malformed": 1})
    one.work["requests"] = 1
    assert summary(one) == (
        "1 event sent (opened 1), 1 malformed row of other runs skipped; 1 delivery and 1 activity read in 1 request"
    )


def test_nothing() -> None:
    assert summary(result({"Email Opened": 0}, read={"deliveries": 0}, work={"requests": 2})) == (
        "0 events sent; 0 deliveries read in 2 requests"
    )


def test_preview_counts_what_would_be_sent() -> None:
    preview = result(EVENTS, refused=Counter(event_too_large=2, malformed=1), work={"events": 0})
    assert summary(preview, preview=True).startswith(
        "113 events would be sent (delivered 75, opened 31, marked as spam 7), "
        "3 can't be sent (event_too_large 2, malformed 1); "
    )


def test_channels_are_named_if_there_are_several() -> None:
    assert " (Email Opened 2, Push Opened 1); " in summary(result({"Push Opened": 1, "Email Opened": 2}))


def test_the_largest_collections_are_named() -> None:
    many = result({f"Email {letter}": 10 - at for at, letter in enumerate("ABCDEFGH")})
    assert " (a 10, b 9, c 8, d 7, e 6, f 5, 7 of 2 other collections); " in summary(many)


def test_repetitions_have_their_reasons() -> None:
    assert summary(result(EVENTS, work={"retried": 3, "rate_limited": 2})).endswith(
        " read in 7 requests (3 repetitions: 2 for the rate limit, 1 after faults)"
    )
    assert summary(result(EVENTS, work={"retried": 1, "rate_limited": 5})).endswith(
        " (1 repetition: 1 for the rate limit)"
    )


def test_load_counts_new_events() -> None:
    loaded = result(EVENTS, work={"new": 40}, wording=LOADED, resumed=True)
    assert summary(loaded).startswith("113 events loaded (delivered 75, opened 31, marked as spam 7), 40 of them new; ")
    assert summary(loaded).endswith(" requests, earlier tries included")
    assert progress(loaded) == "113 events loaded; 1,335 deliveries read in 7 requests"
