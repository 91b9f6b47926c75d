"""Every open and click of a delivery, computed anew from its row at each request."""

from __future__ import annotations

import zlib
from base64 import b32encode
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from random import Random
from typing import Any

from tests.sandbox.delivery import REPEATED, Engagement, is_count, is_time
from tests.sandbox.dice import dice_of, strikes

DAY = 86_400
_MOST = 64  # however many a hand-written row says
_LINKS = (
    "https://example.com/",
    "https://example.com/ü?q=1&r=2#top",
    "https://shop.example/p/42",
    "https://example.com/" + "long/" * 60,
)
_AGENTS = (
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15",
)
_TO_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def engagements(
    delivery_id: str, channel: str, metrics: Mapping[str, Any], *, repeated: bool, same_second: float = 0.0
) -> list[Engagement]:
    """Return all opens and clicks: the first of each at the time that `metrics` shows, the others after it.

    As many as the counts in `metrics` say, which the API does not show. Where there are none, one; or as many as
    someone with this delivery's id happens to make.

    :param repeated: draw a number where the counts are missing.
    :param same_second: share of the first ones that are not alone in their second. Where the counts are missing there
        are then two at least; where they say one, it stays alone.
    """
    found: list[Engagement] = []
    rng: Random | None = None
    for metric in REPEATED:
        first = metrics.get(metric)
        if first is None or not is_time(first):
            continue
        rng = rng or Random(zlib.crc32(delivery_id.encode()))
        count, automatic = _count(metrics, metric, rng, repeated)
        dice = dice_of("same second", delivery_id, metric)
        together = strikes(dice, same_second)
        if together and not any(_all_counted(metrics, metric)):
            count = max(count, 2)
        for number in range(count):
            time = first + _wait(rng) if number else first
            if together and (number == 1 or (number == 2 and dice % 2)):
                time = first
            found.append(_engagement(rng, delivery_id, channel, metric, number, time, number < automatic))
    return found


def firsts(ones: Iterable[Engagement]) -> dict[str, int]:
    """Return the keys that `metrics` has besides `opened` and `clicked` (reference/customerio.md, part 0).

    These keys have the time of the first open and click by a person and by a machine, and of the first click on each
    link. No occurrence is made of them, because they repeat opens and clicks.
    """
    found: dict[str, int] = {}
    for one in ones:
        by_person = not (one.prefetched or one.machine)
        keys = [f"{'human' if by_person else 'prefetch'}_{one.metric}"]
        if one.link is not None:
            link = f"link:{link_id(one.link)}"
            keys += [link, f"human_{link}"] if by_person else [link]
        for key in keys:
            found[key] = min(one.time, found.get(key, one.time))
    return found


def link_id(link: str) -> int:
    """Return the number of a link, as `metrics` and reports have it."""
    return 1 + zlib.crc32(link.encode()) % 10_000


def activity_id(delivery_id: str, metric: str, number: int, time: int) -> str:
    """Return a ULID, 48 bits of milliseconds and 80 of chance. The same activity always gets the same one."""
    chance = blake2b(f"{delivery_id} {metric} {number}".encode(), digest_size=12).digest()
    return ulid(time * 1000 + int.from_bytes(chance[:2]) % 1000, chance[2:])


def ulid(milliseconds: int, chance: bytes) -> str:
    """Encode 48 bits of time and ten bytes of chance in Crockford's alphabet."""
    data = b"\0\0\0\0" + milliseconds.to_bytes(6) + chance
    return b32encode(data)[-26:].translate(_TO_CROCKFORD).decode()


def _count(metrics: Mapping[str, Any], metric: str, rng: Random, repeated: bool) -> tuple[int, int]:
    """Return (all, those that no person made)."""
    human, automatic = _all_counted(metrics, metric)
    if human + automatic:
        return min(human + automatic, _MOST), automatic
    if not repeated:
        return 1, 0
    count = 1
    while count < 9 and rng.random() < 0.3:
        count += 1
    return count, rng.random() < 0.2


def _all_counted(metrics: Mapping[str, Any], metric: str) -> tuple[int, int]:
    """Return (by people, by machines) as the row counts them."""
    return _counted(metrics.get(f"human_{metric}")), _counted(metrics.get(f"prefetch_{metric}"))


def _counted(value: object) -> int:
    return value if isinstance(value, int) and is_count(value) else 0


def _wait(rng: Random) -> int:
    """Return the seconds from the first to another one: mostly days, seldom months."""
    return int(rng.random() * 60 * DAY if rng.random() < 0.03 else rng.expovariate(1 / DAY))


def _engagement(
    rng: Random, delivery_id: str, channel: str, metric: str, number: int, time: int, automatic: bool
) -> Engagement:
    link, address, chance = int(rng.random() * len(_LINKS)), 1 + int(rng.random() * 250), rng.random()
    tracked = channel not in {"push", "in_app"}  # those tell of themselves and know neither address nor agent
    ip_address = f"203.0.113.{address}"
    if chance < 0.2:
        ip_address = f"2001:db8::{address:x}, {ip_address}"
    elif chance < 0.25:
        ip_address = f"2001:db8::{address:x}"
    return Engagement(
        delivery_id,
        metric,
        time,
        activity_id(delivery_id, metric, number, time),
        link=_LINKS[link] if metric == "clicked" else None,
        prefetched=automatic and metric == "opened",
        machine=automatic and metric == "clicked",
        ip_address=ip_address if tracked and chance < 0.95 else None,
        user_agent=_AGENTS[0 if automatic else 1] if tracked and chance < 0.97 else None,
    )
