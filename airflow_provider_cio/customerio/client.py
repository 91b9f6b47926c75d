"""Client of Customer.io's App API: pages of deliveries and activities, lists of names, reporting webhooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import requests

from airflow_provider_cio.customerio.decoding import UNDECODABLE, PageDecoder, mended
from airflow_provider_cio.customerio.decoding import Page as Page
from airflow_provider_cio.customerio.rows import DESCRIBING, Activity, Delivery, ReportingWebhook
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError, UnexpectedDataError
from airflow_provider_cio.http.client import Client
from airflow_provider_cio.http.errors import RedirectError, StatusError, UnreadableBody
from airflow_provider_cio.http.rate_limit import RateLimiter
from airflow_provider_cio.http.transport import Answer, Retries, Transport

T = TypeVar("T")

#: Base URL of each region.
REGIONS = {"us": "https://api.customer.io", "eu": "https://api-eu.customer.io"}
#: Most rows of a page of `/v1/messages`.
PAGE_SIZE = 1000
#: Most rows of a page of `/v1/activities`.
ACTIVITY_PAGE_SIZE = 100
#: Bytes of an answer, and of all names of a list: a page of 1,000 deliveries has about 1 KiB for each, and may have 32.
_LARGEST_ANSWER = 2**25
NEWSLETTERS = "/v1/newsletters"
WEBHOOKS = "/v1/reporting_webhooks"
#: Rows of a page of newsletters, the only list of names with pages. Its maximum is not documented, so the request is
#: repeated without a `limit` if it is refused.
_NEWSLETTER_PAGE_SIZE = 100
#: Most pages of a list of names. A longer list has a cursor that never ends.
_MAX_PAGES_OF_NAMES = 1000
#: Seconds for which a list of names is retried, because the reading of deliveries waits for it.
_PATIENCE_FOR_NAMES = 60.0


_deliveries = PageDecoder("messages", Delivery, created="created", describing=DESCRIBING)
_activities = PageDecoder("activities", Activity, created="timestamp")
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_webhook = msgspec.json.Decoder(ReportingWebhook).decode
_decode_webhooks = msgspec.json.Decoder(
    msgspec.defstruct("Webhooks", [("reporting_webhooks", list[ReportingWebhook] | None)])
).decode


class ScopeError(ConfigurationError):
    """The key may not read a list, which most uses do not need.

    :param client_name: name of the client whose key it is.
    :param status: of the answer.
    """

    def __init__(self, message: str, client_name: str, path: str, status: int) -> None:
        super().__init__(message)
        self.client_name = client_name
        self.path = path
        self.status = status


class CustomerIOClient(Client):
    """Client of one Customer.io workspace.

    :param region: name of the region for the advice in errors. Requests go to `base_url`.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = REGIONS["us"],
        region: str = "us",
        requests_per_second: float = 8,
        timeout: float = 60,
        name: str = "Customer.io",
        retries: Retries | None = None,
    ) -> None:
        def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {api_key}"
            return request

        self._region = region
        super().__init__(
            Transport(
                base_url,
                name=name,
                auth=bearer,
                timeout=timeout,
                limiter=RateLimiter(requests_per_second, bursts=True),
                retries=retries or Retries(),
                secrets=(api_key,),
                largest_answer=_LARGEST_ANSWER,
            )
        )

    def wanted_in_flight(self) -> int:
        """Return the number of parallel requests that use up the allowed rate, at the latency seen so far."""
        return self._transport.wanted_in_flight()

    def page(self, query: Mapping[str, str | int]) -> Page[Delivery]:
        """Return one page of `/v1/messages`.

        :param query: percent-encoded by the transport, because Customer.io answers unencoded values with empty lists.
        :raises TryAgainLaterError: Customer.io was out of reach for too long, answered 403, or forgot the cursor.
        :raises ConfigurationError: Customer.io answered 401 or 404, or the cause is one of `Transport.request`.
        :raises UnexpectedDataError: Customer.io refused the request otherwise, or the answer is no page.
        """
        return self._get("/v1/messages", query, _deliveries.page)

    def activity_page(self, query: Mapping[str, str | int]) -> Page[Activity]:
        """Return one page of `/v1/activities`, almost in the order newest first. Raise as `page` does."""
        return self._get("/v1/activities", query, _activities.page)

    def answer(self, path: str, query: Mapping[str, str | int]) -> dict[str, Any]:
        """Return an answer as it came. Raise as `page` does."""
        return self._get(path, query, lambda body: _decode_object(mended(body)))

    def delivery(self, delivery_id: str) -> Delivery | Malformed | None:
        """Return one delivery; None if Customer.io no longer has it. Raise as `page` does."""

        def decode(body: bytes) -> Delivery | Malformed:
            fields = _decode_raw_fields(mended(body))
            if "message" not in fields:
                raise msgspec.ValidationError("Object missing required field `message`")
            return _deliveries.row(bytes(fields["message"]))

        try:
            return self._ask(f"/v1/messages/{quote(delivery_id, safe='')}", {}, decode)
        except StatusError as error:
            if error.status == 404:
                return None
            raise self._explained(error, "/v1/messages") from None

    def names(self, path: str, key: str) -> dict[str, str]:
        """Return the names of one list by id, from all its pages. Leave out malformed items and those without a name.

        :param key: field of the answer that has the items.
        :raises ConfigurationError: the key may not read the list.
        :raises TryAgainLaterError: Customer.io was out of reach for a minute, or refused a page after the first.
        :raises UnexpectedDataError: the answer has no such list, or the list does not end.
        """
        patience = replace(self._transport.retries, total=min(self._transport.retries.total, _PATIENCE_FOR_NAMES))
        found: dict[str, str] = {}
        size = 0
        query: dict[str, str | int] = {"limit": _NEWSLETTER_PAGE_SIZE} if path == NEWSLETTERS else {}
        for _ in range(_MAX_PAGES_OF_NAMES):
            try:
                answer = self._ask(path, query, lambda body: _decode_object(mended(body)), patience)
            except StatusError as error:
                later = "start" in query
                if error.status == 400 and not later and query.pop("limit", 0):
                    continue
                raise self._explained(error, path, cursor=later, optional=not later) from None
            names = self._names_in(answer, path, key)
            size += sum(len(one) + len(name) for one, name in names.items())
            if size > _LARGEST_ANSWER:
                raise UnexpectedDataError(f"{self.name}: the names in {path} take more than {_LARGEST_ANSWER} bytes.")
            found |= names
            following = answer.get("next")
            if not following or not isinstance(following, str | int) or str(following) == query.get("start"):
                return found
            query["start"] = str(following)
        raise UnexpectedDataError(f"{self.name}: {path} names a next page after {_MAX_PAGES_OF_NAMES:,} pages.")

    def _names_in(self, answer: dict[str, Any], path: str, key: str) -> dict[str, str]:
        items = answer.get(key, "missing")
        if items is None:
            return {}
        named = [one for one in items if _is_named(one)] if isinstance(items, list) else []
        if not isinstance(items, list) or (items and not named):
            raise UnexpectedDataError(
                f"{self.name}: the answer to {path} does not have the documented shape: no list of ids and names "
                f"under {key!r}."
            )
        return {str(one["id"]): one["name"] for one in named if one.get("name")}

    def reporting_webhooks(self) -> list[ReportingWebhook]:
        """Return all reporting webhooks of the workspace. Raise as `names` does."""
        try:
            found: Any = self._ask(WEBHOOKS, {}, _decode_webhooks)
        except StatusError as error:
            raise self._explained(error, WEBHOOKS, optional=True) from None
        return found.reporting_webhooks or []

    def save_reporting_webhook(self, webhook: ReportingWebhook) -> ReportingWebhook:
        """Create a reporting webhook if it has no id, else update it.

        A creation is tried only once, because a try may succeed although its answer is lost.

        :raises ConfigurationError: the key may not change webhooks, or Customer.io rejects name, endpoint or events.
        """
        fields = msgspec.structs.asdict(webhook)
        webhook_id = fields.pop("id")
        creates = webhook_id is None
        try:
            return self._ask(
                WEBHOOKS if creates else f"{WEBHOOKS}/{webhook_id}",
                {},
                _decode_webhook,
                replace(self._transport.retries, attempts=1) if creates else None,
                method="POST" if creates else "PUT",
                body=msgspec.json.encode(fields),
            )
        except StatusError as error:
            if error.status in (400, 422):
                raise ConfigurationError(
                    f"{self.name} rejected the reporting webhook: {error}. Check name, URL and events."
                ) from None
            raise self._explained(error, WEBHOOKS, optional=True) from None

    def check_access(self, path: str) -> None:
        """Check that the key may read a list, with a single request. Raise as `names` does."""
        try:
            self._ask(path, {}, _decode_object, replace(self._transport.retries, attempts=1))
        except StatusError as error:
            raise self._explained(error, path, optional=True) from None

    def _get(self, path: str, query: Mapping[str, str | int], decode: Callable[[bytes], T]) -> T:
        try:
            return self._ask(path, query, decode)
        except StatusError as error:
            raise self._explained(error, path, cursor="start" in query) from None

    def _ask(
        self,
        path: str,
        query: Mapping[str, str | int],
        decode: Callable[[bytes], T],
        retries: Retries | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> T:
        def read(answer: Answer) -> T:
            try:
                return decode(answer.body)
            except msgspec.ValidationError as error:
                raise UnexpectedDataError(
                    f"{self.name}: the answer to {path} does not have the documented shape: "
                    f"{self._transport.safe_text(str(error))}. "
                    "Please report it with this message."
                ) from None
            except UNDECODABLE:
                kind = self._transport.safe_text(answer.headers.get("Content-Type", "")) or "unknown type"
                raise UnreadableBody(f"{len(answer.body)} bytes of {kind} that are not whole JSON") from None

        try:
            return self._transport.request(
                method,
                path,
                params=query,
                read=read,
                retries=retries,
                body=(lambda: body) if body else None,
            )
        except RedirectError as error:
            if _host_of(error.location) != _host_of(REGIONS[self._other_region]):
                raise
            raise ConfigurationError(
                f"{self.name} redirects to {REGIONS[self._other_region]}, because the account is in that region. "
                f"{self._to_change_region}"
            ) from None

    @property
    def _other_region(self) -> str:
        return "eu" if self._region == "us" else "us"

    @property
    def _to_change_region(self) -> str:
        """One sentence that says how the connection gets the other region."""
        and_host = "" if self._transport.base_url in REGIONS.values() else ", and leave host empty"
        return f"Set region to {self._other_region!r} in the connection{and_host}."

    def _explained(self, error: StatusError, path: str, *, cursor: bool = False, optional: bool = False) -> Exception:
        """Return the error to raise for a status.

        :param cursor: the request had a cursor.
        :param optional: most uses do not need this list, so the error for 403 asks for a scope of the key.
        """
        transport = self._transport
        answered = f"{transport.name} answered {error}."
        if error.status == 401:
            return ConfigurationError(
                f"{answered} {transport.base_url} was asked, as region {self._region!r}. Check that password holds an "
                "App API key (not a Track API key) of this workspace. Or the account is in the other region, which "
                f"gives the same answer. {self._to_change_region}"
            )
        if error.status in (403, 404) and optional:
            advice = f"The key may not read {path}: give it that scope."
            return ScopeError(f"{answered} {advice}", transport.name, path, error.status)
        if error.status == 403:
            return TryAgainLaterError(
                f"{answered} This worker may not read {path} with this key: check the key's scope, and its IP "
                "allow-list against the address of this worker. A retry may run on another worker."
            )
        if error.status == 404:
            return ConfigurationError(f"{answered} Check host: {transport.base_url} has no App API at {path}.")
        if error.status == 400 and cursor:
            return TryAgainLaterError(f"{answered} The cursor is no longer valid; a retry asks anew.")
        return UnexpectedDataError(answered)


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # it is no URL
        return None


def _is_named(item: Any) -> bool:
    """Return True for an object with an id, whose name is text or missing."""
    return (
        isinstance(item, dict)
        and type(item.get("id")) in (str, int)
        and (item.get("name") is None or isinstance(item["name"], str))
    )
