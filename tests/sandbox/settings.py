"""Settings of a running sandbox, and the state shared by the two services and the server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tests.sandbox.history import History
from tests.sandbox.limiters import Kind as LimiterKind
from tests.sandbox.odd import ODDITIES
from tests.sandbox.parents import IdForm
from tests.sandbox.rows import Order, Ordering

APP_KEY = "sandbox-app-api-key-0123456789abcdef"
WRITE_KEY = "sandboxWriteKey0123456789abcdefg"


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Behaviour of the two services. All settings may be changed while the sandbox runs."""

    # Customer.io's App API
    app_key: str = APP_KEY
    #: The region this host serves, and the one the key belongs to: if they differ, every key gets 401.
    region: Literal["us", "eu"] = "us"
    key_region: Literal["us", "eu"] = "us"
    #: Lists that the key may read, by the first word of the path ("messages"); None is everything.
    scopes: tuple[str, ...] | None = None
    #: Seconds that each request to the App API is under way before it arrives, and is counted: a seeded chance
    #: between 0 and this, each time anew, so that evenly spaced requests arrive in clusters.
    arrival_jitter: float = 0.0
    #: Seconds from the arrival of a request at the App API to its answer.
    latency: float = 0.0
    #: 0 is no limit; the documented one is 10.
    requests_per_second: float = 0
    #: What that means: a bucket that starts full and is refilled evenly, so many in each second of the wall clock,
    #: or so many in any 1.0 seconds.
    limiter: LimiterKind = "bucket"
    #: Requests per second that another client of the workspace makes, evenly spaced, under the same limit.
    other_client: float = 0.0
    #: Seconds that a second of the limit takes: a short one is met often by a short test, and is soon over. Then
    #: Retry-After has a fraction, but for a date.
    limit_second: float = 1.0
    retry_after: Literal["seconds", "date"] | None = None
    drafts_wording: Literal["instead", "both"] = "instead"
    #: `"messages": null` in place of an empty list.
    null_when_empty: bool = False
    #: After every so many pages of a chain comes an empty one with a `next`; 0 is never.
    empty_page_every: int = 0
    #: How the end of a chain is told: `"next": ""`, `"next": null`, or no `next`.
    last_next: Literal["empty", "null", "absent"] = "empty"
    #: A last page that is full still names a `next`, which then leads to an empty page.
    trailing_page: bool = False
    #: How a list is ordered by creation; newest first is what is observed, and nowhere documented.
    #: "nearly" is newest first, but that a share of the rows (0 to 1) stands where it would if it had been created
    #: up to so many seconds earlier or later. The same row is always moved by the same, whatever bounds are asked.
    order: Order = "newest"
    displaced: float = 0.01
    displaced_by: int = 60
    #: So many rows come in at the head of a list (of deliveries or activities) before each further page of it, so
    #: that each page begins with the last rows of the one before; all but one row of a page at most.
    repeated_rows: int = 0
    #: Seconds by which a list of deliveries reaches beyond both bounds that were asked for.
    loose_bounds: int = 0
    #: A delivery is listed only from the moment of its creation on, and not ahead of it.
    visible_from_creation: bool = False
    #: A metric (but `created`) and its activity are shown from their time on or up to so many seconds later, each
    #: delivery and metric with a delay of its own; None shows all there are, even those of the future.
    visible_after: int | None = None
    #: What a cursor is. "offset" counts the rows from the head of the list as it is now: rows that come in make others
    #: come twice, rows that leave (drafts that are sent) make others be missed, and beyond the end the list begins
    #: anew. "stable" names a row.
    cursors: Literal["stable", "offset"] = "offset"
    #: Seconds after which a cursor gets 400; None is never.
    cursor_lifetime: float | None = None
    #: A cursor holds only for the very parameters (but `limit`) that it was given for; with others it gets 400.
    cursors_bound: bool = False
    #: Shares (0 to 1) of the rows that are not as documented; see `odd.ODDITIES`.
    odd_deliveries: float = 0.0
    odd_activities: float = 0.0
    #: Names of the kinds that those are of; None is every kind.
    odd_kinds: tuple[str, ...] | None = None
    #: id of a delivery or of an activity -> the kind of this very row.
    odd_rows: dict[str, str] = {}

    #: Seconds by which an activity may stand behind an older one; 0 is none.
    activity_disorder: int = 600
    #: Activities older than this many days are not listed; the API guarantees 30.
    activities_days: float | None = None
    #: How the last page of activities ends: as `last_next` says, or with a cursor, which leads to an empty page
    #: with that same cursor, or with a new one each time.
    activities_end: Literal["next", "same_cursor", "new_cursor"] = "next"
    #: "documented" refuses a `type` of activity that the API's own list lacks: it has no `opened_whatsapp`.
    activity_types: Literal["all", "documented"] = "all"
    #: Whether a PUT of a reporting webhook may name what changes only, or has to name all; then what it leaves out
    #: gets its default.
    webhook_put: Literal["partial", "whole"] = "partial"
    #: The ids of campaigns and the like in their lists: "mixed" has strings among the integers.
    parent_ids: IdForm = "mixed"
    #: The largest `limit` of newsletters.
    most_newsletters: int = 100

    # Segment's Tracking API
    write_key: str = WRITE_KEY
    #: Further valid keys: other sources, or the second key of a rotation.
    write_keys: tuple[str, ...] = ()
    #: Seconds before each answer of the Tracking API.
    segment_latency: float = 0.0
    #: 0 is no limit; the documented one is 1000, for a workspace.
    events_per_second: float = 0
    #: Segment's `{"success": true}`, or RudderStack's plain `OK`.
    success_body: Literal["segment", "rudderstack"] = "segment"
    #: A batch whose body contains this text is refused whole, with this status.
    refuse_containing: str | None = None
    refuse_with: Literal[400, 413] = 400
    #: "events" keeps what arrived, "counts" only what is needed to count and to know a duplicate.
    remember: Literal["events", "counts"] = "events"

    # Both
    #: Unix seconds that the services take for now; None is the real clock.
    now: float | None = None
    #: Seconds by which `now` goes on with each request that arrives at the App API, so that things happen while a list
    #: is read. Without `now` the real clock does that.
    now_per_request: float = 0.0

    def __post_init__(self) -> None:
        for name in (*(self.odd_kinds or ()), *self.odd_rows.values()):
            if name not in ODDITIES:
                raise ValueError(f"{name} is no kind of oddity")

    def clock(self) -> float:
        return time.time() if self.now is None else self.now

    @property
    def ordering(self) -> Ordering:
        return (
            Ordering(self.order, self.displaced, self.displaced_by) if self.order == "nearly" else Ordering(self.order)
        )


@dataclass(slots=True)
class Asked:
    """One request as a service saw it. A `status` of 0 means that no whole answer was sent."""

    method: str
    path: str
    params: dict[str, str]
    time: float
    status: int = 0
    seconds: float = 0.0
    fault: str | None = None


@dataclass
class Shared:
    """State that both services use; the sandbox swaps its parts."""

    history: History
    settings: Settings = field(default_factory=Settings)
