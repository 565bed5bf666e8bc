"""Sockets that listen, for whoever accepts on them: a process alone, or several that inherit them.

Invariant: all addresses of a name are listened on, at one port. What never enters: who accepts.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Sequence
from typing import Any

BACKLOG = 1024
LISTEN_TRIES, LISTEN_PAUSE_S = 10, 0.1  # workers whose supervisor was killed let go of the port in a moment


def listen(host: str, port: int, tries: int = LISTEN_TRIES) -> list[socket.socket]:
    """Sockets that listen on every address of a name, on one port. Raises OSError."""
    while True:
        try:
            return _listen(host, port)
        except OSError as error:
            tries -= 1
            if error.errno != errno.EADDRINUSE or tries <= 0:
                raise
        select.select((), (), (), LISTEN_PAUSE_S)


def _listen(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], opened[0].getsockname()[1] if port == 0 and len(opened) > 1 else port, *address[2:]))
            one.listen(BACKLOG)
    except OSError:
        for one in opened:
            one.close()
        raise
    return opened


def url_of(name: Sequence[Any]) -> str:
    """A socket's own name as a URL."""
    host = name[0]
    return f"http://{f'[{host}]' if ':' in host else host}:{name[1]}"
