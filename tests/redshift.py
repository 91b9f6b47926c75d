"""PostgreSQL in place of Redshift, for Amazon's driver: they speak the same protocol. What only Redshift knows is taken
from the statements on their way, and so are the keys, which Redshift does not enforce. Transactions see what was there
when they began, and backslashes in text are special, as on Redshift."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlglot
from sqlglot.expressions import Command

#: Statements that sqlglot does not know.
_LOCK = re.compile(r'LOCK "\w+"\."\w+"')
#: Characters of a statement. Longer ones are like shorter ones, with more rows, and would take long.
_LONGEST = 10_000
_ONLY_REDSHIFT = re.compile(rb', PRIMARY KEY \("id"\)\) DISTKEY \("id"\) SORTKEY \("received_at"\)$')
_SETTINGS = (
    b"-c standard_conforming_strings=off -c escape_string_warning=off "
    b"-c default_transaction_isolation=repeatable\\ read"
)
#: The version 3.0 of the protocol, before the options of a connection.
_VERSION = struct.pack("!i", 3 << 16)


def assert_redshift_knows(statement: str) -> None:
    """Assert that sqlglot can parse the statement as Redshift's.

    :raises sqlglot.errors.ParseError: it does not.
    """
    if len(statement) < _LONGEST and not _LOCK.fullmatch(statement):
        assert not isinstance(sqlglot.parse_one(statement, dialect="redshift"), Command), statement


class StandIn:
    """Server on a port of its own, as long as it is open.

    :param server: PostgreSQL's fields of an Airflow connection.
    """

    def __init__(self, server: dict[str, Any]) -> None:
        self._server = server["host"], server["port"]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        #: As the driver sent them.
        self.statements: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
                threading.Thread(target=_downwards, args=(server, client), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with client.makefile("rb") as messages, _until_either_ends(client, server):
            server.sendall(_framed(b"", _VERSION + _options(_body(messages))))
            while kind := messages.read(1):
                body = _body(messages)
                if kind == b"P":
                    name, statement, rest = body.split(b"\0", 2)
                    self.statements.append(statement.decode())
                    body = b"\0".join([name, _ONLY_REDSHIFT.sub(b")", statement), rest])
                server.sendall(_framed(kind, body))

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _downwards(server: socket.socket, client: socket.socket) -> None:
    with server.makefile("rb") as messages, _until_either_ends(server, client):
        while kind := messages.read(1):
            body = _body(messages)
            if kind == b"S" and body.startswith(b"server_version\0"):
                body = b"server_version\0008.0.2\0"
            client.sendall(_framed(kind, body))


@contextmanager
def _until_either_ends(*sockets: socket.socket) -> Iterator[None]:
    try:
        with suppress(OSError, EOFError):
            yield
    finally:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _body(messages: Any) -> bytes:
    """Read the body of a message.

    :raises EOFError: it is cut.
    """
    header = messages.read(4)
    length = int.from_bytes(header, "big") - 4
    body = bytes(messages.read(length)) if len(header) == 4 else b""
    if len(header) < 4 or len(body) < length:
        raise EOFError
    return body


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _options(startup: bytes) -> bytes:
    """Return the options of a connection without those of Amazon's."""
    names = startup[4:].rstrip(b"\0").split(b"\0")
    given = dict(zip(names[::2], names[1::2], strict=True))
    kept = {name: given[name] for name in (b"user", b"database")}
    kept[b"options"] = _SETTINGS
    return b"".join(name + b"\0" + value + b"\0" for name, value in kept.items()) + b"\0"
