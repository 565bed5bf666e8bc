"""What telemetry costs a call: a gateway with all of it, one whose collector is down, and one with none, interleaved.

`python -m tests.bench.telemetry`. CPU is the serving process's own, per call, at saturation; the projections' process
is shown beside it. Both are bound to one core, the load to another one: the worst case. Figures, no pass or fail.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from aiohttp import web

from tests.bench.lanes import CONFIG, GATEWAY_CORE, NO_TELEMETRY, TICK, Lane, free_port, process, wait_port
from tests.bench.run import added, quantile, saturate

ON = '[projections.otlp.destinations.lab]\nendpoint = "http://127.0.0.1:{sink}"\n'
PER_S = 100


def own_cpu_s(pid: int) -> float:
    """User and system time of one process without those below it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Serving(Lane):
    """A gateway of which only the process that serves is counted."""

    def cpu_s(self) -> float:
        """CPU seconds of the serving process so far."""
        assert self.pid is not None
        return own_cpu_s(self.pid)

    def telling_s(self) -> float:
        """CPU seconds of the projections' process so far."""
        children = (path.read_text().split() for path in Path(f"/proc/{self.pid}/task").glob("*/children"))
        found = [int(pid) for of_thread in children for pid in of_thread]
        return sum(own_cpu_s(pid) for pid in found if "teller" in Path(f"/proc/{pid}/cmdline").read_text())


@contextmanager
def gateways(state: Path) -> Iterator[list[Serving]]:
    """One without telemetry, one with all of it, one whose collector nobody answers for."""
    with ExitStack() as stack:
        provider = Path(__file__).with_name("wire.py")
        port = {"fast": free_port(), "slow": free_port()}
        for name, delay in (("fast", "0"), ("slow", "0.02")):
            command = [sys.executable, str(provider), str(port[name]), delay]
            wait_port(port[name], stack.enter_context(process(command, 0, state / "provider.log")))
        sink = free_port()
        command = [sys.executable, "-m", "tests.bench.telemetry", "--sink", str(sink)]
        wait_port(sink, stack.enter_context(process(command, 0, state / "sink.log")))
        found = []
        for name, more in (("off", NO_TELEMETRY), ("on", ON.format(sink=sink)), ("down", ON.format(sink=free_port()))):
            folder, own = state / name, free_port()
            folder.mkdir()
            (folder / "meterbox.toml").write_text(CONFIG.format(port=own, state=folder, **port) + more)
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "meterbox.toml")]
            started: subprocess.Popen[bytes] = stack.enter_context(process(command, GATEWAY_CORE, folder / "log"))
            ready = wait_port(own, started)
            found.append(
                Serving(name, dict.fromkeys(port, own), {"fast": "/fast", "slow": "/slow"}, started.pid, ready)
            )
        yield found


async def measure(found: list[Serving], rounds: int, seconds: float) -> None:
    """Rounds over all of them; medians."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for lane in found[number % len(found) :] + found[: number % len(found)]:
            own, before = figures[lane.name], lane.telling_s()
            cost, rate = await saturate(lane, 1000, 16, seconds)
            own["CPU of a call, us"].append(cost)
            own["calls/s"].append(rate)
            own["CPU of telling it, us"].append((lane.telling_s() - before) / (rate * seconds) * 1e6)
            late = await added(lane, PER_S, seconds)
            own[f"added p50 at {PER_S}/s, ms"].append(quantile(late, 0.5))
            own[f"added p99 at {PER_S}/s, ms"].append(quantile(late, 0.99))
    names = [lane.name for lane in found]
    print(f"{'':<26}" + "".join(f"{name:>12}" for name in names))
    for what in figures[names[0]]:
        print(f"{what:<26}" + "".join(f"{statistics.median(figures[name][what]):>12.2f}" for name in names))
    for name in names[1:]:
        pairs = zip(figures[name]["CPU of a call, us"], figures["off"]["CPU of a call, us"], strict=True)
        more = statistics.median(one - other for one, other in pairs)
        print(f"{name} against off: {more:+.1f} us of the serving process a call (median of {rounds} differences)")


def take(port: int) -> None:
    """A collector that takes everything and keeps nothing."""

    async def post(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", post)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--sink", type=int)
    chosen = parser.parse_args()
    if chosen.sink is not None:
        return take(chosen.sink)
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory(prefix="meterbox-bench-") as state, gateways(Path(state)) as found:
        uvloop.run(measure(found, chosen.rounds, chosen.seconds))


if __name__ == "__main__":
    main()
