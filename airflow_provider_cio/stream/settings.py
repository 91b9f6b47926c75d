"""The option `[customerio] streams`: which streams there are, and what each does. Pure, but for reading the option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, Collection, resolve_collections
from airflow_provider_cio.exceptions import ConfigurationError

#: How errors call the option.
OPTION = "[customerio] streams"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EXAMPLE = '{"main": {"customerio_conn_id": "customerio_default", "segment_conn_id": "segment_default"}}'


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What one stream does. The options that an operator has too mean the same here.

    :param full_resolution: the webhook reports every open and click, and each is sent as an event of its own.
    :param message_content: `Sent` events have the body of the message, as far as an event has room for it.
    """

    customerio_conn_id: str = "customerio_default"
    segment_conn_id: str = "segment_default"
    collections: str | tuple[str, ...] = DEFAULT_COLLECTIONS
    pii: Literal["keep", "hash", "drop"] = "keep"
    on_unidentified: Literal["skip", "cio_id", "dead_letter"] = "skip"
    dead_letter_path: str | None = None
    send_to_customerio_destinations: bool = False
    full_resolution: bool = False
    message_content: bool = False

    @property
    def known_collections(self) -> tuple[Collection, ...]:
        """:raises ConfigurationError: a name is unknown."""
        return resolve_collections(self.collections)


#: By the name of the stream: its options, or why they can't be used.
Streams = Mapping[str, StreamOptions | ConfigurationError]


def read_streams(text: str) -> Streams:
    """One wrong stream is no reason for the others not to run, so its error stands in its place.

    :param text: JSON, as the option has it.
    :raises ConfigurationError: it is no JSON object, or a name can't be part of a URL.
    """
    try:
        by_name = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{OPTION} must be a JSON object of streams by name, such as {_EXAMPLE}: {error}"
        ) from None
    for name in by_name:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{OPTION}: the name {name!r} can't be part of a URL: use letters, digits, '-' and '_', at most 64"
            )
    return {name: _options(name, bytes(raw)) for name, raw in by_name.items()}


def _options(name: str, raw: bytes) -> StreamOptions | ConfigurationError:
    where = f"{OPTION}: stream {name!r}"
    try:
        options = msgspec.json.decode(raw, type=StreamOptions)
        _ = options.known_collections
    except msgspec.ValidationError as error:
        known = ", ".join(StreamOptions.__struct_fields__)
        hint = f" (known are {known})" if "unknown field" in str(error) else ""
        return ConfigurationError(f"{where}: {error}{hint}")
    except ConfigurationError as error:
        return ConfigurationError(f"{where}: {error}")
    for conn_id in ("customerio_conn_id", "segment_conn_id"):
        if not getattr(options, conn_id).strip():
            return ConfigurationError(f"{where}: {conn_id} is empty: leave it out for the default one")
    if options.dead_letter_path is not None and not options.dead_letter_path.strip():
        return ConfigurationError(f"{where}: dead_letter_path is empty: leave it out, or name an absolute folder")
    if options.on_unidentified == "dead_letter" and options.dead_letter_path is None:
        return ConfigurationError(
            f"{where}: on_unidentified='dead_letter' needs dead_letter_path: say where they should go"
        )
    return options


def option_text() -> str:
    """The option as Airflow has it (`airflow.cfg`, ``AIRFLOW__CUSTOMERIO__STREAMS``); empty if it is not set."""
    from airflow.providers.common.compat.sdk import conf

    return str(conf.get("customerio", "streams", fallback="") or "").strip()
