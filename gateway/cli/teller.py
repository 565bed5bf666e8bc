"""The process of the projections: started by `serve` and its supervisor, never by hand.

Invariant: it ends when whoever started it does, however that ends: its end of the socket pair says so. It listens to no
signal that ends the gateway around it, so that what is settled in the last moment is still told. What never enters: a
verb, an option, a configuration file.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gateway.core.telemetry.settings import Telling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.telling import Desk, Maker

NICE = 5  # calls come first where processors are scarce
READY = b"ready\n"
# Libraries that would write to stderr in their own words, with addresses and bodies in them.
_TALKERS = ("opentelemetry", "urllib3", "requests", "apprise", "grpc")


def main(make: Callable[[Desk], Mapping[str, Maker]] | None = None) -> None:
    """Tells until it is told to stop, or is alone. The descriptor of the socket pair is the last argument.

    make: which projections there are, instead of those of gateway/telling.py.
    """
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(NICE)
    channel = socket.socket(fileno=int(sys.argv[-1]))
    channel.set_inheritable(False)
    heard = _first(channel)
    if heard is None:
        sys.exit(1)
    stop = threading.Event()
    threading.Thread(target=_listen, args=(channel, stop), name="leash", daemon=True).start()

    from gateway import telling
    from gateway.edge.clock import SystemClock
    from gateway.edge.log import Log

    log = Log(sys.stderr, SystemClock())
    log.adopt(*_TALKERS)
    telling.tell(heard, stop, lambda: channel.sendall(READY), log, make or telling.makers)
    sys.stderr.flush()
    os._exit(0)  # a thread that hangs in a request must not keep the process


def _first(channel: socket.socket) -> Telling | None:
    """What is to be told; None: whoever started this is gone already."""
    line = b""
    while not line.endswith(b"\n"):
        got = channel.recv(1 << 20)
        if not got:
            return None
        line += got
    return msgspec.json.decode(line, type=Telling)


def _listen(channel: socket.socket, stop: threading.Event) -> None:
    while True:
        try:
            heard = channel.recv(64)
        except OSError:
            heard = b""
        if not heard:
            os._exit(1)  # nobody would replace or stop it any more; nothing is lost that isn't told yet
        stop.set()
