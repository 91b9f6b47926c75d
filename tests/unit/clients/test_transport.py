from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.clients.rate_limit import RateLimiter
from airflow_provider_cio.clients.transport import (
    Answer,
    ClosedError,
    Retries,
    StatusError,
    Transport,
    UnreadableBody,
)
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from tests.sandbox import Fault, Sandbox
from tests.unit.clients import SILENCE, Loopback, Say

NAME = "The service (connection 'its_id')"
SECRET = "s3cr3t-0123456789-key"
QUICK = Retries(attempts=4, total=10, first=0.01, longest=0.02)
ONCE = Retries(attempts=1, total=2)
AT_ONCE = 1.0  # seconds; whoever does not end at once goes on for several


def transport(url: str, *, key: str = SECRET, **changes: Any) -> Transport:
    def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    options: dict[str, Any] = {"timeout": 5.0, "limiter": RateLimiter(0), "retries": QUICK, "secrets": (key,)} | changes
    return Transport(url, name=NAME, auth=bearer, **options)


def whole(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        raise UnreadableBody(f"{len(answer.body)} bytes that are no JSON") from None


def error_of(url: str, *, path: str = "/v1/messages", **changes: Any) -> Exception:
    with (
        transport(url, **changes) as client,
        pytest.raises((StatusError, ConfigurationError, TryAgainLaterError)) as caught,
    ):
        client.request("GET", path, read=whole)
    return caught.value


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[Loopback]:
    """For who counts sockets."""
    with Loopback() as running:
        yield running


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    running_sandbox.reset()
    return running_sandbox


# --- the rate limiter -------------------------------------------------------------------------------------------


def grants(
    limiter: RateLimiter, threads: int, each: int, units: float = 1
) -> tuple[list[float], list[threading.Thread]]:
    """When the limiter let somebody through, in seconds from now; and the threads that ask it."""
    began, times = time.monotonic(), []

    def ask() -> None:
        for _ in range(each):
            limiter.acquire(units, time.sleep)
            times.append(time.monotonic() - began)

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(threads)]
    for thread in asking:
        thread.start()
    return times, asking


def join(threads: list[threading.Thread], seconds: float = 10) -> None:
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive()


@pytest.mark.parametrize(("per_second", "units"), [(200, 1), (20_000, 100)])
def test_places_are_spaced_over_all_threads_together(per_second: float, units: float) -> None:
    times, threads = grants(RateLimiter(per_second), threads=4, each=10, units=units)
    join(threads)
    assert len(times) == 40
    for n, at in enumerate(sorted(times)):
        assert at >= n / 200
    assert max(times) < 1


def test_idle_time_is_not_saved_up_for_a_burst() -> None:
    limiter = RateLimiter(20)
    limiter.acquire(1, time.sleep)
    time.sleep(0.12)
    times, threads = grants(limiter, threads=1, each=2)
    join(threads)
    assert times[1] - times[0] >= 0.049


def test_no_limit_never_sleeps() -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s")

    limiter = RateLimiter(0)
    for _ in range(1000):
        limiter.acquire(1_000_000, sleep)


@pytest.mark.parametrize("per_second", [0, 20])
def test_who_was_told_to_wait_holds_back_all_who_wait_and_all_who_come(per_second: float) -> None:
    limiter = RateLimiter(per_second)
    acquired = limiter.acquire(1, time.sleep)
    waiting, threads = grants(limiter, threads=3, each=1) if per_second else ([], [])
    began = time.monotonic()
    limiter.slow_down(0.3, acquired)
    coming, more = grants(limiter, threads=3, each=1)
    join([*threads, *more])
    late = time.monotonic() - began
    times = sorted(waiting + coming)
    assert late < 1
    for n, at in enumerate(times):
        assert at >= 0.29 + (n / per_second if per_second else 0)


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    limiter = RateLimiter(0)
    acquired = limiter.acquire(1, time.sleep)
    limiter.slow_down(0.2, acquired)
    limiter.slow_down(0.01, acquired)
    times, threads = grants(limiter, threads=1, each=1)
    join(threads)
    assert times[0] >= 0.19


def test_a_pause_shorter_than_the_spacing_does_not_break_the_spacing() -> None:
    limiter = RateLimiter(5)
    limiter.slow_down(0.01, limiter.acquire(1, time.sleep))
    times, threads = grants(limiter, threads=1, each=1)
    join(threads)
    assert times[0] >= 0.19


def no_sleep(seconds: float) -> None:
    """For who looks at the rate only."""


def test_it_goes_on_slower_and_comes_back_but_never_above_what_is_allowed() -> None:
    limiter = RateLimiter(1000)
    limiter.slow_down(0, limiter.acquire(1, no_sleep))
    slower = limiter.rate
    assert 500 <= slower < 1000
    rates = []
    for _ in range(200):
        limiter.acquire(1, no_sleep)
        rates.append(limiter.rate)
    assert rates == sorted(rates)
    assert slower < rates[0] < rates[5] < 1000
    assert rates[-1] == 1000


def test_requests_that_were_under_way_together_slow_it_down_once() -> None:
    limiter = RateLimiter(1000)
    together = [limiter.acquire(1, no_sleep) for _ in range(8)]
    limiter.slow_down(0, together[0])
    slower = limiter.rate
    for acquired in together[1:]:
        limiter.slow_down(0, acquired)
    assert limiter.rate == slower


@pytest.mark.parametrize("per_second", [0, 0.1, 10, 1000])
def test_it_never_comes_to_a_stop(per_second: float) -> None:
    limiter = RateLimiter(per_second)
    for _ in range(1000):
        limiter.slow_down(0, limiter.acquire(1, no_sleep))
    assert limiter.rate >= 0.01 * per_second


# --- how long, how often ----------------------------------------------------------------------------------------


@given(
    st.integers(1, 1000),
    st.floats(0.001, 10, allow_subnormal=False),
    st.floats(0.001, 1000, allow_subnormal=False),
    st.integers(0, 10**6),
)
def test_a_wait_doubles_up_to_the_longest_and_half_of_it_is_jitter(
    failures: int, first: float, longest: float, seed: int
) -> None:
    random.seed(seed)  # which is otherwise the same for every example
    wait = Retries(first=first, longest=longest).wait(failures)
    ceiling = min(longest, first * 2 ** (failures - 1))
    assert ceiling / 2 <= wait <= ceiling


def test_waits_are_jittered() -> None:
    assert len({Retries().wait(3) for _ in range(20)}) > 10


def in_a_while(seconds: float) -> str:
    """As an HTTP date, which knows whole seconds only: up to one later than asked for."""
    return formatdate(ceil(time.time() + seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "asked", "longest"),
    [
        (429, lambda: {"Retry-After": "0.2"}, 0.6),
        (503, lambda: {"Retry-After": "0.2"}, 0.6),
        (429, lambda: {"Retry-After": in_a_while(0.2)}, 1.6),
        (429, lambda: {"X-RateLimit-Reset": "0.2"}, 0.6),
        (503, lambda: {"X-RateLimit-Reset": f"{time.time() + 0.2:.3f}"}, 0.6),
        (429, lambda: {"Retry-After": "0.2", "X-RateLimit-Reset": "60"}, 0.6),
        (503, lambda: {"Retry-After": "soon", "X-RateLimit-Reset": "0.2"}, 0.6),
    ],
    ids=["seconds", "seconds", "date", "reset in seconds", "reset at Unix time", "first of both", "readable of both"],
)
def test_the_service_says_how_long_to_wait(
    server: Loopback, status: int, asked: Callable[[], dict[str, str]], longest: float
) -> None:
    server.say(lambda _: Say(status, headers=asked()), Say())
    with transport(server.url) as client:
        assert client.request("GET", "/", read=whole) == {}
    assert 0.19 <= server.gaps[0] < longest


@pytest.mark.parametrize(
    "headers", [{}, {"Retry-After": "0"}, {"Retry-After": "soon"}, {"Retry-After": in_a_while(-9)}]
)
def test_without_its_word_the_waits_grow(server: Loopback, headers: dict[str, str]) -> None:
    server.say(*[Say(429, headers=headers)] * 3, Say())
    with transport(server.url, retries=Retries(first=0.04, longest=0.08)) as client:
        client.request("GET", "/", read=whole)
    for gap, least in zip(server.gaps, [0.02, 0.04, 0.04], strict=True):
        assert least <= gap < 0.3


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs a clock whose zone can be set")
def test_a_date_without_a_zone_is_in_gmt_wherever_the_worker_is(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9110, 5.6.7: a recipient must take the asctime form too, and all forms are GMT."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Honolulu")
        time.tzset()
        server.say(
            lambda _: Say(503, headers={"Retry-After": time.asctime(time.gmtime(ceil(time.time() + 0.1)))}), Say()
        )
        with transport(server.url) as client:
            client.request("GET", "/", read=whole)
    time.tzset()
    assert 0.09 <= server.gaps[0] < 1.5


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.dates().map(str))
@settings(max_examples=60)
def test_no_header_stops_the_retries(server: Loopback, value: str) -> None:
    server.say(Say(503, headers={"Retry-After": value, "X-RateLimit-Reset": value}))
    assert isinstance(error_of(server.url, retries=ONCE), TryAgainLaterError)


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 16 Nov 2026 13:32:02 +99999999999999999999",
        "Mon, 01 Jan 0000 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "9" * 400,
        "-1",
        "1e9",
        ",",
    ],
)
def test_not_even_an_impossible_one_does(server: Loopback, value: str) -> None:
    server.say(Say(503, headers={"Retry-After": value}))
    assert isinstance(error_of(server.url, retries=ONCE), TryAgainLaterError)


def test_attempts_are_bounded(server: Loopback) -> None:
    server.say(Say(503))
    error = error_of(server.url, retries=Retries(attempts=3, total=5, first=0.001))
    assert isinstance(error, TryAgainLaterError)
    assert str(error).startswith(f"{NAME} answered 503")
    assert "Gave up after 3 attempts" in str(error)
    assert len(server.heard) == 3


def test_the_total_is_bounded_waits_included(server: Loopback) -> None:
    server.say(Say(503))
    began = time.monotonic()
    error = error_of(server.url, retries=Retries(attempts=1000, total=0.4, first=0.05, longest=0.05))
    assert isinstance(error, TryAgainLaterError)
    assert time.monotonic() - began < 0.8
    assert 5 < len(server.heard) < 20


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Retry-After": "3600"}, r"3600 s"),
        ({"Retry-After": in_a_while(3600)}, r"3\d\d\d s"),
        ({"X-RateLimit-Reset": "3600"}, r"3600 s"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_longer_than_what_is_left_gives_up_at_once_and_names_it(
    server: Loopback, status: int, headers: dict[str, str], named: str
) -> None:
    server.say(Say(status, '{"meta": {"error": "slow down"}}', headers))
    began = time.monotonic()
    with (
        transport(server.url, retries=Retries(total=600)) as client,
        pytest.raises(TryAgainLaterError, match=rf"answered {status}: slow down, and asks to wait {named}"),
    ):
        client.request("GET", "/", read=whole)
    assert time.monotonic() - began < AT_ONCE
    assert len(server.heard) == 1


def test_a_429_holds_back_the_other_threads_too(server: Loopback) -> None:
    server.say(Say(429, headers={"Retry-After": "0.2"}), Say())
    with transport(server.url) as client:
        first = threading.Thread(target=client.request, args=("GET", "/first"), kwargs={"read": whole}, daemon=True)
        first.start()
        server.wait_for_requests(1)
        time.sleep(0.05)
        client.request("GET", "/second", read=whole)
        join([first])
    assert server.gaps[0] >= 0.19
    assert sorted(heard.target for heard in server.heard) == ["/first", "/first", "/second"]


# --- what is retried, what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["reset", "reset_after", "truncated", "truncated_json", "timeout", "html", "html200", "429", "500", "502", "503"],
)
def test_a_fault_that_passes_is_retried(sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=2, seconds=2))
    timeout = 0.1 if kind == "timeout" else 5
    with transport(sandbox.url, key=sandbox.settings.app_key, timeout=timeout) as client:
        assert client.request("GET", "/v1/messages", read=whole)["messages"] == []
        assert client.attempts == 3
    assert [asked.fault for asked in sandbox.customerio.requests] == [kind, kind, None]


def test_a_service_out_of_reach_is_retried_and_then_named() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    error = error_of(f"http://127.0.0.1:{port}")
    assert isinstance(error, TryAgainLaterError)
    assert "could not be reached: ConnectionError" in str(error)
    assert "after 4 attempts" in str(error)


def test_408_is_retried(server: Loopback) -> None:
    server.say(Say(408), Say())
    with transport(server.url) as client:
        client.request("GET", "/", read=whole)
    assert len(server.heard) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 415, 418, 422, 451])
def test_another_4xx_is_not(server: Loopback, status: int) -> None:
    server.say(Say(status, "no", {"Retry-After": "0"}))
    error = error_of(server.url)
    assert isinstance(error, StatusError)
    assert (error.status, error.text) == (status, "no")
    assert len(server.heard) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_matter_of_the_connection_and_never_followed(server: Loopback, status: int) -> None:
    with Loopback() as elsewhere:
        server.say(Say(status, "", {"Location": f"{elsewhere.url}/v1/messages"}))
        error = error_of(server.url)
        assert elsewhere.heard == []
    assert isinstance(error, ConfigurationError)
    assert f"{server.url} redirects: put the final address into host" in str(error)
    assert len(server.heard) == 1


@pytest.mark.parametrize("location", ["http://[", "http://", "//", "", "mailto:a@b.c", "http://a..b/"])
def test_wherever_a_redirect_points(server: Loopback, location: str) -> None:
    server.say(Say(302, "", {"Location": location}))
    assert isinstance(error_of(server.url), ConfigurationError)


@pytest.mark.parametrize("host", ["exa mple.com", "a..b", "*.example.com", "[::1", "example.com:port"])
def test_an_address_that_cannot_be_is_a_matter_of_the_connection(host: str) -> None:
    began = time.monotonic()
    assert isinstance(error_of(f"http://{host}"), ConfigurationError)
    assert time.monotonic() - began < AT_ONCE


def test_the_body_is_made_anew_for_every_attempt(server: Loopback) -> None:
    server.say(Say(503), Say(429), Say())
    made = iter(range(9))
    with transport(server.url) as client:
        client.request("POST", "/", read=whole, body=lambda: b"body %d" % next(made))
    assert [heard.body for heard in server.heard] == [b"body 0", b"body 1", b"body 2"]


def test_parameters_are_percent_encoded(server: Loopback) -> None:
    server.say(Say())
    with transport(server.url + "/base/") as client:
        client.request("GET", "/path", read=whole, params={"start": "a+b/c==&d", "n": 1})
    assert server.heard[0].target == "/base/path?start=a%2Bb%2Fc%3D%3D%26d&n=1"


def test_a_netrc_does_not_replace_the_key(server: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.say(Say())
    assert requests.get(server.url, timeout=5).request.headers["Authorization"].startswith("Basic ")  # it is found
    server.say(Say())
    with transport(server.url) as client:
        client.request("GET", "/", read=whole)
    assert server.heard[0].headers["Authorization"] == f"Bearer {SECRET}"


# --- what an error says, and what it does not -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"errors": [{"detail": "limit is wrong", "status": "400"}]}', "limit is wrong"),
        ('{"errors": [{"detail": "bad", "source": {"pointer": "/limit"}}]}', "bad (at /limit)"),
        ('{"errors": [{"detail": "a"}, {"detail": "b", "source": {"pointer": "/x"}}]}', "a; b (at /x)"),
        ('{"meta": {"error": "unauthorized"}}', "unauthorized"),
        ('{"meta": {"errors": ["one", "two"]}}', "one; two"),
        ('{"error": "no"}', "no"),
        ('{"message": "no"}', "no"),
        ('{"odd": 1}', '{"odd": 1}'),
        ('{"errors": null, "meta": {"error": {"message": "deep"}}}', "deep"),
        ("Bad Request", "Bad Request"),
        ("two\r\n  lines\t", "two lines"),
        ("<html><head><style>p {}</style><script>x < y</script></head><p>502 Bad Gateway</p>", "502 Bad Gateway"),
        ("", "Bad Request"),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
        ("x" * 5000, "x" * 300 + "..."),
    ],
)
def test_the_words_of_the_service(server: Loopback, body: str | bytes, words: str) -> None:
    server.say(Say(400, body))
    error = error_of(server.url)
    assert isinstance(error, StatusError)
    assert error.text == words


@pytest.mark.parametrize("opens", ["[", '{"errors":'])
def test_words_that_are_nested_deep(server: Loopback, opens: str) -> None:
    closes = "]" if opens == "[" else "}"
    for depth in (100, 300, *range(400, 1000, 20), 10_000):
        server.say(Say(503, opens * depth + "1" + closes * depth))
        assert isinstance(error_of(server.url, retries=ONCE), TryAgainLaterError), depth


@given(st.text("<>![]-/&#;=?\"' ax1", max_size=40))
@example("<![odd[ page")
@example("<!DOCTYPE [<!odd")
@example("&#99999999999;")
@settings(max_examples=100)
def test_no_markup_is_too_odd_to_be_told(server: Loopback, body: str) -> None:
    server.say(Say(400, body))
    error = error_of(server.url)
    assert isinstance(error, StatusError)
    assert error.text
    assert "\n" not in error.text


ADDRESS = st.from_regex(r"[a-z0-9.+_-]{1,12}@[a-z0-9-]{1,12}\.(com|example)", fullmatch=True)
PIECE = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["<p>", "</p>", "<script>", "</script>", "\n", '"', "'", "{", "}", ":", "&", "%", "@", " " * 290]),
)


@given(
    pieces=st.lists(PIECE, max_size=8),
    place=st.integers(0, 8),
    private=st.one_of(st.just(SECRET), ADDRESS, ADDRESS.map(lambda one: one.replace("@", "%40"))),
    shape=st.sampled_from(["text", "errors", "meta", "other", "key"]),
    status=st.sampled_from([200, 302, 400, 401, 429, 500]),
)
@settings(max_examples=150)
def test_no_secret_and_no_address_in_an_error(
    server: Loopback, pieces: list[str], place: int, private: str, shape: str, status: int
) -> None:
    text = "".join([*pieces[:place], private, *pieces[place:]])
    body = {
        "text": text,
        "errors": json.dumps({"errors": [{"detail": text, "source": {"pointer": text}}]}),
        "meta": json.dumps({"meta": {"error": text}}, ensure_ascii=False),
        "other": json.dumps({"said": [text]}),
        "key": json.dumps({text: text}),
    }[shape]
    server.say(Say(status, body.encode("utf-8", "replace")))
    with transport(server.url, retries=ONCE) as client, pytest.raises(Exception) as caught:  # noqa: PT011
        client.request("GET", "/", read=fails_to_read)
    assert isinstance(caught.value, StatusError | ConfigurationError | TryAgainLaterError)
    shown = "".join(traceback.format_exception(caught.value))
    assert private not in shown


def fails_to_read(answer: Answer) -> None:
    raise UnreadableBody("of another kind")


@pytest.mark.parametrize("private", [SECRET, "jane.doe@example.com"])
def test_the_reason_phrase_is_the_services_word_too(server: Loopback, private: str) -> None:
    server.say(Say(400, "", reason=f"No {private}"))
    assert private not in str(error_of(server.url))


@pytest.mark.parametrize("fill", [" ", "<br>"])
@pytest.mark.parametrize("private", [SECRET, "jane.doe@example.com"])
def test_where_a_long_answer_is_cut_no_part_of_it_stays(server: Loopback, fill: str, private: str) -> None:
    """The cut must not come before the masking: half a key is no key that could be found."""
    for at in range(4000 - len(private), 4000):
        server.say(Say(400, (fill * 4000)[:at] + private))
        shown = str(error_of(server.url))
        assert not any(private[:n] in shown for n in range(6, len(private) + 1)), at


@pytest.mark.parametrize(
    "body",
    [
        '{"who": "jane.doe\\u0040example.com"}',
        "<p>jane.doe&#64;example.com</p>",
        "<p>jane.doe&#x40;example.com</p>",
        "?email=jane.doe%40example.com",
        "<jane.doe@example.com>",
        "mailto:jane.doe@example.com",
        "o'jane.doe@example.com",
        '"jane.doe"@example.com',
    ],
)
def test_however_an_address_is_written(server: Loopback, body: str) -> None:
    server.say(Say(400, body))
    assert "jane.doe" not in str(error_of(server.url))


# --- close ------------------------------------------------------------------------------------------------------


def sockets_to(port: int) -> int:
    return sum(bool(one.raddr) and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))


def assert_open_files(count: int) -> None:
    """Once the server's own end, which is in this process too, has noticed."""
    until = time.monotonic() + 1
    while psutil.Process().num_fds() > count and time.monotonic() < until:
        time.sleep(0.005)
    assert psutil.Process().num_fds() <= count


def end_of(client: Transport, begun: Callable[[], object], threads: int = 1) -> None:
    """Close the client while threads are in `request`: each ends at once with `ClosedError`, and no socket stays."""
    files = psutil.Process().num_fds()
    ends: list[BaseException | None] = []

    def ask() -> None:
        try:
            client.request("GET", "/", read=whole)
        except BaseException as error:
            ends.append(error)
        else:
            ends.append(None)

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(threads)]
    for thread in asking:
        thread.start()
    begun()
    began = time.monotonic()
    client.close()
    for thread in asking:
        thread.join(AT_ONCE)
    assert len(ends) == threads, "still at it"
    assert time.monotonic() - began < AT_ONCE
    assert [type(error) for error in ends] == [ClosedError] * threads
    assert str(ends[0]).startswith(NAME)
    assert_open_files(files)


def test_close_ends_a_request_that_waits_for_its_answer(own_server: Loopback) -> None:
    own_server.say(SILENCE)
    end_of(transport(own_server.url), lambda: own_server.wait_for_requests(1))


def test_close_ends_the_requests_of_all_threads(own_server: Loopback) -> None:
    own_server.say(SILENCE)
    end_of(transport(own_server.url), lambda: own_server.wait_for_requests(5), threads=5)


def test_close_ends_a_request_that_waits_for_the_rest_of_its_answer() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        sent = threading.Event()

        def half_an_answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"messages": [')
                sent.set()
                connection.recv(1)

        threading.Thread(target=half_an_answer, daemon=True).start()
        end_of(transport(f"http://127.0.0.1:{listener.getsockname()[1]}"), lambda: sent.wait(5))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "30"}])
def test_close_ends_the_sleep_between_two_attempts(own_server: Loopback, status: int, headers: dict[str, str]) -> None:
    own_server.say(Say(status, headers=headers))
    client = transport(own_server.url, retries=Retries(first=30))

    def begun() -> None:
        own_server.wait_for_requests(1)
        time.sleep(0.05)

    end_of(client, begun)
    assert len(own_server.heard) == 1


def test_close_ends_the_wait_for_a_place(own_server: Loopback) -> None:
    own_server.say(Say())
    limiter = RateLimiter(0.01)
    limiter.acquire(1, time.sleep)
    end_of(transport(own_server.url, limiter=limiter), lambda: time.sleep(0.05))
    assert own_server.heard == []


def test_close_ends_a_request_whose_connection_opens_only_then(
    own_server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a slow name server: there is no socket yet that could be closed."""
    own_server.say(SILENCE)
    asked = threading.Event()
    resolve = socket.getaddrinfo

    def slowly(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        time.sleep(0.2)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    end_of(transport(own_server.url), lambda: asked.wait(5))


def test_the_proxy_of_the_environment_is_asked(own_server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", own_server.url)
    with transport("http://service.example") as client:
        client.request("GET", "/v1/messages", read=whole)
    assert [heard.target for heard in own_server.heard] == ["http://service.example/v1/messages"]


def test_what_the_environment_excepts_from_its_proxy(own_server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with transport(own_server.url) as client:
        client.request("GET", "/v1/messages", read=whole)
    assert [heard.target for heard in own_server.heard] == ["/v1/messages"]


def test_the_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    assert "/no/such/bundle.pem" in str(error_of("https://127.0.0.1:1", retries=ONCE))


def test_close_ends_a_request_through_a_proxy(own_server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", own_server.url)
    own_server.say(SILENCE)
    end_of(transport("http://service.example"), lambda: own_server.wait_for_requests(1))


def test_after_close_nothing_is_sent(own_server: Loopback) -> None:
    own_server.say(Say())
    files = psutil.Process().num_fds()
    client = transport(own_server.url)
    client.request("GET", "/", read=whole)
    assert psutil.Process().num_fds() > files
    client.close()
    client.close()
    assert_open_files(files)
    with pytest.raises(ClosedError):
        client.request("GET", "/", read=whole)
    assert len(own_server.heard) == 1


def test_a_connection_is_kept_for_the_next_request(own_server: Loopback) -> None:
    own_server.say(Say())
    with transport(own_server.url) as client:
        for _ in range(5):
            client.request("GET", "/", read=whole)
            assert sockets_to(own_server.port) == 1
