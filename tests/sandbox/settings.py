"""What can be set on a running sandbox, and what the two services and the server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tests.sandbox.history import History
from tests.sandbox.parents import IdForm

APP_KEY = "sandbox-app-api-key-0123456789abcdef"
WRITE_KEY = "sandboxWriteKey0123456789abcdefg"


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the two services behave. All of it may be changed while the sandbox runs."""

    # Customer.io's App API
    app_key: str = APP_KEY
    #: The region this host serves, and the one the key belongs to: if they differ, every key gets 401.
    region: Literal["us", "eu"] = "us"
    key_region: Literal["us", "eu"] = "us"
    #: What the key may read, by the first word of the path ("messages"); None is everything.
    scopes: tuple[str, ...] | None = None
    #: Seconds before each answer of the App API.
    latency: float = 0.0
    #: 0 is no limit; the documented one is 10.
    requests_per_second: float = 0
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
    order: Literal["newest", "oldest", "shuffled"] = "newest"

    #: Seconds by which an activity may stand behind an older one; 0 is none.
    activity_disorder: int = 600
    #: What is older than so many days is not listed among the activities; the API guarantees 30.
    activities_days: float | None = None
    #: How the last page of activities ends: as `last_next` says, or with a cursor, which leads to an empty page
    #: with that same cursor, or with a new one each time.
    activities_end: Literal["next", "same_cursor", "new_cursor"] = "next"
    #: "documented" refuses a `type` of activity that the API's own list lacks: it has no `opened_whatsapp`.
    activity_types: Literal["all", "documented"] = "all"
    #: The ids of campaigns and the like in their lists: "mixed" has strings among the integers.
    parent_ids: IdForm = "mixed"

    # Segment's Tracking API
    write_key: str = WRITE_KEY
    #: Further valid keys: other sources, or the second key of a rotation.
    write_keys: tuple[str, ...] = ()
    #: Keys of sources that are switched off.
    disabled_write_keys: tuple[str, ...] = ()
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

    def clock(self) -> float:
        return time.time() if self.now is None else self.now


@dataclass(slots=True)
class Asked:
    """One request as a service saw it. A `status` of 0: no whole answer was sent."""

    method: str
    path: str
    params: dict[str, str]
    time: float
    status: int = 0
    seconds: float = 0.0
    fault: str | None = None


@dataclass
class Shared:
    """What both services look at; the sandbox swaps its parts."""

    history: History
    settings: Settings = field(default_factory=Settings)


class Bucket:
    """A token bucket that starts full.

    The exact kind of the limits is not documented. Here the App API has a bucket of as many tokens as it
    allows requests in a second, refilled evenly; the Tracking API likewise with events, and since a batch
    may be larger than the bucket, a full bucket lets any batch through and goes into debt.
    """

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0.0

    def take(self, wanted: int, per_second: float) -> float:
        """Take tokens and return 0, or take none and return the seconds until they are there."""
        now = time.monotonic()
        tokens = per_second if self._tokens is None else self._tokens
        tokens = min(per_second, tokens + (now - self._at) * per_second)
        self._at = now
        needed = min(wanted, per_second)
        if tokens + 1e-9 < needed:
            self._tokens = tokens
            return (needed - tokens) / per_second
        self._tokens = tokens - wanted
        return 0.0
