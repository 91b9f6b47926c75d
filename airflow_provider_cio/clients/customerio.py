"""Customer.io's App API: deliveries, page by page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self, TypeVar
from urllib.parse import quote

import msgspec
import requests

from airflow_provider_cio.clients.transport import (
    Answer,
    RateLimiter,
    Retries,
    StatusError,
    Transport,
    UnreadableBody,
)
from airflow_provider_cio.exceptions import ConfigurationError, UnexpectedDataError
from airflow_provider_cio.records import Activity, Delivery

T = TypeVar("T")

REGIONS = {"us": "https://api.customer.io", "eu": "https://api-eu.customer.io"}
PAGE_SIZE = 1000  # the most that /v1/messages gives at once
ACTIVITY_PAGE_SIZE = 100  # the most that /v1/activities does
_MOST_PAGES_OF_NAMES = 1000


class Page(msgspec.Struct):
    """`messages` may be null when empty; `next` is empty, null or absent on the last page."""

    messages: list[Delivery] | None
    next: str | None = None


class ActivityPage(msgspec.Struct):
    """`next` as in `Page`."""

    activities: list[Activity] | None
    next: str | None = None


class _One(msgspec.Struct):
    message: Delivery


class _Named(msgspec.Struct):
    id: str | int
    name: str | None = None


_pages = msgspec.json.Decoder(Page)
_activity_pages = msgspec.json.Decoder(ActivityPage)
_single = msgspec.json.Decoder(_One)
_anything = msgspec.json.Decoder(dict[str, Any])


def _plain(body: bytes) -> Any:
    return json.loads(body.decode("utf-8", "replace"))


class CustomerIOClient:
    """Reads one workspace.

    :param region: only for the advice that an error gives; `base_url` says where to ask.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = REGIONS["us"],
        region: str = "us",
        requests_per_second: float = 10,
        timeout: float = 60,
        name: str = "Customer.io",
        retries: Retries | None = None,
    ) -> None:
        def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {api_key}"
            return request

        self._region = region
        self._transport = Transport(
            base_url,
            name=name,
            auth=bearer,
            timeout=timeout,
            limiter=RateLimiter(requests_per_second),
            retries=retries or Retries(),
            secrets=(api_key,),
        )

    @property
    def requests_made(self) -> int:
        """How many so far, repeated ones included."""
        return self._transport.attempts

    @property
    def name(self) -> str:
        """How errors call the service."""
        return self._transport.name

    def in_flight(self) -> int:
        """How many requests at once use up the rate that is allowed, at the latency seen so far."""
        return self._transport.in_flight()

    def page(self, query: Mapping[str, str | int]) -> Page:
        """One page of `/v1/messages`. Every value is percent-encoded: unencoded ones give an empty list."""
        return self._get("/v1/messages", query, _pages)

    def activity_page(self, query: Mapping[str, str | int]) -> ActivityPage:
        """One page of `/v1/activities`, at most 100 a page, newest first but for a few."""
        return self._get("/v1/activities", query, _activity_pages)

    def delivery(self, delivery_id: str) -> Delivery | None:
        """One delivery, or None if Customer.io has it no more."""
        path = f"/v1/messages/{quote(delivery_id, safe='')}"
        try:
            return self._ask(path, {}, _single).message
        except StatusError as error:
            if error.status == 404:
                return None
            raise self._explained(error, "/v1/messages") from None

    def names(self, path: str, key: str) -> dict[str, str]:
        """Names by id, of one of the lists of campaigns and their like, all of its pages.

        :raises CustomerIOToSegmentError: after few attempts.
        """
        found: dict[str, str] = {}
        query: dict[str, str | int] = {}
        for _ in range(_MOST_PAGES_OF_NAMES):
            answer = self._get(path, query, _anything, Retries(attempts=3))
            try:
                listed = msgspec.convert(answer.get(key) or [], list[_Named])
            except msgspec.ValidationError as error:
                raise UnexpectedDataError(f"{self.name}: {path} does not have the documented shape: {error}.") from None
            found |= {str(item.id): item.name for item in listed if item.name}
            following = answer.get("next")
            if not following or not isinstance(following, str) or following == query.get("start"):
                return found
            query["start"] = following
        return found

    def _get(
        self,
        path: str,
        query: Mapping[str, str | int],
        decoder: msgspec.json.Decoder[T],
        retries: Retries | None = None,
    ) -> T:
        try:
            return self._ask(path, query, decoder, retries)
        except StatusError as error:
            raise self._explained(error, path) from None

    def _ask(
        self,
        path: str,
        query: Mapping[str, str | int],
        decoder: msgspec.json.Decoder[T],
        retries: Retries | None = None,
    ) -> T:
        def read(answer: Answer) -> T:
            return self._read(answer, path, decoder)

        return self._transport.request("GET", path, params=query, read=read, retries=retries)

    def _read(self, answer: Answer, path: str, decoder: msgspec.json.Decoder[T]) -> T:
        body = answer.body
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._misshapen(body, path, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        try:  # half of a surrogate pair, as in a subject cut within an emoji, is JSON that only the plain parser takes
            mended = json.dumps(_plain(body), ensure_ascii=False).encode("utf-8", "replace")
            return decoder.decode(mended)
        except msgspec.ValidationError as error:
            raise self._misshapen(body, path, str(error)) from None
        except (ValueError, RecursionError):
            kind = answer.headers.get("Content-Type", "unknown type")
            raise UnreadableBody(f"{len(body)} bytes of {kind} that are not whole JSON") from None

    def _misshapen(self, body: bytes, path: str, problem: str) -> UnexpectedDataError:
        """Name field and delivery (or activity); the problem itself names kinds, never values."""
        place = re.search(r"\$\.(messages|activities)\[(\d+)\]", problem)
        kind = {"messages": "delivery", "activities": "activity"}[place[1]] if place else ""
        which = f"a {kind}" if place else f"the answer to {path}"
        with suppress(ValueError, RecursionError, LookupError, TypeError):
            its_id = _plain(body)[place[1]][int(place[2])]["id"] if place else None
            which = f"{kind} {its_id!r}" if isinstance(its_id, str) else which
        return UnexpectedDataError(
            f"{self.name}: {which} does not have the documented shape: {problem}. "
            "Nothing of its page was sent; please report it with this message."
        )

    def _explained(self, error: StatusError, path: str) -> Exception:
        transport = self._transport
        said = f"{transport.name} answered {error}."
        if error.status == 401:
            other = "eu" if self._region == "us" else "us"
            return ConfigurationError(
                f"{said} Check that password holds an App API key (not a Track API key) of this workspace, and the "
                f"region: {transport.base_url} was asked as region {self._region!r}, is the account in {other!r}?"
            )
        if error.status == 403:
            return ConfigurationError(
                f"{said} The key is known but may not read {path}: check its scope, "
                "and its IP allow-list against the address of this worker."
            )
        if error.status == 404:
            return ConfigurationError(f"{said} Check host: {transport.base_url} has no App API at {path}.")
        return UnexpectedDataError(said)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
