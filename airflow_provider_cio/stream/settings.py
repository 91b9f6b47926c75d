"""Read Airflow's options in `[customerio]`: the streams, and whether the API server mounts them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.operators.options import (
    READERS,
    Options,
    check_dead_letters,
    collections_reader,
    one_of,
    read_flag,
)
from airflow_provider_cio.values import flag_in, kind_of

log = logging.getLogger("airflow_provider_cio.stream")

#: Name of the option in errors.
OPTION = "[customerio] streams"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EXAMPLE = '{"main": {"customerio_conn_id": "customerio_default", "segment_conn_id": "segment_default"}}'

_OPERATOR = Options()


class StreamOptions(NamedTuple):
    """Options of one stream. Those that an operator has too have the same meaning, reader and default.

    :param full_resolution: the webhook reports every open and click; send each as an event of its own.
    :param message_content: put the body of the message into `Sent` events, if it fits.
    """

    customerio_conn_id: str = _OPERATOR.customerio_conn_id
    segment_conn_id: str = _OPERATOR.segment_conn_id
    collections: tuple[Collection, ...] = _OPERATOR.collections
    pii: str = _OPERATOR.pii
    on_unidentified: str = _OPERATOR.on_unidentified
    dead_letter_path: str | None = _OPERATOR.dead_letter_path
    send_to_customerio_destinations: bool = _OPERATOR.send_to_customerio_destinations
    full_resolution: bool = False
    message_content: bool = False


#: Readers of the options. `on_unidentified` can't be ``fail``, because a stream has no end at which it could fail.
_READERS = READERS | {
    "collections": collections_reader(in_stream=True),
    "on_unidentified": one_of("skip", "cio_id", "dead_letter"),
    "full_resolution": read_flag,
    "message_content": read_flag,
}

#: By the name of the stream: its options, or the error in them.
Streams = Mapping[str, StreamOptions | ConfigurationError]


def read_streams(text: str) -> Streams:
    """Read the streams from JSON. A wrong stream has its error as its value, so that the other streams can run.

    :raises ConfigurationError: the text is no JSON object.
    """
    try:
        by_name = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_object(f"text that is not JSON ({error})") from None
    if not isinstance(by_name, dict):
        raise _no_object(kind_of(by_name))
    return {name: _read_stream(name, given) for name, given in by_name.items()}


def log_streams(text: str) -> None:
    """Log the streams that can't run, and the names of those that do. Call it when a server mounts the streams."""
    try:
        log_names(read_streams(text))
    except ConfigurationError as error:
        log.warning("No stream runs: %s", error)


def log_names(streams: Mapping[str, object]) -> None:
    """Log the errors among these streams, and the names of the others."""
    wrong = [error for error in streams.values() if isinstance(error, ConfigurationError)]
    names = [name for name, stream in streams.items() if not isinstance(stream, ConfigurationError)]
    for error in wrong:
        log.warning("%s", error)
    log.log(logging.WARNING if wrong else logging.INFO, "Streams that run: %s", ", ".join(names) or "none")


def _no_object(kind: str) -> ConfigurationError:
    return ConfigurationError(f"{OPTION} must be a JSON object of streams by name, such as {_EXAMPLE}, got {kind}")


def _read_stream(name: str, given: object) -> StreamOptions | ConfigurationError:
    if not _NAME.fullmatch(name):
        return ConfigurationError(
            f"{OPTION}: the name {name!r} can't be part of a URL: use letters, digits, '-' and '_', at most 64"
        )
    try:
        if not isinstance(given, dict):
            raise ConfigurationError(f"its options must be a JSON object, got {kind_of(given)}")
        for option in given:
            if option not in StreamOptions._fields:
                raise ConfigurationError(f"unknown option {option!r}; known are {', '.join(StreamOptions._fields)}")
        options = StreamOptions(**{option: _READERS[option](option, value) for option, value in given.items()})
        check_dead_letters(options.on_unidentified, options.dead_letter_path)
    except ConfigurationError as error:
        return ConfigurationError(f"{OPTION}: stream {name!r}: {error}")
    return options


def option_text() -> str:
    """Return `[customerio] streams` from Airflow's configuration; empty text if it is not set."""
    from airflow.providers.common.compat.sdk import conf

    return str(conf.get("customerio", "streams", fallback="") or "").strip()


def mount_streams() -> bool:
    """Return False only if `[customerio] mount_streams` is false. Any value that can't be read counts as true."""
    from airflow.providers.common.compat.sdk import conf

    return flag_in(conf.get("customerio", "mount_streams", fallback="true")) is not False
