"""edge/supervisor.py: starts, replaces, ends and informs real processes that only speak the leash's language."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import ConfigError, MeterboxError
from gateway.edge import supervisor
from gateway.edge.clock import SystemClock
from gateway.edge.leash import Text
from gateway.edge.supervisor import Plan, Supervisor, how_died, signals

# A worker that does what the words say: `die`, `fail`, `stubborn`, each for one number or `*`; or is `stuck` at once.
WORKER = """
import json, os, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[-1]))
words = os.environ["WORKER_WORDS"].split()
if "stuck" in words:
    time.sleep(60)
lines = channel.makefile("rb")
told = json.loads(lines.readline() or sys.exit())
number, config = told["worker"], told["config"]
open(f"{words[0]}/{number}", "a").write(config["text"].strip() + "\\n")
is_told = lambda word: {word + "*", word + str(number)} & set(words)
if is_told("die"):
    sys.exit(3)
if is_told("fail"):
    channel.sendall(b'{"kind": "failed", "why": "no ledger"}\\n')
    sys.exit(1)
if is_told("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
channel.sendall(b'{"kind": "ready"}\\n')
for line in lines:
    config = json.loads(line)["config"]
    kind = "refused" if "bad" in config["text"] else "taken"
    channel.sendall(json.dumps({"kind": kind, "number": config["number"]}).encode() + b"\\n")
if is_told("stubborn"):
    time.sleep(60)
"""


class House:
    """A supervisor on a thread of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.text: str | ConfigError = "first"
        self.announced = 0
        self.failed: BaseException | None = None
        self.wake, self._wake = socket.socketpair()
        self._patch = monkeypatch
        self._thread = threading.Thread(target=self._run)

    def start(self, workers: int, words: str = "", text: str = "first", drain_s: float = 0.0) -> House:
        self._patch.setenv("WORKER_WORDS", f"{self.folder} {words}")
        self.text = text
        command = (sys.executable, "-S", "-E", "-c", WORKER)
        self._plan = Plan(workers, {}, self.read(), [], self.read, drain_s, command)
        self._thread.start()
        return self

    def read(self) -> Text:
        if isinstance(self.text, ConfigError):
            raise self.text
        return Text("file", self.text)

    def _run(self) -> None:
        def ready() -> None:
            self.announced += 1

        self.supervisor = Supervisor(self._plan, SystemClock(), lambda *line: self.log.append(line), self._wake)
        try:
            self.supervisor.run(ready)
        except MeterboxError as failure:
            self.failed = failure

    def signal(self, number: signal.Signals) -> None:
        self.wake.send(bytes([number]))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in tuple(self.log) if name == event]

    def configs(self, number: int) -> list[str]:
        """The configurations that processes of this number were started with."""
        return (self.folder / str(number)).read_text().split()

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        self.join()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        for fields in self.said("worker_ready"):
            with pytest.raises(ProcessLookupError):
                os.kill(fields["pid"], 0)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    made = House(tmp_path, monkeypatch)
    yield made
    if made._thread.is_alive():
        made.stop()
    made.wake.close()
    made._wake.close()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


def test_it_is_ready_once_all_workers_are(house: House) -> None:
    """Said once; a stop ends every process."""
    house.start(3)
    until(lambda: house.announced)
    assert {1, 2, 3} == {fields["worker"] for fields in house.said("worker_ready")}
    assert 1 == house.said("worker_ready")[0]["worker"]
    house.stop()
    assert (1, None, []) == (house.announced, house.failed, house.said("worker_died"))


def test_a_dead_worker_is_replaced(house: House) -> None:
    """The log says which, and how it died; the others are left alone."""
    house.start(2)
    until(lambda: house.announced)
    victim = house.said("worker_ready")[1]
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: 3 == len(house.said("worker_ready")))
    assert [{**victim, "how": "killed by SIGKILL", "served": True}] == house.said("worker_died")
    new = house.said("worker_ready")[2]
    assert victim["worker"] == new["worker"] and victim["pid"] != new["pid"]


def test_what_keeps_the_first_from_starting_ends_it_all(house: House) -> None:
    """In the worker's own words, and no other was started for nothing."""
    house.start(3, "fail*")
    house.join()
    assert isinstance(house.failed, MeterboxError) and "no ledger" == str(house.failed)
    assert ["1"] == sorted(path.name for path in house.folder.iterdir())


def test_a_worker_that_dies_at_start_again_and_again_is_hopeless(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other serves: five starts, then the end with a clear message."""
    monkeypatch.setattr(supervisor, "_PAUSES_S", (0.0,))
    house.start(2, "die*")
    house.join()
    assert "worker 1 ended at its start 5 times in a row (exit status 3)" in str(house.failed)
    assert 5 == len(house.said("worker_died"))


def test_while_another_one_serves_it_is_not_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gateway is better than none: it is started again and again."""
    monkeypatch.setattr(supervisor, "_PAUSES_S", (0.0,))
    house.start(2, "die2")
    until(lambda: len(house.said("worker_died")) > 6)
    house.stop()
    assert (0, None) == (house.announced, house.failed)


def test_starts_that_fail_come_after_longer_and_longer_pauses(house: House) -> None:
    """Not as fast as a processor can."""
    house.start(2, "die2")
    until(lambda: len(house.said("worker_died")) == 3)
    began = time.monotonic()
    until(lambda: len(house.said("worker_died")) == 4)
    assert time.monotonic() - began > 0.3


def test_a_reload_is_handed_to_all_and_to_those_that_come_later(house: House) -> None:
    """What the workers took over is what a replaced one starts with; what they refused isn't."""
    house.start(2)
    until(lambda: house.announced)
    for number, (text, after) in enumerate((("second", "second"), ("bad", "second")), 1):
        house.text = text
        house.signal(signal.SIGHUP)
        until(lambda: (number, {}) == (house.supervisor._readings, house.supervisor._judged))  # noqa: B023 - used at once
        begun = len(house.said("worker_ready"))
        os.kill(house.said("worker_ready")[-1]["pid"], signal.SIGKILL)
        until(lambda: len(house.said("worker_ready")) > begun)  # noqa: B023 - used at once
        assert after == house.configs(house.said("worker_ready")[-1]["worker"])[-1]


def test_a_file_with_an_error_goes_to_nobody(house: House) -> None:
    """It is said in the log; the supervisor goes on with what it has."""
    house.start(1)
    until(lambda: house.announced)
    house.text = ConfigError("meterbox.toml:3: wrong")
    house.signal(signal.SIGHUP)
    until(lambda: house.said("reload_failed"))
    assert "meterbox.toml:3: wrong" == house.said("reload_failed")[0]["why"]
    os.kill(house.said("worker_ready")[0]["pid"], signal.SIGKILL)
    until(lambda: 2 == len(house.said("worker_ready")))
    assert ["first", "first"] == house.configs(1)


def test_a_worker_that_does_not_read_holds_up_nobody(house: House) -> None:
    """A configuration that is larger than the pair's buffer waits for its reader alone."""
    house.start(2, "stuck", "x" * 1_000_000)
    until(lambda: house.said("supervising"))
    house.signal(signal.SIGHUP)
    house.stop()
    assert house.failed is None


def test_a_warm_process_waits_for_the_next_death(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes the worker at once, and another one is warmed up; one that dies is replaced as well."""
    monkeypatch.setattr(supervisor, "WARM_AFTER_S", 0.0)
    monkeypatch.setattr(supervisor, "_PAUSES_S", (0.0,))
    house.start(1)
    for _ in range(2):
        until(lambda: house.announced and house.supervisor._warm)
        (warm,) = house.supervisor._warm
        begun = len(house.said("worker_ready"))
        os.kill(house.said("worker_ready")[-1]["pid"], signal.SIGKILL)
        until(lambda: len(house.said("worker_ready")) > begun)  # noqa: B023 - used at once
        assert warm.process.pid == house.said("worker_ready")[-1]["pid"]
    until(lambda: house.supervisor._warm)
    (warm,) = house.supervisor._warm
    os.kill(warm.process.pid, signal.SIGKILL)

    def another() -> bool:
        house.signal(signal.SIGCHLD)  # which the system sends to the main thread only
        return house.supervisor._warm not in ([], [warm])

    until(another)
    house.stop()
    assert house.failed is None


def test_what_does_not_end_is_killed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the drain's time and a moment more."""
    monkeypatch.setattr(supervisor, "KILL_AFTER_S", 0.05)
    house.start(2, "stubborn*")
    until(lambda: house.announced)
    house.stop()
    assert house.failed is None


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (-9, "killed by SIGKILL"), (-63, "killed by signal 63")]
)
def test_how_a_process_died_is_said_in_words(status: int, words: str) -> None:
    """By its exit status."""
    assert words == how_died(status)


def test_signals_become_bytes() -> None:
    """In the order of their coming; afterwards everything is as it was."""
    before = signal.getsignal(signal.SIGHUP)
    with signals() as wake:
        os.kill(os.getpid(), signal.SIGHUP)
        wake.settimeout(5)
        assert bytes([signal.SIGHUP]) == wake.recv(1)
    assert before == signal.getsignal(signal.SIGHUP)
