"""`python -m tests.bench.telemetry`: what telemetry costs the proxy, on against off, and what its own process takes.

Method: two parts. The hot path: what the record holds for telemetry's sake, on this thread, each time beside the same
work without it. Then gateways beside each other, rounds interleaved, medians: `off` has no projections; `on` has
metrics, alerts and a destination; `trouble` has a destination that is away for the first half of each round and comes
back, and its process of the projections is killed at three quarters. Load and provider on core 0, the proxies on the
last core, the projections wherever there is room; with --one-core on the proxy's, the worst case. Figures, no pass or
fail: wall times are noisy, CPU less so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import uvloop

from gateway.core.step import begin
from gateway.core.wire.asked import read_asked
from gateway.dialects import openai_chat
from tests.bench import wire
from tests.bench.lanes import CONFIG, GATEWAY_CORE, NO_TELEMETRY, Lane, free_port, process, wait_port
from tests.bench.run import body, quantile, request
from tests.bench.steps import Rooms

SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "some words " * 150}}}
USUAL = {"temperature": 0.2, "max_completion_tokens": 1_000, "top_p": 1}
ALL = {
    **USUAL, "seed": 7, "stop": ["END", "STOP"], "n": 1, "frequency_penalty": 0.1, "presence_penalty": 0.1,
    "service_tier": "auto", "response_format": SCHEMA,
}  # fmt: skip
NOTHING: dict[str, Any] = {
    "asked": None, "parent_span": None, "trace_id": None, "tier": None, "chunks": 0, "reserve_s": 0.0, "limited": None,
}  # fmt: skip
FULL = "proxy at full speed, us of CPU"
SIDES = ("off", "on", "trouble")
ON = (
    '[projections.otlp.destinations.lab]\nendpoint = "http://127.0.0.1:{take}"\n'
    '[projections.alerts.channels.hook]\nurl = "http://127.0.0.1:{take}/hook"\n'
)

Spread = tuple[float, float]
Figures = dict[str, dict[str, list[float]]]

# ----------------------------------------------------------------------- the hot path


def paired(more: Callable[[], object], less: Callable[[], object], rounds: int = 60, each: int = 400) -> Spread:
    """Microseconds that one go of `more` takes beyond one of `less`: quiet (the least of each), and at the median."""

    def took(work: Callable[[], object]) -> float:
        begun = time.thread_time()
        for _ in range(each):
            work()
        return (time.thread_time() - begun) / each * 1e6

    found = [(took(more), took(less)) for _ in range(rounds)]
    quiet = min(one for one, _ in found) - min(two for _, two in found)
    return quiet, statistics.median(one - two for one, two in found)


def hot_path() -> list[tuple[str, Spread]]:
    """Name and microseconds of everything that a call does for telemetry alone."""
    rows = []
    for name, asked in (("no parameters", {}), ("the usual three", USUAL), ("ten, with a schema of 2 KB", ALL)):
        told = json.loads(body(1000, False)) | asked
        rooms = Rooms(json.dumps(told).encode())

        def reads(read: Callable[[Any], Any], rooms: Rooms = rooms) -> object:
            with patch.object(openai_chat, "read_asked", read):
                return rooms.chat.decode(rooms.inbound, rooms.provider)

        cost = paired(partial(reads, read_asked), partial(reads, _none))
        rows.append((f"decode: parameters of the request, {name}", cost))
    rows.append(("record: fields filled, held and spelled for the journal", _recorded(rooms)))
    return rows


def _none(_: object) -> None:
    return None


def _recorded(rooms: Rooms) -> Spread:
    clock, told = rooms.clock, rooms.step.record
    told.asked, told.tier, told.chunks = rooms.call.asked, "default", 40
    told.parent_span, told.trace_id = "00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736"
    bare_call = msgspec.structs.replace(rooms.call, asked=None)
    bare_record = msgspec.structs.replace(told, **NOTHING)

    def full() -> object:
        since = clock.mono()
        record = begin(rooms.way, rooms.call, rooms.run, (), clock).record
        record.reserve_s += clock.mono() - since
        record.tier, record.chunks, record.limited = "default", 40, None
        told.reserve_s = record.reserve_s
        return msgspec.msgpack.encode(told)

    def bare() -> object:
        begin(rooms.way, bare_call, rooms.run, (), clock)
        return msgspec.msgpack.encode(bare_record)

    return paired(full, bare)


# ----------------------------------------------------------------------- gateways beside each other


class Side:
    """One gateway: its proxy and, below it, the process of its projections."""

    def __init__(self, name: str, port: int, pid: int, take: int, cores: Iterable[int]) -> None:
        self.name = name
        self.lane = Lane(name, {"fast": port, "slow": port}, {"fast": "/fast", "slow": "/slow"}, pid, 0.0)
        self.pid = pid
        self.take = take
        self.cores = cores

    def projections(self) -> int | None:
        """The process that tells, if there is one."""
        for task in Path(f"/proc/{self.pid}/task").glob("*"):
            for child in (task / "children").read_text().split():
                with suppress(OSError):
                    os.sched_setaffinity(int(child), self.cores)
                    return int(child)
        return None

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds of the proxy, and of the projections, so far."""
        teller = self.projections()
        return own_s(self.pid), own_s(teller) if teller is not None else 0.0


def own_s(pid: int) -> float:
    """User and system time of one process, by the scheduler's own count, in seconds."""
    total = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@contextmanager
def sides(state: Path, cores: Iterable[int]) -> Iterator[list[Side]]:
    """All gateways on two providers: one answers at once, one after 20 ms. The first also takes spans."""
    with ExitStack() as stack:
        provider, found = str(Path(__file__).with_name("wire.py")), []
        port = {"fast": free_port(), "slow": free_port()}
        for name, delay in (("fast", "0"), ("slow", "0.02")):
            command = [sys.executable, provider, str(port[name]), delay]
            wait_port(port[name], stack.enter_context(process(command, 0, state / "provider.log")))
        for name in SIDES:
            own, take, folder = free_port(), port["fast"] if name != "trouble" else free_port(), state / name
            folder.mkdir()
            text = (CONFIG + (NO_TELEMETRY if name == "off" else ON)).format(port=own, state=folder, take=take, **port)
            (folder / "meterbox.toml").write_text(text)
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "meterbox.toml")]
            started = stack.enter_context(process(command, GATEWAY_CORE, folder / "gateway.log"))
            wait_port(own, started)
            found.append(Side(name, own, started.pid, take, cores))
        time.sleep(2.0)
        yield found


async def mischief(side: Side, seconds: float) -> None:
    """The destination comes back after half of the time; the projections die at three quarters."""
    await asyncio.sleep(seconds / 2)
    command = [sys.executable, str(Path(__file__).with_name("wire.py")), str(side.take), "0"]
    with await asyncio.to_thread(subprocess.Popen, command) as backend:
        os.sched_setaffinity(backend.pid, {0})
        await asyncio.sleep(seconds / 4)
        if (teller := side.projections()) is not None:
            os.kill(teller, signal.SIGKILL)
        await asyncio.sleep(seconds / 4)
        await rested(side)
        backend.kill()


async def rested(side: Side) -> None:
    """Waits until the projections have told everything, or so long that they never will."""
    for _ in range(60):
        before = side.cpu_s()[1]
        await asyncio.sleep(0.5)
        if side.cpu_s()[1] - before < 0.02:
            return


async def saturated(side: Side, seconds: float) -> float:
    """Microseconds of the proxy's own CPU for a call, as fast as it goes."""
    payload = body(1000, False)
    before = side.cpu_s()[0]
    calls = await wire.closed_loop(
        side.lane.port["fast"], lambda number: request(side.lane, "fast", payload, number), 16, seconds
    )
    return (side.cpu_s()[0] - before) / calls * 1e6


async def visit(side: Side, per_s: float, seconds: float, own: dict[str, list[float]]) -> None:
    """One round of one side."""
    payload, number = body(1000, False), iter(range(10_000_000))
    make = lambda _: request(side.lane, "slow", payload, next(number) % 32)  # noqa: E731  a request maker
    trouble = asyncio.create_task(mischief(side, seconds)) if side.name == "trouble" else None
    proxy, telling = side.cpu_s()
    took = sorted(await wire.open_loop(side.lane.port["slow"], make, per_s, seconds))
    proxy_after, _ = side.cpu_s()
    if trouble is None:  # there its process is another one by now
        await rested(side)
        own["projections, us of CPU a call"].append((side.cpu_s()[1] - telling) / len(took) * 1e6)
    own[FULL].append(await saturated(side, min(seconds, 1.5)))
    own["p50, ms"].append(quantile(took, 0.5) * 1000)
    own["p99, ms"].append(quantile(took, 0.99) * 1000)
    own["proxy, us of CPU a call"].append((proxy_after - proxy) / len(took) * 1e6)
    if trouble is not None:
        await trouble
    await rested(side)


async def measure(found: list[Side], rounds: int, per_s: float, seconds: float) -> Figures:
    """All sides, interleaved, in another order each time; the first round warms up and doesn't count."""
    figures: Figures = {side.name: defaultdict(list) for side in found}
    for number in range(rounds + 1):
        turn = number % len(found)
        for side in found[turn:] + found[:turn]:
            await visit(side, per_s, seconds if number else 1.0, figures[side.name] if number else defaultdict(list))
    return figures


def show(figures: Figures) -> None:
    """Medians, and the median of the differences to `off` within each round."""
    print(f"{'':<34}" + "".join(f"{name:>12}" for name in figures))
    for name in next(iter(figures.values())):
        cells = [statistics.median(by[name]) if by.get(name) else float("nan") for by in figures.values()]
        print(f"{name:<34}" + "".join(f"{cell:>12.2f}" for cell in cells))
    for name in ("p50, ms", "p99, ms", "proxy, us of CPU a call", FULL):
        cells = [
            statistics.median(mine / base - 1 for mine, base in zip(by[name], figures["off"][name], strict=True)) * 100
            for by in figures.values()
        ]
        print(f"{name.split(',')[0] + ', % more than off':<34}" + "".join(f"{cell:>12.1f}" for cell in cells))


def main() -> None:
    """Measures and prints."""
    words = argparse.ArgumentParser(prog="python -m tests.bench.telemetry", description=__doc__)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--seconds", type=float, default=3.0)
    words.add_argument("--per-s", type=float, default=100.0)
    words.add_argument("--one-core", action="store_true")
    words.add_argument("--hot-path-only", action="store_true")
    asked = words.parse_args()
    print(f"{'What a call does for telemetry alone, us of CPU':<62}{'quiet':>8}{'median':>8}")
    for name, cost in hot_path():
        print(f"  {name:<60}{cost[0]:>8.2f}{cost[1]:>8.2f}")
    if asked.hot_path_only:
        return
    cores = [GATEWAY_CORE] if asked.one_core else range(os.cpu_count() or 1)
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory() as state, sides(Path(state), cores) as found:
        show(uvloop.run(measure(found, asked.rounds, asked.per_s, asked.seconds)))


if __name__ == "__main__":
    main()
