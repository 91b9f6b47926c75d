from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http import transport as transport_module
from airflow_provider_cio.http.errors import ClosedError, StatusError, UnreadableBody
from airflow_provider_cio.http.rate_limit import RateLimiter
from airflow_provider_cio.http.transport import Answer, Retries, Transport
from tests.sandbox import Fault, Sandbox
from tests.unit.http import SILENCE, Heard, Loopback, Say

NAME = "The service (connection 'its_id')"
SECRET = "s3cr3t-0123456789-key"
QUICK = Retries(attempts=4, total=10, first=0.01, longest=0.02)
ONCE = Retries(attempts=1, total=2)
AT_ONCE = 15.0  # seconds, generously: whoever does not end at once goes on for at least twice as long


def transport(url: str, *, key: str = SECRET, **changes: Any) -> Transport:
    def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    options: dict[str, Any] = {"timeout": 5.0, "limiter": RateLimiter(0), "retries": QUICK, "secrets": (key,)}
    options |= {"largest_answer": 2**20} | changes
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
    """Serve for a single test, so that sockets can be counted."""
    with Loopback() as running:
        yield running


def join(threads: Iterable[threading.Thread], seconds: float = 30) -> None:
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive()


# --- how long, how often ----------------------------------------------------------------------------------------


@given(
    st.integers(1, 1000),
    st.floats(0.001, 10, allow_subnormal=False),
    st.floats(0.001, 1000, allow_subnormal=False),
    st.integers(0, 10**6),
)
def test_wait_doubles_with_half_jitter(failures: int, first: float, longest: float, seed: int) -> None:
    random.seed(seed)  # which is otherwise the same for every example
    wait = Retries(first=first, longest=longest).wait(failures)
    ceiling = min(longest, first * 2 ** (failures - 1))
    assert ceiling / 2 <= wait <= ceiling


def test_wait_has_jitter() -> None:
    assert len({Retries().wait(3) for _ in range(20)}) > 10


def in_a_while(seconds: float) -> str:
    """Return an HTTP date. In whole seconds, it is up to one second later than asked for."""
    return formatdate(ceil(time.time() + seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (429, lambda: {"Retry-After": "0.2"}),
        (503, lambda: {"Retry-After": "0.2"}),
        (429, lambda: {"Retry-After": in_a_while(0.2)}),
        (429, lambda: {"X-RateLimit-Reset": "0.2"}),
        (503, lambda: {"X-RateLimit-Reset": f"{time.time() + 0.2:.3f}"}),
        (429, lambda: {"Retry-After": "0.2", "X-RateLimit-Reset": "60"}),
        (503, lambda: {"Retry-After": "soon", "X-RateLimit-Reset": "0.2"}),
    ],
    ids=["seconds", "seconds", "date", "reset in seconds", "reset at Unix time", "first of both", "readable of both"],
)
def test_service_sets_the_wait(server: Loopback, status: int, asked: Callable[[], dict[str, str]]) -> None:
    server.say(lambda _: Say(status, headers=asked()), Say())
    with transport(server.url) as client:
        assert client.request("GET", "/", read=whole) == {}
    assert 0.19 <= server.gaps[0] < 30


@pytest.mark.parametrize(
    "headers", [{}, {"Retry-After": "0"}, {"Retry-After": "soon"}, {"Retry-After": in_a_while(-9)}]
)
def test_waits_grow_without_a_header(server: Loopback, headers: dict[str, str]) -> None:
    server.say(*[Say(429, headers=headers)] * 3, Say())
    with transport(server.url, retries=Retries(first=0.04, longest=0.08)) as client:
        client.request("GET", "/", read=whole)
    for gap, least in zip(server.gaps, [0.02, 0.04, 0.04], strict=True):
        assert least <= gap < 30


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs a clock whose zone can be set")
def test_date_without_a_zone_is_gmt(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipient must take the asctime form, too, and all forms are GMT (RFC 9110, 5.6.7)."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Honolulu")
        time.tzset()
        server.say(
            lambda _: Say(503, headers={"Retry-After": time.asctime(time.gmtime(ceil(time.time() + 0.1)))}), Say()
        )
        with transport(server.url) as client:
            client.request("GET", "/", read=whole)
    time.tzset()
    assert 0.09 <= server.gaps[0] < 30


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.dates().map(str))
@settings(max_examples=60)
def test_retries_survive_any_header(server: Loopback, value: str) -> None:
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
def test_impossible_wait_is_ignored(server: Loopback, value: str) -> None:
    server.say(Say(503, headers={"Retry-After": value}))
    assert isinstance(error_of(server.url, retries=ONCE), TryAgainLaterError)


def test_attempts_are_bounded(server: Loopback) -> None:
    server.say(Say(503))
    error = error_of(server.url, retries=Retries(attempts=3, total=5, first=0.001))
    assert isinstance(error, TryAgainLaterError)
    assert str(error).startswith(f"{NAME} answered 503")
    assert "Gave up after 3 attempts" in str(error)
    assert len(server.heard) == 3


def test_total_includes_the_waits(server: Loopback) -> None:
    server.say(Say(503))
    error = error_of(server.url, retries=Retries(total=0.4, first=0.05, longest=0.05))
    assert isinstance(error, TryAgainLaterError)
    assert error.after is None
    assert 1 < len(server.heard) <= 1 + 0.4 / 0.025
    assert server.heard[-1].at - server.heard[0].at <= 0.5


def test_total_alone_bounds_attempts(server: Loopback) -> None:
    server.say(*[Say(503)] * 40, Say())
    with transport(server.url, retries=Retries(first=0.001, longest=0.001)) as client:
        client.request("GET", "/", read=whole)
        assert (client.attempts, client.retried, client.rate_limited) == (41, 40, 0)


def test_attempts_are_counted(server: Loopback) -> None:
    server.say(Say(429), Say(), Say(503), Say(429), Say(), Say(400))
    with transport(server.url) as client:
        client.request("GET", "/", read=whole)
        assert (client.attempts, client.retried, client.rate_limited) == (2, 1, 1)
        client.request("GET", "/", read=whole)
        assert (client.attempts, client.retried, client.rate_limited) == (5, 3, 2)
        with pytest.raises(StatusError):
            client.request("GET", "/", read=whole)
        assert (client.attempts, client.retried, client.rate_limited) == (6, 3, 2)


def test_threads_lose_no_count(server: Loopback) -> None:
    server.say(lambda heard: Say(429) if len(server.heard) % 3 == 1 else Say())
    with transport(server.url, retries=Retries(first=0.001, longest=0.001)) as client:

        def ask() -> None:
            for _ in range(10):
                client.request("GET", "/", read=whole)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        join(threads)
        assert client.attempts == len(server.heard) == 60 + client.retried
        assert client.rate_limited == client.retried > 0


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        (lambda: {"Retry-After": "3600"}, r"3600 s"),
        (lambda: {"Retry-After": in_a_while(3600)}, r"3\d\d\d s"),
        (lambda: {"X-RateLimit-Reset": "3600"}, r"3600 s"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_wait_beyond_total_gives_up(
    server: Loopback, status: int, headers: Callable[[], dict[str, str]], named: str
) -> None:
    server.say(Say(status, '{"meta": {"error": "slow down"}}', headers()))
    began = time.monotonic()
    with (
        transport(server.url, retries=Retries(total=600)) as client,
        pytest.raises(TryAgainLaterError, match=rf"answered {status}: slow down, and asks to wait {named}") as caught,
    ):
        client.request("GET", "/", read=whole)
    assert time.monotonic() - began < AT_ONCE
    assert caught.value.after is not None
    assert 3500 < caught.value.after <= 3601
    assert len(server.heard) == 1


LIMITS = pytest.mark.parametrize(
    ("status", "headers"), [(429, {"Retry-After": "0.2"}), (429, {}), (503, {"Retry-After": "0.2"})]
)


def test_short_wait_sets_no_retry_time(server: Loopback) -> None:
    """A service that always asks for a short wait would be tried for ever."""
    server.say(Say(429, headers={"Retry-After": "30"}))
    error = error_of(server.url, retries=Retries(attempts=1))
    assert isinstance(error, TryAgainLaterError)
    assert error.after is None
    assert "asks to wait 30 s. Gave up after 1 attempt;" in str(error)


@LIMITS
def test_limit_holds_other_threads(server: Loopback, status: int, headers: dict[str, str]) -> None:
    server.say(Say(status, headers=headers), Say())
    limiter = RateLimiter(1000)
    with transport(server.url, limiter=limiter, retries=Retries(first=0.4)) as client:
        first = threading.Thread(target=client.request, args=("GET", "/first"), kwargs={"read": whole}, daemon=True)
        first.start()
        until(client.waiting)
        client.request("GET", "/second", read=whole)
        join([first])
    assert server.gaps[0] >= 0.19
    assert sorted(heard.target for heard in server.heard) == ["/first", "/first", "/second"]
    assert limiter.rate < 1000


def test_fault_holds_no_other_request(server: Loopback) -> None:
    server.say(lambda heard: Say(503 if heard.target == "/first" else 200))
    limiter = RateLimiter(1000)
    client = transport(server.url, limiter=limiter)
    with asking_in_the_background(client, "/first"):
        until(client.waiting)
        began = time.monotonic()
        client.request("GET", "/second", read=whole)
        assert time.monotonic() - began < AT_ONCE
    assert limiter.rate == 1000


# --- what is retried, what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["reset", "reset_after", "truncated", "truncated_json", "timeout", "html", "html200", "429", "500", "502", "503"],
)
def test_passing_fault_is_retried(sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=2, seconds=2))
    timeout = 0.1 if kind == "timeout" else 5
    with transport(sandbox.url, key=sandbox.settings.app_key, timeout=timeout) as client:
        assert client.request("GET", "/v1/messages", read=whole)["messages"] == []
        assert client.attempts == 3
    assert [asked.fault for asked in sandbox.customerio.requests] == [kind, kind, None]


def test_unreachable_service_is_retried() -> None:
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
def test_other_4xx_is_not_retried(server: Loopback, status: int) -> None:
    server.say(Say(status, "no", {"Retry-After": "0"}))
    error = error_of(server.url)
    assert isinstance(error, StatusError)
    assert (error.status, error.text) == (status, "no")
    assert len(server.heard) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirect_is_never_followed(server: Loopback, status: int) -> None:
    with Loopback() as elsewhere:
        server.say(Say(status, "", {"Location": f"{elsewhere.url}/v1/messages"}))
        error = error_of(server.url)
        assert elsewhere.heard == []
    assert isinstance(error, ConfigurationError)
    assert f"{server.url} redirects: put the final address into host" in str(error)
    assert len(server.heard) == 1


@pytest.mark.parametrize("location", ["http://[", "http://", "//", "", "mailto:a@b.c", "http://a..b/"])
def test_redirect_to_any_location(server: Loopback, location: str) -> None:
    server.say(Say(302, "", {"Location": location}))
    assert isinstance(error_of(server.url), ConfigurationError)


@pytest.mark.parametrize("host", ["exa mple.com", "a..b", "*.example.com", "[::1", "example.com:port"])
def test_invalid_host(host: str) -> None:
    assert isinstance(error_of(f"http://{host}"), ConfigurationError)


def looked_up(monkeypatch: pytest.MonkeyPatch, *errors: int | None) -> list[str]:
    """Let name look-ups end with these errors, the last one for ever; return the looked-up names."""
    names: list[str] = []
    resolve = socket.getaddrinfo

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        error = errors[min(len(names), len(errors) - 1)]
        names.append(host)
        if error is None:
            return resolve(host, *args, **kwargs)
        raise socket.gaierror(error, "as a name server may answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def test_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_up(monkeypatch, socket.EAI_NONAME)
    error = error_of("http://api.mistyped.example")
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith(f"{NAME}: the host of http://api.mistyped.example is unknown")
    assert "Check host and region" in str(error)
    assert len(names) == 1


def test_unknown_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    names = looked_up(monkeypatch, socket.EAI_NONAME)
    error = error_of("http://service.example")
    assert isinstance(error, ConfigurationError)
    assert "the proxy" in str(error)
    assert names == ["proxy.example"]


def test_silent_name_server_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_up(monkeypatch, socket.EAI_AGAIN)
    assert isinstance(error_of("http://service.example"), TryAgainLaterError)
    assert len(names) == 4


def test_known_host_is_not_mistyped(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_up(monkeypatch, None, socket.EAI_NONAME, socket.EAI_NONAME, None)
    server.say(Say(headers={"Connection": "close"}))
    with transport(server.url) as client:
        for _ in range(2):
            client.request("GET", "/", read=whole)
        assert client.retried == 2
    assert len(names) == 4


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Return a port whose queue of connections is full: further ones are neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(16):
            caller = stack.enter_context(socket.socket())
            caller.settimeout(0.3)
            try:
                caller.connect(listener.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("here a queue of connections has no end")
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize(("timeout", "longest"), [(0.2, 10.0), (60.0, 0.2)], ids=["the time-out", "ten seconds"])
def test_connect_timeout_is_bounded(
    deaf_port: int, monkeypatch: pytest.MonkeyPatch, timeout: float, longest: float
) -> None:
    assert transport_module._CONNECT_TIMEOUT == 10
    monkeypatch.setattr(transport_module, "_CONNECT_TIMEOUT", longest)
    errors: list[Exception] = []

    def ask() -> None:
        errors.append(error_of(f"http://127.0.0.1:{deaf_port}", timeout=timeout, retries=ONCE))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    join([asking], AT_ONCE)
    assert isinstance(errors[0], TryAgainLaterError)
    assert "could not be reached: ConnectTimeout" in str(errors[0])


# --- certificates -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder: an authority (`ca.pem`) and two of its certificates (`127.0.0.1.pem`, `service.example.pem`)."""
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.now(UTC)

    def builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    ) | {"key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False}
    ca = (
        builder("the authority", "the authority", ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    names: dict[str, x509.GeneralName] = {
        "127.0.0.1": x509.IPAddress(ip_address("127.0.0.1")),
        "service.example": x509.DNSName("service.example"),
    }
    for name, alternative in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            builder(name, "the authority", key)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return folder


@contextlib.contextmanager
def https(certificates: Path, name: str) -> Iterator[Loopback]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / f"{name}.pem")
    with Loopback(tls=tls) as running:
        yield running


def test_https(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    with https(certificates, "127.0.0.1") as server, transport(server.url) as client:
        assert server.url.startswith("https://")
        for _ in range(3):
            assert client.request("GET", "/v1/messages", read=whole) == {}
    assert [heard.headers["Authorization"] for heard in server.heard] == [f"Bearer {SECRET}"] * 3


@pytest.mark.parametrize("why", ["nobody vouches for it", "it is another's"])
def test_untrusted_certificate(certificates: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if why == "it is another's":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    with (
        https(certificates, "127.0.0.1" if why == "nobody vouches for it" else "service.example") as server,
        transport(server.url) as client,
    ):
        with pytest.raises(ConfigurationError, match=r"the certificate of https://.*can't be verified") as caught:
            client.request("GET", "/v1/messages", read=whole)
        assert client.attempts == 1
        assert server.heard == []  # not even the key was sent
    assert "REQUESTS_CA_BUNDLE" in str(caught.value)
    assert "Check host and region" in str(caught.value)


def test_missing_ca_bundle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    error = error_of("https://127.0.0.1:1")
    assert isinstance(error, ConfigurationError)
    assert "/no/such/bundle.pem" in str(error)


def test_https_to_a_plain_server(server: Loopback) -> None:
    assert isinstance(error_of(server.url.replace("http:", "https:")), TryAgainLaterError)


# --- what goes over the wire ------------------------------------------------------------------------------------


def test_body_is_made_for_each_attempt(server: Loopback) -> None:
    server.say(Say(503), Say(429), Say())
    made = iter(range(9))
    with transport(server.url) as client:
        client.request("POST", "/", read=whole, body=lambda: b"body %d" % next(made))
    assert [heard.body for heard in server.heard] == [b"body 0", b"body 1", b"body 2"]


def test_parameters_are_encoded(server: Loopback) -> None:
    server.say(Say())
    with transport(server.url + "/base/") as client:
        client.request("GET", "/path", read=whole, params={"start": "a+b/c==&d", "n": 1})
    assert server.heard[0].target == "/base/path?start=a%2Bb%2Fc%3D%3D%26d&n=1"


def test_requests_to_one_path_share_no_part(server: Loopback) -> None:
    server.say(*[Say()] * 4)
    with transport(server.url, headers={"X-Each": "one"}) as client:
        client.request("POST", "/path", read=whole, params={"n": 1}, body=lambda: b"[1, 2]")
        client.request("POST", "/path", read=whole)
        client.request("POST", "/path", read=whole, params={"n": 2}, body=lambda: b"[]")
        client.request("GET", "/path", read=whole)
    assert [(heard.target, heard.body) for heard in server.heard] == [
        ("/path?n=1", b"[1, 2]"),
        ("/path", b""),
        ("/path?n=2", b"[]"),
        ("/path", b""),
    ]
    kinds = [heard.headers.get("Content-Type") for heard in server.heard]
    assert kinds == ["application/json", None, "application/json", None]
    assert {heard.headers["X-Each"] for heard in server.heard} == {"one"}


def test_netrc_keeps_the_key(server: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
        ("<p>502</p><script>that does not end", "502"),
        ("<html></html>", "<html></html>"),
        ("", "Bad Request"),
        (b"\xff broken \xfe", "\ufffd broken \ufffd"),
        ("in another script: é".encode("utf-16"), "in another script: é"),
        ("no mark é".encode("utf-16-le"), "no mark é"),
        ("x" * 5000, "x" * 197 + "..."),
    ],
)
def test_text_of_an_error_answer(server: Loopback, body: str | bytes, words: str) -> None:
    server.say(Say(400, body))
    error = error_of(server.url)
    assert isinstance(error, StatusError)
    assert error.text == words


@pytest.mark.parametrize("opens", ["[", '{"errors":'])
def test_deeply_nested_error_answer(server: Loopback, opens: str) -> None:
    closes = "]" if opens == "[" else "}"
    for depth in (100, 300, *range(400, 1000, 20), 10_000):
        server.say(Say(503, opens * depth + "1" + closes * depth))
        assert isinstance(error_of(server.url, retries=ONCE), TryAgainLaterError), depth


@given(st.text("<>![]-/&#;=?\"' ax1", max_size=40))
@example("<![odd[ page")
@example("<!DOCTYPE [<!odd")
@example("&#99999999999;")
@settings(max_examples=100)
def test_any_markup_becomes_text(server: Loopback, body: str) -> None:
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
def test_errors_show_nothing_private(
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
def test_reason_phrase_is_masked(server: Loopback, private: str) -> None:
    server.say(Say(400, "", reason=f"No {private}"))
    assert private not in str(error_of(server.url))


@pytest.mark.parametrize("fill", [" ", "<br>"])
@pytest.mark.parametrize("private", [SECRET, "jane.doe@example.com"])
def test_truncation_shows_no_secret_part(server: Loopback, fill: str, private: str) -> None:
    """The text must be masked before it is cut, because half a key would not be recognised."""
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
def test_address_is_masked_in_any_form(server: Loopback, body: str) -> None:
    server.say(Say(400, body))
    assert "jane.doe" not in str(error_of(server.url))


# --- what a client waits for ------------------------------------------------------------------------------------


@contextlib.contextmanager
def asking_in_the_background(client: Transport, *paths: str) -> Iterator[None]:
    """Send a request by a thread for each path, begun one after the other; close the client in the end."""

    def ask(path: str) -> None:
        with contextlib.suppress(ClosedError):
            client.request("GET", path, read=whole, retries=Retries(first=10 if path == "/short" else 60))

    with client:
        threads = [threading.Thread(target=ask, args=(path,), daemon=True) for path in paths]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        yield
        client.close()
        join(threads)


def until(happened: Callable[[], Any]) -> Any:
    give_up_at = time.monotonic() + 30
    while not (found := happened()):
        assert time.monotonic() < give_up_at
        time.sleep(0.005)
    return found


LIMITED = '{"errors": [{"detail": "rate limited to 10 requests per 1s", "status": "429"}]}'


def test_waiting_names_the_cause(server: Loopback) -> None:
    server.say(Say(408, LIMITED, {"Retry-After": "0.01"}), Say(429, LIMITED, {"Retry-After": "59.5"}))
    client = transport(server.url)
    assert client.waiting() is None
    with asking_in_the_background(client, "/"):
        until(lambda: client.attempts == 2)
        assert re.fullmatch(
            re.escape(f"{NAME} answered 429: rate limited to 10 requests per 1s; waits ")
            + r"(\d\d) s before attempt 3",
            until(client.waiting),
        )
        left = int(re.findall(r"waits (\d+) s", client.waiting() or "")[0])
        assert 59.5 - AT_ONCE < left <= 60
    assert client.waiting() is None


def test_waiting_without_a_header(server: Loopback) -> None:
    server.say(Say(503, "maintenance"))
    client = transport(server.url)
    with asking_in_the_background(client, "/"):
        assert re.search(r"answered 503: maintenance; waits \d\d s before attempt 2$", until(client.waiting))


def test_waiting_without_a_service() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    client = transport(f"http://127.0.0.1:{port}")
    with asking_in_the_background(client, "/"):
        assert "could not be reached: ConnectionError" in until(client.waiting)


@pytest.mark.parametrize("paths", [("/short", "/long"), ("/long", "/short")])
def test_waiting_names_the_longest(server: Loopback, paths: tuple[str, str]) -> None:
    server.say(lambda heard: Say(503, f"asked for {heard.target}"))
    client = transport(server.url)
    with asking_in_the_background(client, *paths):
        until(lambda: "/long" in (client.waiting() or ""))
        until(lambda: client.attempts == 2)
        time.sleep(0.1)
        assert "/long" in (client.waiting() or "")


def test_finished_wait_is_not_named(server: Loopback) -> None:
    server.say(Say(503, headers={"Retry-After": "0.1"}), Say())
    with transport(server.url) as client:
        client.request("GET", "/", read=whole)
        assert client.waiting() is None


def test_waiting_ignores_the_limiter(server: Loopback) -> None:
    server.say(Say())
    client = transport(server.url, limiter=RateLimiter(0.01))
    with asking_in_the_background(client, "/"):
        until(lambda: server.heard)
        waiting = threading.Thread(target=error_or_none, args=(client,), daemon=True)
        waiting.start()
        time.sleep(0.1)
        assert client.waiting() is None
        assert waiting.is_alive()
        client.close()
        join([waiting])


def error_or_none(client: Transport) -> None:
    with contextlib.suppress(ClosedError):
        client.request("GET", "/", read=whole)


def test_wanted_in_flight(server: Loopback) -> None:
    def slowly(heard: Heard) -> Say:
        time.sleep(0.1)
        return Say()

    server.say(slowly)
    with transport(server.url, limiter=RateLimiter(100)) as client:
        assert client.wanted_in_flight() == 1
        client.request("GET", "/", read=whole)
        assert client.wanted_in_flight() >= 10


def test_handshake_delays_the_limiter(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limiter counts from the end of the handshake; otherwise the next request would come too soon."""

    def slowly(heard: Heard) -> Say:
        time.sleep(0.4)
        return Say()

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    with https(certificates, "127.0.0.1") as server:
        server.say(slowly, Say())
        with transport(server.url, limiter=RateLimiter(1, bursts=True)) as client:
            for _ in range(2):
                client.request("GET", "/", read=whole)
        assert server.gaps[0] >= 1.2


# --- close ------------------------------------------------------------------------------------------------------


def sockets_to(port: int) -> int:
    return sum(bool(one.raddr) and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))


def assert_open_files(count: int) -> None:
    """Assert the number of open files, once the server's end, which is in this process too, has noticed."""
    until = time.monotonic() + 1
    while psutil.Process().num_fds() > count and time.monotonic() < until:
        time.sleep(0.005)
    assert psutil.Process().num_fds() <= count


def end_of(client: Transport, begun: Callable[[], object], threads: int = 1) -> float:
    """Close the client while threads are in `request`: each ends with `ClosedError`. Return the seconds until then."""
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
    join(asking)
    seconds = time.monotonic() - began
    assert [type(error) for error in ends] == [ClosedError] * threads
    assert str(ends[0]).startswith(NAME)
    assert_open_files(files)
    return seconds


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "60"}])
def test_close_ends_the_sleep(own_server: Loopback, status: int, headers: dict[str, str]) -> None:
    own_server.say(Say(status, headers=headers))
    client = transport(own_server.url, retries=Retries(first=60))

    def begun() -> None:
        own_server.wait_for_requests(1)
        time.sleep(0.05)

    assert end_of(client, begun) < AT_ONCE
    assert len(own_server.heard) == 1


def test_close_ends_the_limiter_wait(own_server: Loopback) -> None:
    own_server.say(Say())
    limiter = RateLimiter(0.01)
    limiter.acquire(1, time.sleep)
    assert end_of(transport(own_server.url, limiter=limiter), lambda: time.sleep(0.05), threads=3) < AT_ONCE
    assert own_server.heard == []


def test_close_prevents_a_repeat(
    own_server: Loopback,
) -> None:
    own_server.say(SILENCE)
    end_of(transport(own_server.url, timeout=0.3), lambda: own_server.wait_for_requests(5), threads=5)
    assert len(own_server.heard) == 5


def test_late_answer_is_read(own_server: Loopback) -> None:
    closed = threading.Event()

    def late(heard: Heard) -> Say:
        closed.wait(30)
        return Say(body='{"late": true}')

    own_server.say(late)
    client, answers = transport(own_server.url), []
    asking = threading.Thread(target=lambda: answers.append(client.request("GET", "/", read=whole)), daemon=True)
    asking.start()
    own_server.wait_for_requests(1)
    client.close()
    closed.set()
    join([asking])
    assert answers == [{"late": True}]


def test_environment_proxy_is_used(own_server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", own_server.url)
    with transport("http://service.example") as client:
        client.request("GET", "/v1/messages", read=whole)
    assert [heard.target for heard in own_server.heard] == ["http://service.example/v1/messages"]


def test_no_proxy_is_respected(own_server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with transport(own_server.url) as client:
        client.request("GET", "/v1/messages", read=whole)
    assert [heard.target for heard in own_server.heard] == ["/v1/messages"]


def test_close_prevents_requests(own_server: Loopback) -> None:
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


def test_close_in_mid_request(own_server: Loopback) -> None:
    client = transport(own_server.url)

    def body() -> bytes:  # asked for when the attempt has begun, and its connection has not
        client.close()
        return b""

    assert client.request("POST", "/", read=whole, body=body) == {}
    assert sockets_to(own_server.port) == 0


def test_connection_is_reused(own_server: Loopback) -> None:
    own_server.say(Say())
    with transport(own_server.url) as client:
        for _ in range(5):
            client.request("GET", "/", read=whole)
            assert sockets_to(own_server.port) == 1
