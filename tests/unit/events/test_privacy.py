"""With `hash` and `drop` no address reaches Segment, in whatever field it is."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import encode
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Occurrence, engagement_in
from airflow_provider_cio.events.privacy import Privacy, hashed, masked
from tests.sandbox import History, Sandbox, Settings
from tests.unit import support
from tests.unit.full import Told, held, kept, raw, run_full, to_send, told
from tests.unit.support import DAY, NOVEMBER

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
OPENED = CATALOG["Email Opened"]
ADDRESS = st.from_regex(r"[a-z0-9ß_+-][a-z0-9ß'+._-]{0,9}@[a-z0-9-]{1,9}[a-z]\.(com|example)", fullmatch=True)


def sha(text: str) -> str:
    """Hash by the rule of the ad destinations, apart from the package."""
    return hashlib.sha256(text.strip().lower().encode()).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        support.small_pages(patch, 50, 20)
        yield


HISTORY = History.generate(
    seed=12, deliveries=1500, start=NOVEMBER - 2 * DAY, end=NOVEMBER + DAY, people=150, drafts=0.05, nasty=0.5
)


# The form


@pytest.mark.parametrize("text", ["test@example.com", "  Test@Example.COM \n", "TEST@EXAMPLE.COM"])
def test_hash_matches_ad_destinations(text: str) -> None:
    """The expected value is sha256("test@example.com")."""
    assert hashed(text) == "973dfe463ec85785f5f95af5ba3906eedb2d931c24e69824a89ea65dba4e813b"
    assert Privacy("hash").address(text) == hashed(text)


def test_hash_takes_any_characters() -> None:
    assert hashed("ИВАН@пример.example") == sha("иван@пример.example")
    assert len(hashed("\ud83d@example.com")) == 64


@pytest.mark.parametrize("text", [None, "", "x", "ana@example.com", "+4917", "https://a.b/?e=ana@example.com"])
def test_keep_changes_nothing(text: str | None) -> None:
    privacy = Privacy("keep")
    for change in (privacy.address, privacy.addresses, privacy.id, privacy.text, privacy.ip):
        assert change(text) == text


@pytest.mark.parametrize("mode", ["hash", "drop"])
@pytest.mark.parametrize("text", [None, ""])
def test_missing_values_stay_missing(mode: str, text: str | None) -> None:
    privacy = Privacy(mode)
    for change in (privacy.address, privacy.addresses, privacy.id, privacy.text):
        assert not change(text)
    assert privacy.ip("203.0.113.9") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Ana@example.com", ["ana@example.com"]),
        ("ana@example.com, copy.ana@example.com", ["ana@example.com", "copy.ana@example.com"]),
        ("+4917000001", ["+4917000001"]),
        ("#general", ["#general"]),
        ("0123abcd:APA91b0123", ["0123abcd:APA91b0123"]),
    ],
)
def test_whole_recipient_is_personal(text: str, parts: list[str]) -> None:
    assert Privacy("hash").addresses(text) == ",".join(map(sha, parts))
    assert Privacy("drop").addresses(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "ana@example.com",
        " Ana@Example.com ",
        "m.o'neill@example.ie",
        "a/b=c&d?e%f@example.com",
        '"a"@b.c',
        "a%40b.c",
        "Ana <ana@b.c>",
    ],
)
def test_id_that_is_an_address(text: str) -> None:
    assert Privacy("hash").id(text) == sha(text)
    assert Privacy("drop").id(text) is None


@pytest.mark.parametrize("text", ["42", "user_000007", "ÜID/3", "@ana", "ana@", "d9c1", "+4917", "{uid}", "a b"])
@pytest.mark.parametrize("mode", ["hash", "drop"])
def test_other_id_stays(mode: str, text: str) -> None:
    assert Privacy(mode).id(text) == text


# Free text


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("{}", ["ana@example.com"]),
        ("Hi {}!", ["Ana@Example.com"]),
        ("'{}' or \"{}\" ({}), <{}>; {}. {}?", ["a@b.example"] * 6),
        ("550 5.1.1 <{}>: user unknown ✗", ["m.o'neill2@example.ie"]),
        ("smtp;{},{}", ["zoë_k6@sub.mail.example.org", "юлия4@пример.example"]),
        ("mailto:{}?subject=Grüße", ["yuki+news3@example.jp"]),
        ("https://x.example/u/{}/profile#top", ["li.wei@example.cn"]),
        ("https://x.example/?e={}&a=1&f={}", ["ana@example.com", "bob@example.com"]),
    ],
)
def test_only_addresses_are_removed(text: str, addresses: list[str]) -> None:
    whole = text.format(*addresses)
    assert Privacy("hash").text(whole) == text.format(*map(sha, addresses))
    assert Privacy("drop").text(whole) == text.format(*("" for _ in addresses))


@pytest.mark.parametrize(
    "address",
    ["ana@example.com", "yuki+news3@example.jp", "m.o'neill2@example.ie", "björn.ek1@example.se", "Ana@X.example"],
)
@pytest.mark.parametrize(
    "text", ["https://x.example/?e={}&b=1", "https://x.example/{}", "https://x.example/?a=%C3%BC#e={}"]
)
def test_encoded_address_in_a_link(text: str, address: str) -> None:
    """The hash is that of the address itself, so that it can still be joined."""
    for encoded in (quote(address, safe=""), quote(address, safe="+'"), quote(address, safe="").lower()):
        assert Privacy("hash").text(text.format(encoded)) == text.format(sha(address))
        assert Privacy("drop").text(text.format(encoded)) == text.format("")


def test_address_in_a_nested_link() -> None:
    inner = "https://shop.example/?e={}&b=1"
    link = "https://track.example/r?to=" + quote(inner.format("ana%2Bnews%40example.com"), safe="") + "&c=%7E"
    kept = Privacy("hash").text(link)
    assert kept is not None
    outer, _, rest = kept.partition("?to=")
    assert outer == "https://track.example/r"
    assert rest.endswith("&c=%7E")
    assert unquote(rest.removesuffix("&c=%7E")) == inner.format(sha("ana+news@example.com"))


@pytest.mark.parametrize(
    "text",
    [
        "Lunch @ noon",
        "@",
        "Follow us @acme!",
        "https://medium.example/@ana/post-1",
        "50% off @ 40 stores",
        "ana@ or @example.com",
        "https://example.com/ü?q=1&r=2#top",
        "https://example.com/?q=100%25&r=%E4%BB%8A+%zz%4",
        "https://example.com/?date=2026-11-01T00%3A00%3A40",
        "Ваш заказ № 7, +4917000001",
    ],
)
@pytest.mark.parametrize("mode", ["hash", "drop"])
def test_text_without_an_address_stays(mode: str, text: str) -> None:
    assert Privacy(mode).text(text) == text


@given(st.text(alphabet=st.characters(exclude_characters="@")))
@example("%4")
@example("%25%41%zz 40%")
def test_text_without_an_at_stays(text: str) -> None:
    if "@" not in unquote(unquote(unquote(unquote(text)))):
        assert Privacy("drop").text(text) == text


@given(before=st.text(), address=ADDRESS, after=st.text(), encoded=st.booleans())
def test_address_is_removed_anywhere(before: str, address: str, after: str, encoded: bool) -> None:
    inside = quote(address, safe="") if encoded else address
    found = Privacy("hash").text(f"{before} {inside} {after}")
    assert found is not None
    assert sha(address) in found
    assert f" {inside} " not in found
    assert Privacy("drop").text(f" {inside} ") == "  "


@given(st.text(alphabet="a@%4025'.=&", max_size=40))
def test_address_is_removed_in_any_encoding(text: str) -> None:
    plain = unquote(unquote(unquote(Privacy("drop").text(text) or "")))
    assert not re.search(r"\w@\w", plain)


@pytest.mark.parametrize(
    "text", ["%2B" * 10_000 + "@", "'" * 30_000 + "@b", "a@" * 15_000, "%25" * 10_000 + "40", "(@" * 9_999]
)
def test_hostile_text_takes_little_time(text: str) -> None:
    """A pattern that backtracks for ever would meet the time-out of the tests."""
    Privacy("hash").text(text)


@pytest.mark.parametrize(
    "address",
    [
        "bounces+123-ab-jane.doe=example.com@em.shop.example",
        '"jane.doe"@example.com',
        '"jane doe"@example.com',
    ],
)
@pytest.mark.parametrize("text", ["For {}", "550 <{}>", "https://x.example/?to={}&x=1"])
def test_bounce_and_quoted_addresses(text: str, address: str) -> None:
    assert Privacy("hash").text(text.format(address)) == text.format(sha(address))
    assert Privacy("drop").text(text.format(address)) == text.format("")


@pytest.mark.parametrize("at", ["@", "&#64;", "&#x40;", "&commat;", "%40", "%2540", "%252540"])
def test_spelling_of_at_keeps_the_hash(at: str) -> None:
    assert Privacy("hash").text(f"to jane.doe{at}example.com!") == f"to {sha('jane.doe@example.com')}!"
    assert Privacy("hash").id(f"jane.doe{at}example.com") is not None
    assert Privacy("drop").id(f"jane.doe{at}example.com") is None


# The recipient in other texts


@pytest.mark.parametrize("recipient", ["+49 170 0000001", "+491700000001", "+49 (170) 000-0001", "491700000001"])
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Code for +491700000001: 77", "Code for {}: 77"),
        ("Code for +49 170 0000001", "Code for {}"),
        ("Code for 0049-170-000 00 01!", "Code for {}!"),
        ("Code for (+49) 170/0000001", "Code for ({}"),
        ("491700000001", "{}"),
        ("https://x.example/?tel=%2B491700000001&a=1", "https://x.example/?tel=%2B{}&a=1"),
    ],
)
def test_phone_number_in_any_spacing(recipient: str, text: str, left: str) -> None:
    for mode, one in (("hash", sha(recipient)), ("drop", "")):
        assert Privacy(mode).text(text, recipient) == left.format(one)
        assert Privacy(mode).text(text, f"+4930123456, {recipient}") == left.format(one)
    assert Privacy("keep").text(text, recipient) == text


@pytest.mark.parametrize(
    ("text", "recipient"),
    [
        ("Order 9491700000001", "+491700000001"),  # another number, of which it is a part
        ("Order 4917000000012", "+491700000001"),
        ("Code 12345", "12345"),  # a short code
        ("Buy 4917 now, 00000 left, only 01 day", "+491700000001"),
        ("Ana for all", "Ana"),
        ("Hi", " , "),
        ("Hi ( ) 1", "( )"),
    ],
)
def test_other_numbers_stay(text: str, recipient: str) -> None:
    assert Privacy("drop").text(text, recipient) == text


def test_token_in_a_text_is_removed() -> None:
    assert Privacy("drop").text("https://x.example/APA91b0123/1", "0123abcd:1, APA91b0123") == "https://x.example//1"


def test_hostile_phone_numbers() -> None:
    for piece in (" ", "4 ", "+ ", "+", "00 ", "-", "4", "49170000000"):
        Privacy("drop").text(piece * (60_000 // len(piece)) + " 491700000001", "+491700000001")


# Failure messages


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("550 5.1.1 <ana@example.com>: user unknown", "550 5.1.1"),
        ("550-5.1.1 The account of Ana Doe", "550-5.1.1"),
        ("550 no Ana here", "550"),
        ("550: Ana", "550"),
        (" 421 4.7.0 Try again, Ana", "421 4.7.0"),
        ("5.1.10 Ana is not found", "5.1.10"),
        ("smtp; 550 5.1.1 Ana", "550 5.1.1"),
        ("550 <bounces+123-ab-jane.doe=example.com@em.shop.example>", "550"),
        ("550", "550"),
        ("550 +49 170 0000001", "550"),
        ("ana@example.com 550", None),
        ("Ana is unknown", None),
        ("491700000001 is unreachable", None),
        ("491-700000001 is unreachable", None),
        ("550-No such user: Ana", "550"),
        ("550. Ana", "550"),
        ("550ana@example.com", None),
        ("550.ana@example.com", None),
        ("550@example.com", None),
        ("user unknown", None),
        ("", ""),
        (None, None),
    ],
)
@pytest.mark.parametrize("mode", ["hash", "drop"])
def test_failure_message_keeps_its_code(mode: str, text: str | None, code: str | None) -> None:
    assert Privacy(mode).failure_message(text) == code
    assert Privacy("keep").failure_message(text) == text


# Through the mapping


def as_sent(
    mode: str, delivery: dict[str, Any], data: dict[str, Any], name: str | None = None
) -> dict[str, Any] | None:
    """Return the event of an open, or None if it has no id of a person."""
    one = msgspec.convert({"id": "d1", "type": "email", "created": 1, "metrics": {}} | delivery, Delivery)
    mapper = Mapper("ns", pii=mode, name_of=lambda delivery: name)
    event = mapper.event(Occurrence(one, OPENED, NOVEMBER, engagement_in(data)))
    encoded = encode(event)
    if not (event.user_id or event.anonymous_id):
        return None
    found: dict[str, Any] = json.loads(encoded)
    return found


FULL: dict[str, Any] = {
    "customer_identifiers": {"id": "42", "email": "Ana@example.com", "cio_id": "d9"},
    "customer_id": "ana@example.com",
    "recipient": "ana@example.com, bob@example.com",
    "subject": "For ana@example.com only",
    "failure_message": "550 5.1.1 <ana@example.com> unknown",
}
DATA = {
    "href": "https://x.example/?e=ana%40example.com",
    "ip_address": "203.0.113.9",
    "user_agent": "crawler (+bot@example.com)",
    "prefetched": True,
}


def test_every_address_is_hashed() -> None:
    sent = as_sent("hash", FULL, DATA, "Only for ana@example.com")
    assert sent is not None
    ana, bob, bot = (sha(f"{name}@example.com") for name in ("ana", "bob", "+bot"))
    assert sent["userId"] == "42"
    assert sent["context"].pop("traits") == {"email": ana}
    assert set(sent["context"]) == {"integration", "library", "userAgent"}
    assert sent["context"]["userAgent"] == f"crawler ({bot})"
    assert "@" not in json.dumps(sent)
    assert sent["properties"] == {
        "delivery_id": "d1",
        "email_id": "d1",
        "customer_id": ana,
        "cio_id": "d9",
        "recipient": f"{ana},{bob}",
        "subject": f"For {ana} only",
        "email_subject": f"For {ana} only",
        "failure_message": "550 5.1.1",
        "campaign_name": f"Only for {ana}",
        "href": f"https://x.example/?e={ana}",
        "link_url": f"https://x.example/?e={ana}",
        "prefetched": True,
    }


def test_every_address_is_cleared() -> None:
    sent = as_sent("drop", FULL, DATA, "Only for ana@example.com")
    assert sent is not None
    assert sent["userId"] == "42"
    assert set(sent["context"]) == {"integration", "library", "userAgent"}
    assert sent["context"]["userAgent"] == "crawler ()"
    assert "@" not in json.dumps(sent)
    assert sent["properties"] == {
        "delivery_id": "d1",
        "email_id": "d1",
        "subject": "For  only",
        "email_subject": "For  only",
        "failure_message": "550 5.1.1",
        "campaign_name": "Only for ",
        "href": "https://x.example/?e=",
        "link_url": "https://x.example/?e=",
        "prefetched": True,
    }


def test_phone_number_in_every_field() -> None:
    one = {"type": "twilio", "customer_id": "42", "recipient": "+49 170 0000001", "subject": "For +491700000001"}
    one |= {"failure_message": "491700000001 is unreachable"}
    sent = as_sent("drop", one, {"href": "https://x.example/?tel=%2B491700000001"}, "Calls to 0049 1700000001")
    assert sent is not None
    assert sent["properties"] == {
        "delivery_id": "d1",
        "customer_id": "42",
        "subject": "For ",
        "campaign_name": "Calls to ",
        "href": "https://x.example/?tel=%2B",
        "link_url": "https://x.example/?tel=%2B",
    }


@pytest.mark.parametrize(
    ("known", "hash_ids", "drop_ids"),
    [
        ({"id": "42", "email": "a@b.c"}, ("42", None), ("42", None)),
        ({"id": "A@b.c", "email": "a@b.c"}, (sha("a@b.c"), None), None),
        ({"id": "A@b.c", "email": ""}, (sha("a@b.c"), None), None),
        ({"id": None, "email": " a@B.c"}, (None, sha("a@b.c")), None),
        ({"id": None, "email": None}, (None, sha("r@b.c")), None),
    ],
)
def test_person_known_by_address_alone(
    known: dict[str, Any], hash_ids: tuple[str | None, str | None], drop_ids: tuple[str | None, str | None] | None
) -> None:
    one = {"customer_identifiers": known, "recipient": "r@b.c"}
    hashes, dropped = as_sent("hash", one, {}), as_sent("drop", one, {})
    assert hashes is not None
    assert (hashes.get("userId"), hashes.get("anonymousId")) == hash_ids
    assert (dropped and (dropped.get("userId"), dropped.get("anonymousId"))) == drop_ids


def test_cio_id_replaces_a_dropped_id() -> None:
    known = {"id": "a@b.c", "email": "a@b.c", "cio_id": "d9"}
    one = msgspec.convert(
        {"id": "d1", "type": "email", "created": 1, "metrics": {}, "customer_identifiers": known}, Delivery
    )
    event = Mapper("ns", pii="drop", cio_id_as_last_resort=True).event(Occurrence(one, OPENED, NOVEMBER))
    assert (event.user_id, event.anonymous_id) == (None, "d9")


@pytest.mark.parametrize("mode", ["hash", "drop"])
def test_message_id_ignores_the_mode(mode: str) -> None:
    """A user who changes the mode and runs an interval again within a day sends nothing twice."""
    kept, changed = as_sent("keep", FULL, DATA), as_sent(mode, FULL, DATA)
    assert kept is not None
    assert changed is not None
    assert kept["messageId"] == changed["messageId"]


# Through the line


def expected_of(one: Told, mode: str) -> Told | None:
    """Return the expected event of an occurrence; None if no id of a person is left."""
    if mode == "keep":
        return one

    def change(text: str | None, whole: bool = False) -> str | None:
        if not text or not (whole or "@" in text):
            return text
        return ",".join(map(sha, text.split(","))) if mode == "hash" else None

    changed = one._replace(
        user_id=change(one.user_id),
        anonymous_id=change(one.anonymous_id),
        recipient=change(one.recipient, whole=True),
        ip=None,
    )
    return changed if changed.user_id or changed.anonymous_id else None


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    deliveries=st.integers(0, 120),
    mode=st.sampled_from(["keep", "hash", "drop"]),
    every=st.booleans(),
    cuts=st.sets(st.integers(NOVEMBER + 1, NOVEMBER + DAY - 1), max_size=2),
    data=st.data(),
)
def test_each_mode_sends_events_once(
    world: Sandbox, seed: int, deliveries: int, mode: str, every: bool, cuts: set[int], data: st.DataObject
) -> None:
    world.settings = Settings()
    world.history = History.generate(
        seed=seed, deliveries=deliveries, start=NOVEMBER - DAY, end=NOVEMBER + DAY, drafts=0.1, nasty=0.5
    )
    world.reset()
    bounds = [NOVEMBER, *sorted(cuts), NOVEMBER + DAY]
    intervals = [Interval(*pair) for pair in itertools.pairwise(bounds)]
    for interval in data.draw(st.permutations(intervals)):
        run_full(world, interval, pii=mode, every=every)
    found = kept(world.segment.kept)
    wanted: Counter[Told] = Counter()
    for one, count in to_send(held(world.history, intervals, every=every)).items():
        if changed := expected_of(one, mode):
            wanted[changed] += count
    assert list((found - wanted).elements()) == []
    assert list((wanted - found).elements()) == []
    assert world.segment.duplicates == []
    assert world.segment.dropped == []
    run_full(world, intervals[0], pii=mode, every=every)
    assert kept(world.segment.kept) == found


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("mode", ["hash", "drop"])
def test_no_recipient_reaches_segment(sandbox: Sandbox, mode: str, every: bool) -> None:
    result = run_full(sandbox, INTERVAL, pii=mode, every=every)
    received = raw(sandbox.segment.kept)
    assert result.work["events"] == len(sandbox.segment.kept) > 300
    assert "@" not in received
    assert "%40" not in received
    for one in sandbox.history.deliveries:
        if one.channel == "in_app":
            continue  # either the address of someone, or Customer.io's own id of them
        for recipient in (one.recipient or "").split(","):
            assert not recipient.strip() or json.dumps(recipient.strip(), ensure_ascii=False)[1:-1] not in received
    gone = {"ip", "traits"} if mode == "drop" else {"ip"}
    assert not any(gone & set(event["context"]) for event in sandbox.segment.kept)
    assert not any(address in received for address in ("203.0.113.", "2001:db8:"))


def test_keep_keeps_addresses(sandbox: Sandbox) -> None:
    """Addresses are found by the search above, so that it can fail."""
    run_full(sandbox, INTERVAL)
    received = raw(sandbox.segment.kept)
    assert all(text in received for text in ("@", "203.0.113.", "2001:db8:", "#team@example.com", "+4917"))


def test_only_emails_are_addresses(sandbox: Sandbox) -> None:
    """A phone number, token, Slack channel or URL is never an address, even if it looks like one."""
    run_full(sandbox, INTERVAL, ["push", "sms", "in_app", "whatsapp", "slack", "webhook"])
    by_id = {one.id: one for one in sandbox.history.deliveries}
    looked_like_one = 0
    for event in sandbox.segment.kept:
        one = by_id[event["properties"]["delivery_id"]]
        email = one.identifiers.email if one.identifiers else None
        looked_like_one += "@" in (one.recipient or "")
        assert event.get("anonymousId") in {None, email}
        assert event["context"].get("traits", {}).get("email") in {None, email}
        assert event["properties"]["recipient"] == one.recipient
        assert "email_id" not in event["properties"]
    assert looked_like_one > 20


def test_hash_keeps_people_apart(sandbox: Sandbox) -> None:
    run_full(sandbox, INTERVAL, pii="hash")
    of_delivery = {one.id: one.person for one in sandbox.history.deliveries}
    by_person: dict[str, set[str]] = {}
    for event in sandbox.segment.kept:
        person = of_delivery[event["properties"]["delivery_id"]]
        assert person is not None
        if anonymous_id := event.get("anonymousId"):
            by_person.setdefault(person.cio_id, set()).add(anonymous_id)
            assert anonymous_id == sha(person.address)
        if person.id and "@" in person.id and "userId" in event:
            assert event["userId"] in {sha(person.id), "0200000001"}
    assert len(by_person) > 20
    assert all(len(ids) == 1 for ids in by_person.values())
    assert len(set().union(*by_person.values())) == len(by_person)


def test_drop_leaves_some_unidentified(sandbox: Sandbox) -> None:
    truth = held(sandbox.history, [INTERVAL])
    by_id = [one for one in truth if one.user_id and "@" not in one.user_id]
    result = run_full(sandbox, INTERVAL, pii="drop")
    assert len(sandbox.segment.kept) == len(by_id) < to_send(truth).total()
    assert result.skipped["unidentified"] == len(truth) - len(by_id)
    assert not any("anonymousId" in event for event in sandbox.segment.kept)


def test_other_values_do_not_change(sandbox: Sandbox) -> None:
    """Subjects, links, names and ids stay as they are, if people are known by more than their address."""
    seen: dict[str, set[Any]] = {}
    for mode in ("keep", "hash", "drop"):
        sandbox.reset()
        run_full(sandbox, INTERVAL, pii=mode)
        seen[mode] = {
            (event["messageId"], event["userId"], one.subject, one.link, one.campaign_name, one.machine, one.user_agent)
            for event, one in ((event, next(iter(kept([event])))) for event in sandbox.segment.kept)
            if event.get("userId") and "@" not in json.dumps([event["userId"]])
        }
    assert seen["drop"] == seen["keep"]
    assert seen["keep"] < seen["hash"]  # whose ids are addresses have one there


# Logs


def test_masked_event_is_not_personal(sandbox: Sandbox) -> None:
    run_full(sandbox, INTERVAL)
    text = raw(masked(event) for event in sandbox.segment.kept)
    personal = {"@", "203.0.113.", "2001:db8:", "Mozilla", "https://", "Your order", "user unknown"}
    for one in sandbox.history.deliveries:
        assert one.person is not None
        personal |= {one.recipient or "", one.person.address, one.person.phone, one.person.id or "", one.person.cio_id}
    quoted = {json.dumps(each, ensure_ascii=False)[1:-1] for each in personal if not each.isdigit()} - {""}
    assert len(quoted) > 500
    assert [each for each in quoted if each in text] == []


def test_masked_event_keeps_its_shape() -> None:
    sent = as_sent("keep", FULL, DATA, "Welcome")
    assert sent is not None
    shown = masked(sent)
    assert _keys(shown) == _keys(sent)
    assert shown["event"] == "Email Opened"
    assert shown["userId"] == "***"
    assert shown["context"]["traits"] == {"email": "***"}
    assert shown["properties"]["prefetched"] is True
    assert shown["properties"]["href"] == shown["properties"]["recipient"] == shown["properties"]["subject"] == "***"
    assert shown["messageId"] == sent["messageId"]


def test_masked_event_shows_its_ids() -> None:
    ids = ["delivery_id", "campaign_id", "action_id", "journey_id", "parent_action_id", "newsletter_id", "content_id"]
    ids += ["broadcast_id", "trigger_id", "transactional_message_id", "trigger_event_id", "link_id", "email_id"]
    properties = {key: f"7-{key}" for key in ids}
    assert masked({"properties": properties | {"customer_id": "42"}}) == {
        "properties": properties | {"customer_id": "***"}
    }


def test_masked_event_hides_address_ids() -> None:
    assert masked({"properties": {"link_id": "ana@example.com", "campaign_id": "7 ana%40example.com"}}) == {
        "properties": {"link_id": "<address>", "campaign_id": "7 <address>"}
    }


def test_unknown_fields_are_masked() -> None:
    assert masked({"new": "ana@example.com", "deep": {"er": ["ana"], "n": 7}}) == {
        "new": "***",
        "deep": {"er": "***", "n": "***"},
    }


def _keys(value: Any) -> Any:
    return {key: _keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def test_sent_events_match_the_sandbox(sandbox: Sandbox) -> None:
    """A row of the truth and its event compare as the same row."""
    run_full(sandbox, INTERVAL, ["Email Bounced"])
    rows = held(sandbox.history, [INTERVAL], ["Email Bounced"])
    assert {told(one) for one in rows if one.user_id or one.anonymous_id} == set(kept(sandbox.segment.kept))
