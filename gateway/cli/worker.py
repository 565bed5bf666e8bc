"""One of several processes that `serve` runs (`[server] workers`): started by the supervisor, never by hand.

Invariant: it reads no configuration but the text that it is handed, and opens no listener of its own; what keeps it
from starting goes to the supervisor as one sentence, and it ends with exit status 1. What never enters: a verb, an
option.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from gateway.core.errors import MeterboxError
from gateway.edge.leash import Leash, Text, Told, adopted

if TYPE_CHECKING:
    from gateway.config import Settings

_LOOK_MS = 1_000


def main() -> None:
    """Serves until the supervisor says otherwise, or is gone. The descriptor of the leash is the last argument."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload comes over the leash; a closed terminal is no reload
    channel = socket.socket(fileno=int(sys.argv[-1]))
    channel.set_inheritable(False)
    leash = Leash(channel)
    threading.Thread(target=_leave_if_alone, args=(channel.fileno(), leash), name="alone", daemon=True).start()
    import gateway.app  # noqa: F401  a second of work that can be done before anybody needs this process

    told = leash.first()
    if told is None:
        sys.exit(1)
    try:
        _serve(leash, told)
    except (MeterboxError, OSError) as error:
        leash.fail(str(error) if isinstance(error, MeterboxError) else f"can't start: {error}")
        sys.exit(1)


def _leave_if_alone(descriptor: int, leash: Leash) -> None:
    """A start takes a second and keeps the port: it ends when the supervisor does. Later the loop sees to that."""
    ends = select.poll()
    ends.register(descriptor, getattr(select, "POLLRDHUP", 0))  # a hang-up is told always
    while not leash.held:
        if ends.poll(_LOOK_MS) and not leash.held:
            os._exit(1)  # nothing was served: the next start on this ledger finds it as after a SIGKILL


def _serve(leash: Leash, told: Told) -> None:
    import uvloop

    from gateway.app import Tether, serve
    from gateway.config import load

    flags: dict[tuple[str | int, ...], str | int] = {tuple(path): value for path, value in told.flags}

    def read(config: Text) -> Settings:
        return load(config.path, os.environ, flags, config.text.encode())

    listeners = {plane: adopted(descriptors) for plane, descriptors in told.listeners.items()}
    uvloop.run(serve(read(told.config), tether=Tether(leash, listeners, read)))
