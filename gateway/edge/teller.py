"""The process of the projections, from its parent's side: started when there is something to tell, replaced if it dies.

A thread sleeps in `select` on a socket pair: the process's end tells that it died, and the process ends when it loses
ours. So it lives no longer than its parent, however that ends. It is handed what the configuration says as one line.

Invariant: at most one such process; a death is followed by another start after a pause that grows while it dies young,
and calls know nothing of either. What never enters: the journal, a projection.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from gateway.core.ports import Clock
from gateway.core.telemetry.settings import Telling
from gateway.edge.supervisor import command_of, how_died

STOP_S = 5.0  # for the last look at the journal (edge/projector.py, LAST_S); what isn't told then is told later
YOUNG_S = 10.0
DYING_S = 1.0
PAUSES_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)  # by how often in a row it died young
STOP = b"stop\n"
COMMAND = command_of("gateway.cli.teller")

Log = Callable[[str, dict[str, Any]], None]


class Teller:
    """`tell` says what is wanted from now on; a thread sees to it. `close` ends both."""

    def __init__(self, clock: Clock, log: Log, command: Sequence[str] = COMMAND) -> None:
        self._clock = clock
        self._log = log
        self._command = command
        self._wanted: Telling | None = None
        self._stopping = False
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._thread: threading.Thread | None = None
        self._young_deaths = 0

    def tell(self, telling: Telling) -> None:
        """From now on this. The same again changes nothing."""
        if self._stopping or telling == self._wanted:
            return
        self._wanted = telling
        self._young_deaths = 0
        if self._thread is None and telling.names:
            self._thread = threading.Thread(target=self._keep, name="teller", daemon=True)
            self._thread.start()
        self._wake.send(b"!")

    def close(self) -> None:
        """Ends the process, after its last look, and the thread. Blocks for at most some seconds."""
        if self._stopping:
            return
        self._stopping = True
        self._wake.send(b"!")
        if self._thread is not None:
            self._thread.join(STOP_S + 2.0)
        self._wake.close()
        self._woken.close()

    def _keep(self) -> None:
        while not self._stopping:
            wanted = self._wanted
            if wanted is None or not wanted.names:
                self._sleep(None)
                continue
            try:
                ours, process = self._start()
            except OSError as error:  # no memory, no process: as if it had died at once
                self._died({"how": f"no process can be started ({error.strerror})"}, 0.0)
                continue
            with ours:
                _Life(self, ours, process, wanted).live()

    def _sleep(self, seconds: float | None) -> None:
        """Until somebody wants something else, at most so long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if selector.select(seconds):
                self._woken.recv(4096)

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    [*self._command, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
                )
            except OSError:
                ours.close()
                raise
        return ours, process

    def _died(self, told: dict[str, Any], lived_s: float) -> None:
        self._young_deaths = self._young_deaths + 1 if lived_s < YOUNG_S else 1
        pause_s = PAUSES_S[min(self._young_deaths, len(PAUSES_S)) - 1]
        self._log("projections_died", {**told, "again_in_s": pause_s})
        self._sleep(pause_s)


class _Life:
    """One process, from its start to its end."""

    def __init__(self, teller: Teller, ours: socket.socket, process: subprocess.Popen[bytes], telling: Telling) -> None:
        self._teller = teller
        self._ours = ours
        self._process = process
        self._telling = telling
        self._began = teller._clock.mono()
        self._ready = False

    def live(self) -> None:
        """Until it dies, or something else is wanted."""
        teller = self._teller
        try:
            with suppress(OSError):  # it is gone already: the loop finds that out
                self._ours.sendall(msgspec.json.encode(self._telling) + b"\n")
            with selectors.DefaultSelector() as selector:
                selector.register(self._ours, selectors.EVENT_READ)
                selector.register(teller._woken, selectors.EVENT_READ)
                while self._hears(selector):
                    if teller._stopping or teller._wanted != self._telling:
                        return self._end()
            with suppress(subprocess.TimeoutExpired):  # its end of the pair is closed, its process is not gone yet
                self._process.wait(DYING_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
            status = self._process.wait()
        told = {"pid": self._process.pid, "how": how_died(status), "served": self._ready}
        teller._died(told, teller._clock.mono() - self._began)

    def _hears(self, selector: selectors.BaseSelector) -> bool:
        """Waits for the next word of either side; False: it is gone."""
        for key, _ in selector.select():
            if key.fileobj is self._teller._woken:
                self._teller._woken.recv(4096)
            elif not self._said():
                return False
        return True

    def _said(self) -> bool:
        try:
            got = self._ours.recv(4096)
        except OSError:
            return False
        if got and not self._ready:
            self._ready = True
            told = {"pid": self._process.pid, "projections": ", ".join(self._telling.names)}
            self._teller._log("projections_started", told)
        return bool(got)

    def _end(self) -> None:
        """It is told to stop; one that has begun nothing yet has nothing to finish."""
        if not self._ready:
            return
        with suppress(OSError):
            self._ours.sendall(STOP)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
