"""Choose ports for servers that must be told theirs."""

from __future__ import annotations

import random
import socket

#: Below the ports that systems give to outgoing connections, one of which could take it before the server does.
_PORTS = range(15_000, 30_000)


def free_port() -> int:
    """Return a free port, most likely another one in each process that asks."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
