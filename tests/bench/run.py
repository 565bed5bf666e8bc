"""`make bench`: CPU per call and chunk, added latency, memory; beside a direct line, nginx and bare aiohttp.

Method (docs/performance.md): provider and load on core 0, the lane on the last core; CPU is user and system time of
the lane's process tree; lanes interleaved over rounds, medians. Figures, no pass or fail: wall times are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from tests.bench import wire
from tests.bench.lanes import Lane, lanes
from tests.bench.steps import steps

Figures = dict[str, dict[str, list[float]]]


def body(size_bytes: int, stream: bool) -> bytes:
    """An agent's request of about this size: tools and a history of tool calls above 10 KB, one message below."""
    request: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "system", "content": "You help."}]}
    if size_bytes > 10_000:
        request["tools"] = [
            {"type": "function", "function": {"name": f"tool_{n}", "description": "d" * 300, "parameters": {}}}
            for n in range(30)
        ]
        turns = 60
        each = (size_bytes - 14_000) // turns
        for turn in range(turns):
            call = {"id": f"call_{turn:024d}", "type": "function", "function": {"name": "tool_1", "arguments": "{}"}}
            request["messages"].append({"role": "assistant", "content": None, "tool_calls": [call]})
            request["messages"].append(
                {"role": "tool", "tool_call_id": call["id"], "content": ("some text " * each)[: each - 200]}
            )
    else:
        request["messages"].append({"role": "user", "content": ("hello there " * size_bytes)[: size_bytes - 200]})
    if stream:
        request["stream"] = True
    return json.dumps(request).encode()


def request(lane: Lane, section: str, payload: bytes, number: int) -> bytes:
    """The whole HTTP request; each connection is a run of its own."""
    head = (
        f"POST {lane.prefix[section]}/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer sk-bench\r\ncontent-type: application/json\r\naccept: application/json\r\n"
        f"user-agent: OpenAI/Python 2.0.0\r\nx-stainless-lang: python\r\nx-stainless-retry-count: 0\r\n"
        f"x-meterbox-run-id: bench-{number}\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def saturate(lane: Lane, size_bytes: int, connections: int, seconds: float) -> tuple[float, float]:
    """CPU us per call, and calls per second, as fast as it goes."""
    payload = body(size_bytes, False)
    make: Callable[[int], bytes] = lambda number: request(lane, "fast", payload, number)  # noqa: E731  a request maker
    await wire.closed_loop(lane.port["fast"], make, connections, 0.3)
    used, begun = lane.cpu_s(), time.perf_counter()
    calls = await wire.closed_loop(lane.port["fast"], make, connections, seconds)
    return (lane.cpu_s() - used) / calls * 1e6, calls / (time.perf_counter() - begun)


async def streams(lane: Lane, count: int) -> tuple[float, float]:
    """CPU us per chunk (the whole stream by its chunks) at so many streams, and KiB per open stream."""
    payload = body(1000, True)
    lines = [await wire.connect(lane.port["fast"]) for _ in range(count)]
    before = lane.rss_kb()
    used = lane.cpu_s()
    done = [line.ask(request(lane, "fast", payload, number)) for number, line in enumerate(lines)]
    await asyncio.sleep(0.5)
    memory = (lane.rss_kb() - before) / count
    await asyncio.gather(*done)
    cost = (lane.cpu_s() - used) / count / wire.CHUNKS * 1e6
    for line in lines:
        line.close()
    return cost, memory


async def added(lane: Lane, per_s: float, seconds: float) -> list[float]:
    """Milliseconds that each call took beyond the provider's own 20."""
    payload = body(1000, False)
    number = iter(range(1_000_000))
    took = await wire.open_loop(
        lane.port["slow"], lambda _: request(lane, "slow", payload, next(number) % 32), per_s, seconds
    )
    return sorted((each - 0.020) * 1000 for each in took)


def quantile(values: list[float], share: float) -> float:
    """A quantile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


async def measure(found: list[Lane], rounds: int, seconds: float) -> Figures:
    """All scenarios, lanes interleaved."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for lane in found:
        figures[lane.name]["ready, s"].append(lane.ready_s)
        figures[lane.name]["idle, MB"].append(lane.rss_kb() / 1024)
    for _ in range(rounds):
        for lane in found:
            own = figures[lane.name]
            cost, rate = await saturate(lane, 1000, 32, seconds)
            own["small call, us"].append(cost)
            own["calls/s small"].append(rate)
            own["200 KB call, us"].append((await saturate(lane, 200_000, 8, seconds))[0])
            own["600 KB call, us"].append((await saturate(lane, 600_000, 4, seconds))[0])
            own["chunk at 100, us"].append((await streams(lane, 100))[0])
            own["chunk at 10, us"].append((await streams(lane, 10))[0])
            for per_s in (30, 300):
                late = await added(lane, per_s, seconds)
                own[f"added p50 at {per_s}/s, ms"].append(quantile(late, 0.5))
                own[f"added p99 at {per_s}/s, ms"].append(quantile(late, 0.99))
    for lane in found:
        figures[lane.name]["KB per open stream"].append((await streams(lane, 1000))[1])
    return figures


def show(figures: Figures) -> dict[str, dict[str, float]]:
    """The table; and the medians as they are."""
    medians = {lane: {name: statistics.median(own) for name, own in by.items()} for lane, by in figures.items()}
    names = list(next(iter(medians.values())))
    print(f"{'':<26}" + "".join(f"{lane:>12}" for lane in medians))
    for name in names:
        print(f"{name:<26}" + "".join(f"{by[name]:>12.2f}" for by in medians.values()))
    ours = medians["meterbox"]
    slope = (ours["600 KB call, us"] - ours["200 KB call, us"]) / 4
    print(f"\nslope with the length of the body: {slope:.0f} us per 100 KB")
    for lane, by in medians.items():
        if lane not in ("meterbox", "direct"):
            print(
                f"against {lane}: small call x{ours['small call, us'] / max(by['small call, us'], 1e-9):.1f}, ", end=""
            )
            print(f"chunk x{ours['chunk at 100, us'] / max(by['chunk at 100, us'], 1e-9):.1f}")
    return medians


def main() -> None:
    """Measures and prints; `--json FILE` keeps the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps-only", action="store_true")
    chosen = parser.parse_args()
    if not chosen.steps_only:
        os.sched_setaffinity(0, {0})
        with tempfile.TemporaryDirectory(prefix="meterbox-bench-") as state, lanes(Path(state)) as found:
            medians = show(uvloop.run(measure(found, chosen.rounds, chosen.seconds)))
        if chosen.json:
            chosen.json.write_text(json.dumps(medians, indent=1))
    helped = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gateway", "--help"], check=True, stdout=subprocess.DEVNULL)
        helped.append(time.perf_counter() - begun)
    print(f"meterbox --help: {min(helped):.2f} s")
    print("\nwhere the time goes inside of the walk, us of this thread (the rest is aiohttp, the loop and the kernel):")
    for name, small, large in steps(body(1000, False), body(200_000, False)):
        print(f"  {name:<52}{small:>9.1f}{large:>9.1f}")


if __name__ == "__main__":
    main()
