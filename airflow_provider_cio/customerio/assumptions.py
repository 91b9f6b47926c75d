"""Check the assumptions about the App API for a preview, and return each with its numbers.

It makes nine requests at most, of its own. Nothing here decides which events are sent, and nothing names a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from airflow_provider_cio.customerio.activities import delivery_id_of
from airflow_provider_cio.customerio.client import ACTIVITY_PAGE_SIZE, PAGE_SIZE, CustomerIOClient
from airflow_provider_cio.customerio.decoding import Page
from airflow_provider_cio.customerio.deliveries import kind_of_metric
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.customerio.windows import LONGEST_WINDOW, query_of
from airflow_provider_cio.events.catalog import REPEATING, Collection
from airflow_provider_cio.events.interval import Interval, Window, is_time, whole
from airflow_provider_cio.events.mapping import user_id_of
from airflow_provider_cio.exceptions import CustomerIOToSegmentError

#: Rows that the request with a small limit asks for.
_FEW = 2
#: Deliveries that are asked for by id, to compare their times with those of activities.
_MOST_BY_ID = 4

#: For each assumption, ``as_assumed`` (None if nothing could be compared) and the numbers behind it.
Found = dict[str, dict[str, Any]]


def check_assumptions(
    client: CustomerIOClient, interval: Interval, lookback: int, collections: Sequence[Collection]
) -> Found:
    """Ask Customer.io for some rows of the first collection's channel, and compare them with what is assumed.

    :param lookback: seconds before the interval in which the deliveries were created.
    :raises CustomerIOToSegmentError: as `CustomerIOClient.page` does. Activities that can't be read are no error.
    """
    channel = collections[0].channel
    start = max(0, interval.start - lookback, interval.end - LONGEST_WINDOW)
    query = query_of(Window(channel, start, interval.end))
    page = client.page(query)
    opened, clicked = (_activities(client, metric, channel) for metric in ("opened", "clicked"))
    return {
        "newest_first": _newest_first(page),
        "within_bounds": _within_bounds(page, start, interval.end),
        "limit": _limit(client, page, query),
        "next_at_end": _next_at_end(client, page, query),
        "people_with_id": _people_with_id(page),
        "metrics": _metrics(page, channel),
        "first_activity": _first_activity(client, page, opened),
        "link_of_click": _link_of_click(clicked),
    }


def _newest_first(page: Page[Delivery]) -> dict[str, Any]:
    times = [row.created for row in page.rows]
    out_of_order = sum(later > earlier for earlier, later in pairwise(times))
    return {"as_assumed": not out_of_order if times[1:] else None, "rows": len(times), "out_of_order": out_of_order}


def _within_bounds(page: Page[Delivery], start: int, end: int) -> dict[str, Any]:
    outside = sum(not start <= row.created < end for row in page.rows)
    return {"as_assumed": not outside if page.rows else None, "rows": len(page.rows), "outside": outside}


def _limit(client: CustomerIOClient, page: Page[Delivery], query: Mapping[str, str | int]) -> dict[str, Any]:
    few = client.page({**query, "limit": _FEW})
    rows = len(few.rows) + len(few.malformed)
    enough = len(page.rows) + len(page.malformed) > _FEW
    return {"as_assumed": rows == _FEW and few.next is not None if enough else None, "asked": _FEW, "rows": rows}


def _next_at_end(client: CustomerIOClient, page: Page[Delivery], query: Mapping[str, str | int]) -> dict[str, Any]:
    """Ask for the second of the oldest row, whose list is short, and look at the `next` of its answer."""
    created = min((row.created for row in page.rows), default=query["start_ts"])
    answer = client.answer("/v1/messages", {**query, "start_ts": created, "end_ts": created})
    rows = len(answer["messages"]) if isinstance(answer.get("messages"), list) else 0
    following = answer.get("next", "absent")
    value = (
        "null" if following is None else "empty" if following == "" else "absent" if "next" not in answer else "more"
    )
    return {"as_assumed": value != "more" if rows < PAGE_SIZE else None, "rows": rows, "next": value}


def _people_with_id(page: Page[Delivery]) -> dict[str, Any]:
    without = sum(user_id_of(row) is None for row in page.rows)
    is_most = without * 2 <= len(page.rows)
    return {"as_assumed": is_most if page.rows else None, "rows": len(page.rows), "without_id": without}


def _metrics(page: Page[Delivery], channel: str) -> dict[str, Any]:
    kinds = [kind_of_metric(channel, key) for row in page.rows for key in row.metrics]
    unknown = sum(kind is None for kind in kinds)
    keys = sorted({kind for kind in kinds if kind})
    return {"as_assumed": not unknown if kinds else None, "keys": keys, "unknown": unknown}


def _activities(client: CustomerIOClient, metric: str, channel: str) -> Page[Activity] | None:
    """Return the newest activities of a metric, an empty page if no activity is of the kind; None after a failure."""
    if (channel, metric) not in REPEATING:
        return Page((), (), None)
    try:
        return client.activity_page({"type": f"{metric}_{channel}", "limit": ACTIVITY_PAGE_SIZE})
    except CustomerIOToSegmentError:
        return None


def _first_activity(
    client: CustomerIOClient, page: Page[Delivery], activities: Page[Activity] | None
) -> dict[str, Any]:
    """Compare deliveries' own times of the first open with their activities, as far back as these reach."""
    times: dict[str, set[int]] = {}
    for activity in activities.rows if activities else ():
        if delivery_id := delivery_id_of(activity):
            times.setdefault(delivery_id, set()).add(activity.timestamp)
    oldest = min((time for some in times.values() for time in some), default=0)
    metrics = {row.id: row.metrics for row in page.rows if row.id in times}
    for delivery_id in [one for one in times if one not in metrics][:_MOST_BY_ID]:
        try:
            found = client.delivery(delivery_id)
        except CustomerIOToSegmentError:
            break
        if isinstance(found, Delivery):
            metrics[delivery_id] = found.metrics
    firsts = [(one, first) for one, known in metrics.items() if is_time(first := whole(known.get("opened")))]
    compared = [(one, first) for one, first in firsts if first > oldest]
    equal = sum(first in times[one] for one, first in compared)
    return {
        "as_assumed": equal == len(compared) if compared else None,
        "readable": activities is not None,
        "compared": len(compared),
        "equal": equal,
    }


def _link_of_click(activities: Page[Activity] | None) -> dict[str, Any]:
    clicks = [activity.data or {} for activity in activities.rows] if activities else []
    href = sum("href" in data for data in clicks)
    link = sum("href" not in data and "link" in data for data in clicks)
    neither = len(clicks) - href - link
    return {
        "as_assumed": not neither if clicks else None,
        "readable": activities is not None,
        "href": href,
        "link": link,
        "neither": neither,
    }
