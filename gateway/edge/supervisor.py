"""The supervisor of `workers = N`: listens once, starts N processes that accept on its sockets, replaces the dead.

All workers accept from one queue, so that a dead one loses no connection that nobody had accepted. The supervisor
waits in `select` without a timeout while all is well: it costs nothing. Each worker hangs on a socket pair
(edge/leash): its end tells the supervisor that the worker died, and the worker that the supervisor did.

A start takes a second, nearly all of it imports. So processes are warmed up first, and become a worker by the first
message; one that is warm waits for the next death.

Invariant: at most one process for each number; a worker that is started gets the configuration that was good last. What
never enters: a call, the ledger, an event loop, a library that serves HTTP.
"""

from __future__ import annotations

import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.core.errors import ConfigError, MeterboxError
from gateway.core.ports import Clock
from gateway.edge.leash import MOST_LINE_BYTES, Said, Text, Told, framed

Log = Callable[[str, dict[str, Any]], None]

MOST_STARTS = 5  # one worker's starts that fail in a row, while no other serves: then it is hopeless
YOUNG_S = 5.0  # a worker that dies younger is started again after a pause
_PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 2.0, 5.0)  # by how often it died young; a worker that served is replaced at once
WARM_AFTER_S = 1.0  # after a start the processors are the new worker's
DYING_S = 0.02
KILL_AFTER_S = 5.0  # after the drain's own time: what hangs then hangs for ever
_HERE = str(Path(__file__).resolve().parents[2])


def command_of(module: str) -> tuple[str, ...]:
    """How a process of ours is started; its descriptors follow as arguments.

    The same package as ours, whatever lies in the working folder: -P keeps that out of the path.
    """
    code = f"import sys; sys.path.insert(0, {_HERE!r}); from {module} import main; main()"
    return (sys.executable, "-P", "-c", code)


COMMAND = command_of("gateway.cli.worker")


class Plan(Struct, frozen=True):
    """What is supervised. `reread` reads the configuration again; raises ConfigError. `taken` hears of each one that
    the workers took over."""

    workers: int
    listeners: Mapping[str, Sequence[socket.socket]]
    config: Text
    flags: Sequence[tuple[list[str], str | int]]
    reread: Callable[[], Text]
    drain_s: float
    command: Sequence[str] = COMMAND
    taken: Callable[[Text], None] | None = None


class _Warm(Struct, frozen=True):
    """A process that has no number yet, and our end of its leash."""

    process: subprocess.Popen[bytes]
    channel: socket.socket


class _Worker:
    """One number, and the process that has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.due_at: float | None = None  # when to start it; None: it runs, or nobody said so yet
        self.started_at = 0.0
        self.ready = False
        self.config = 0  # number of the configuration that it was told last
        self.young_deaths = 0
        self.failed_starts = 0
        self.why = ""  # its own words for why it can't start
        self.heard = b""
        self.unsent = b""


class Supervisor:
    """Runs until it is told to stop by a signal's number on `wake`, or until no worker can be started."""

    def __init__(self, plan: Plan, clock: Clock, log: Log, wake: socket.socket) -> None:
        self._plan = plan
        self._clock = clock
        self._log = log
        self._wake = wake
        self._config = plan.config  # the good one
        self._judged: dict[int, Text] = {}  # read, and being judged by the workers; by their numbers
        self._readings = plan.config.number
        self._workers = [_Worker(number) for number in range(1, plan.workers + 1)]
        self._warm: list[_Warm] = []
        self._warm_at = 0.0  # not before that another one is warmed up
        self._selector = selectors.DefaultSelector()
        self._announced = False
        self._kill_at: float | None = None  # set: we are stopping

    def run(self, ready: Callable[[], None]) -> None:
        """Calls `ready` once, when all workers serve. Raises MeterboxError; no process is left either way."""
        self._wake.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._log("supervising", {"workers": self._plan.workers})
        self._workers[0].due_at = self._clock.mono()  # alone: it says what keeps all of them from starting
        try:
            self._warm_up(self._plan.workers)
            while self._kill_at is None or any(worker.process for worker in self._workers):
                self._start_due()
                for key, _ in self._selector.select(self._patience_s()):
                    if key.data is None:
                        self._signalled(self._wake.recv(4096))
                    else:
                        self._exchange(key.data)
                self._reap()
                if not self._announced and all(worker.ready for worker in self._workers):
                    self._announced = True
                    self._warm_at = self._clock.mono() + WARM_AFTER_S
                    ready()
        finally:
            for warm in self._warm:
                warm.process.kill()
                warm.process.wait()
                warm.channel.close()
            for worker in self._workers:
                if worker.process is not None:
                    worker.process.kill()
                    worker.process.wait()
                self._unhook(worker)
            self._selector.close()

    # ------------------------------------------------------------------ starts and ends

    def _patience_s(self) -> float | None:
        """How long nothing needs to be done; None: until something happens."""
        if any(worker.process is not None and worker.channel is None for worker in self._workers):
            return DYING_S  # its end of the pair is closed, its process is not gone yet
        due = [worker.due_at for worker in self._workers if worker.due_at is not None]
        if self._announced and not self._warm:
            due.append(self._warm_at)
        if self._kill_at is not None:
            due = [self._kill_at]
        return max(0.0, min(due) - self._clock.mono()) if due else None

    def _start_due(self) -> None:
        now = self._clock.mono()
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._send(signal.SIGKILL)
                self._kill_at = now + KILL_AFTER_S
            return
        self._keep_warm(now)
        for worker in self._workers:
            if worker.due_at is not None and worker.due_at <= now:
                worker.due_at = None
                self._start(worker, now)

    def _start(self, worker: _Worker, now: float) -> None:
        """Makes a warm process a worker, by telling it so."""
        try:
            if not self._warm:
                self._warm_up(1)
        except OSError as error:  # no memory, no process: as if it had died at start
            worker.why = f"no process can be started ({error.strerror})"
            return self._failed(worker, worker.why)
        warm = self._warm.pop(0)
        self._warm_at = now + WARM_AFTER_S  # the new worker first
        worker.process, worker.channel = warm.process, warm.channel
        worker.started_at, worker.ready = now, False
        worker.heard, worker.why, worker.config = b"", "", self._config.number
        descriptors = {plane: [one.fileno() for one in sockets] for plane, sockets in self._plan.listeners.items()}
        worker.unsent = framed(Told(self._config, worker.number, descriptors, list(self._plan.flags)))
        self._selector.register(warm.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _warm_up(self, count: int) -> None:
        """Starts processes that have no number yet. Raises OSError."""
        listeners = [one.fileno() for sockets in self._plan.listeners.values() for one in sockets]
        for _ in range(count):
            ours, theirs = socket.socketpair()
            try:
                process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    [*self._plan.command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *listeners),
                )
            except OSError:
                ours.close()
                raise
            finally:
                theirs.close()
            ours.setblocking(False)
            self._warm.append(_Warm(process, ours))

    def _keep_warm(self, now: float) -> None:
        """One process waits for the next death; where none can be had, that must not be in anybody's way."""
        for warm in [warm for warm in self._warm if warm.process.poll() is not None]:
            warm.channel.close()
            self._warm.remove(warm)
            self._warm_at = now + _PAUSES_S[-1]
        if self._announced and not self._warm and now >= self._warm_at:
            self._warm_at = now + _PAUSES_S[-1]
            with suppress(OSError):
                self._warm_up(1)

    def _reap(self) -> None:
        """Looks who died, says how, and when the next one starts."""
        for worker in self._workers:
            if worker.process is None or worker.process.poll() is None:
                continue
            self._exchange(worker)  # its last words
            pid, status, ready = worker.process.pid, worker.process.returncode, worker.ready
            worker.process, worker.ready = None, False
            self._unhook(worker)
            if self._kill_at is not None:
                continue
            how = worker.why or how_died(status)
            self._log("worker_died", {"worker": worker.number, "pid": pid, "how": how, "served": ready})
            if not ready:
                self._failed(worker, how)
                continue
            young = self._clock.mono() - worker.started_at < YOUNG_S
            worker.young_deaths = worker.young_deaths + 1 if young else 0
            self._again(worker, worker.young_deaths - 1)

    def _failed(self, worker: _Worker, how: str) -> None:
        """A start failed: again after a pause, unless that is hopeless."""
        if worker.why and not self._announced:
            raise MeterboxError(worker.why)
        worker.failed_starts += 1
        if worker.failed_starts >= MOST_STARTS and not any(one.ready for one in self._workers):
            raise MeterboxError(
                f"worker {worker.number} ended at its start {worker.failed_starts} times in a row ({how}), and no "
                "other worker serves: see the lines above"
            )
        self._again(worker, worker.failed_starts)

    def _again(self, worker: _Worker, times: int) -> None:
        worker.due_at = self._clock.mono() + _PAUSES_S[max(0, min(times, len(_PAUSES_S) - 1))]

    def _unhook(self, worker: _Worker) -> None:
        if worker.channel is not None:
            self._selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None

    # ------------------------------------------------------------------ what is said

    def _exchange(self, worker: _Worker) -> None:
        """Sends what is still to be sent, reads what there is. An end is noticed by `_reap`."""
        if worker.channel is None:
            return
        self._push(worker, worker.channel)
        try:
            got = worker.channel.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self._unhook(worker)  # it died, or closed its end: what it is up to now, its exit says
            return
        *lines, worker.heard = (worker.heard + got)[-MOST_LINE_BYTES:].split(b"\n")
        for line in lines:
            self._hear(worker, msgspec.json.decode(line, type=Said))

    def _push(self, worker: _Worker, channel: socket.socket) -> None:
        try:
            worker.unsent = worker.unsent[channel.send(worker.unsent) :] if worker.unsent else b""
        except BlockingIOError:
            pass  # a worker that doesn't read holds up nobody but itself
        except OSError:
            worker.unsent = b""
        self._selector.modify(channel, selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0), worker)

    def _hear(self, worker: _Worker, said: Said) -> None:
        if said.kind == "ready":
            self._served(worker)
        elif said.kind == "failed":
            worker.why = said.why
        else:  # the first to judge decides for all: they judge by the same text
            config = self._judged.pop(said.number, None)
            if config is not None and said.kind == "taken" and config.number > self._config.number:
                self._config = config
                if self._plan.taken is not None:
                    self._plan.taken(config)

    def _served(self, worker: _Worker) -> None:
        worker.ready, worker.failed_starts = True, 0
        pid = worker.process.pid if worker.process is not None else 0
        self._log("worker_ready", {"worker": worker.number, "pid": pid})
        latest = self._judged[max(self._judged)] if self._judged else self._config
        if worker.config != latest.number:
            self._tell(worker, latest)  # it was read while this one started
        for other in self._workers:
            if other.process is None and other.due_at is None:
                other.due_at = self._clock.mono()

    def _tell(self, worker: _Worker, config: Text) -> None:
        if worker.channel is not None:
            worker.config = config.number
            worker.unsent += framed(Told(config))
            self._selector.modify(worker.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            if self._kill_at is None:
                self._kill_at = self._clock.mono() + self._plan.drain_s + KILL_AFTER_S
            self._send(signal.SIGTERM)
        elif signal.SIGHUP in numbers and self._kill_at is None:
            self._reload()

    def _reload(self) -> None:
        """Reads the configuration once; what no worker could take isn't handed to any."""
        try:
            config = self._plan.reread()
        except ConfigError as error:
            self._log("reload_failed", {"why": str(error), "in_force": "what was before"})
            return
        self._readings += 1
        config = self._judged[self._readings] = msgspec.structs.replace(config, number=self._readings)
        for worker in self._workers:
            if worker.ready:
                self._tell(worker, config)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(number)


def how_died(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


@contextmanager
def signals() -> Iterator[socket.socket]:
    """A socket that gets the number of each signal that a supervisor acts on, as one byte."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, had in before.items():
            signal.signal(number, had)
        ours.close()
        theirs.close()
