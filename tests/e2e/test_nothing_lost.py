"""Nothing lost: a backend that goes down under load, comes back, and sees the projections die twice amid its requests.

Invariant: what must arrive is known from the clients and from the ledger, never from what was sent; a span that comes
again must be the same to the byte. A death comes after the backend took a batch and before it said so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ledger.reading import laid_over
from gateway.demo.provider import ScriptedProvider
from gateway.stores.reader import LedgerReader
from tests.core.telemetry.metrics.metering import total
from tests.e2e.loading import ledger_nusd, scripted, work
from tests.e2e.spending import call, chat
from tests.otlp import OtlpServer, plain
from tests.play import Gateway, fetch, free_port
from tests.receiver import SECRET, Receiver, receiving, verified

STEPS = 3  # tools of an ordinary run; it makes one call more
LANES = 16
AGENTS = ("research", "support", "coder")
CONFIG = """
[providers.scripted]
preset = "scripted"
base_url = "{provider}"
[[budgets]]
name = "each"
scope = "run"
usd = "0.004"
alert_at = [0.5, 0.9]
[projections.alerts]
burn_usd_per_h = 0
[projections.alerts.channels.hook]
url = "{hook}"
secret = "{secret}"
[projections.otlp.destinations.lab]
endpoint = "http://127.0.0.1:{port}"
"""


class Backend:
    """One address that is up or down; keeps each span by its id, and counts how often it came."""

    def __init__(self, gateway: Callable[[], Gateway]) -> None:
        self.port = free_port()
        self.spans: dict[str, Any] = {}
        self.times: Counter[str] = Counter()
        self.changed: set[str] = set()  # ids that came with another content
        self.deaths: list[int] = []  # at so many spans the process that sent them is killed
        self.dead: list[int] = []
        self._gateway = gateway
        self._server: OtlpServer | None = None

    def up(self) -> None:
        """From now on it listens."""
        self._server = OtlpServer(self.port, self._take)
        self._server.__enter__()

    def down(self) -> None:
        """From now on nobody is there, on kept connections neither."""
        server, self._server = self._server, None
        if server is not None:
            server.__exit__()

    def named(self, start: str) -> list[Any]:
        """The spans whose name begins so."""
        return [span for span in self.spans.values() if span.name.startswith(start)]

    def _take(self, found: list[Any]) -> None:
        for span in found:
            known = self.spans.setdefault(span.span_id.hex(), span)
            self.times[span.span_id.hex()] += 1
            if known.SerializeToString(deterministic=True) != span.SerializeToString(deterministic=True):
                self.changed.add(span.span_id.hex())
        if self.deaths and len(self.spans) >= self.deaths[0]:
            self.deaths.pop(0)
            self.dead.append(self._gateway().said("projections_started")[-1]["pid"])
            os.kill(self.dead[-1], signal.SIGKILL)


class Load:
    """Agents at work: ordinary ones that use tools, and some that run into their budget at night."""

    def __init__(self, gateway: Gateway, runs: int, nights: int) -> None:
        self.gateway = gateway
        self.runs = runs
        self.nights = nights
        self.answered = 0  # calls that got an answer, a refusal too
        self.done = 0
        self._left = iter(range(runs))

    async def all(self) -> None:
        """Every run from its first call to its end; the nights spread over them."""
        await asyncio.gather(*(self._lane() for _ in range(LANES)))

    async def _lane(self) -> None:
        every = self.runs // self.nights
        for number in self._left:
            heads = {"x_meterbox_agent": AGENTS[number % len(AGENTS)]}
            assert 200 == await work(self.gateway, f"run-{number}", STEPS, **heads)
            self.answered += STEPS + 1
            await self._end(f"run-{number}")
            if number % every == every // 2:
                await self._night(f"night-{number // every}")
            self.done += 1

    async def _night(self, run: str) -> None:
        for _ in range(60):
            said = await call(self.gateway, run, chat(max_tokens=400), x_scripted=scripted(output_tokens=400))
            self.answered += 1
            if said.status == 402:
                return await self._end(run)
        raise AssertionError(f"{run} was never stopped")

    async def _end(self, run: str) -> None:
        ended = await fetch(self.gateway.port, f"/api/runs/{run}/end", {"outcome": "completed"})
        assert 200 == ended.status, ended.body


async def until(true: Callable[[], object], what: str, seconds: float) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.05)


def booked(ledger: Path) -> dict[str, int]:
    """What each call cost, by the ledger's file."""
    reading = LedgerReader(ledger)
    found: dict[str, bytes] = {}
    later: dict[str, list[bytes]] = {}
    after = 0
    while entries := reading.entries(after, limit=1000):
        after = entries[-1].seq
        for entry in entries:
            if entry.kind == "call":
                found[entry.call_id or ""] = entry.data
            elif entry.kind in ("amend", "correct"):
                later.setdefault(entry.call_id or "", []).append(entry.data)
    reading.close()
    return {call_id: laid_over(data, later.get(call_id, ())).cost_nusd or 0 for call_id, data in found.items()}


def check_spans(backend: Backend, calls: dict[str, int], load: Load) -> None:
    """One span for each call, tool and run; all of them in one tree; the money to the nano-dollar."""
    chats, tools, roots = (backend.named(name) for name in ("chat ", "execute_tool ", "invoke_agent"))
    told = [plain(span.attributes) for span in chats]
    assert load.answered == len(calls) == len(chats)
    assert set(calls) == {said["meterbox.call.id"] for said in told}
    assert load.runs * STEPS == len(tools)
    assert load.runs + load.nights == len(roots) == len({plain(span.attributes)["meterbox.run.id"] for span in roots})
    assert len(chats) + len(tools) + len(roots) == len(backend.spans)
    assert {span.parent_span_id for span in [*chats, *tools]} == {span.span_id for span in roots}
    costs = {said["meterbox.call.id"]: said.get("meterbox.cost.nusd", 0) for said in told}
    assert calls == costs
    assert set() == backend.changed


def wanted(nights: int) -> set[tuple[str, ...]]:
    """Of each night both thresholds and the stop: status, alertname, run, threshold."""
    found = {("firing", "run_stopped", f"night-{n}", "") for n in range(nights)}
    return found | {
        ("firing", "budget_threshold", f"night-{n}", part) for n in range(nights) for part in ("0.5", "0.9")
    }


def taken(hook: Receiver) -> dict[tuple[str, ...], set[str]]:
    """What was told, with the ids under which it was."""
    found: dict[tuple[str, ...], set[str]] = {}
    for post in list(hook.taken):
        labels = post.body["commonLabels"]
        about = (post.body["status"], *(labels.get(name, "") for name in ("alertname", "run_id", "threshold")))
        found.setdefault(about, set()).add(post.id)
    return found


def check_alerts(hook: Receiver, nights: int) -> None:
    """One message for each, with one id and one body, however often it was sent; and nothing else was on fire."""
    assert wanted(nights) == {about for about in taken(hook) if about[0] == "firing"}
    assert {1} == {len(ids) for ids in taken(hook).values()}
    assert len({post.id for post in hook.taken}) == len({(post.id, post.raw) for post in hook.taken})
    assert all(verified(post.headers, post.raw) for post in hook.taken)


@pytest.mark.parametrize(
    ("runs", "nights", "down_s"),
    [
        pytest.param(240, 3, 4.0, id="short"),
        pytest.param(4_960, 12, 60.0, id="whole", marks=[pytest.mark.long, pytest.mark.timeout(1_800)]),
    ],
)
async def test_everything_arrives_once(
    tmp_path: Path, provider: ScriptedProvider, runs: int, nights: int, down_s: float
) -> None:
    """R-116: down under load, then two deaths amid requests: spans, alerts, counters and ledger agree (must hold 4)."""
    gateways: list[Gateway] = []
    backend = Backend(lambda: gateways[0])
    with receiving() as hook:
        text = CONFIG.format(provider=provider.origin, hook=hook.url, secret=SECRET, port=backend.port)
        gateways.append(Gateway(tmp_path, text))
        with gateways[0] as gateway:
            try:
                await live(gateway, backend, Load(gateway, runs, nights), hook, down_s)
            finally:
                backend.down()
            assert provider.bill_nusd() == ledger_nusd(gateway)
    assert [] == [line for word in ("span_dropped", "notebook_moved") for line in gateway.said(word)]


async def live(gateway: Gateway, backend: Backend, load: Load, hook: Receiver, down_s: float) -> None:
    """The whole day, and what must be true in the evening."""
    backend.up()
    gateway.says("projections_started", 1, 30)
    begun = time.monotonic()
    working = asyncio.create_task(load.all())
    await until(lambda: working.done() or (load.done > load.runs // 10 and backend.spans), "the first tenth", 120)
    backend.down()
    before, down_at = len(backend.spans), time.monotonic()
    await until(lambda: gateway.said("projection_failed"), "a failure", 30)
    await asyncio.sleep(max(0.0, down_s - (time.monotonic() - down_at)))
    most = load.runs * (2 * STEPS + 2)
    backend.deaths = [before + (most - before) // 5, before + (most - before) // 2]
    backend.up()
    await working
    worked_s, expected = time.monotonic() - begun, load.answered + load.runs * STEPS + load.runs + load.nights
    await until(lambda: len(backend.spans) >= expected, "every span", 40 + expected / 100)
    took_s = time.monotonic() - begun
    calls = await asyncio.to_thread(booked, gateway.ledger)
    check_spans(backend, calls, load)
    assert 2 == len(backend.dead) == len(gateway.said("projections_died"))
    await until(lambda: counted(gateway) == (len(calls), sum(calls.values())), "the counters", 30)
    await until(lambda: wanted(load.nights) <= set(taken(hook)), "the alerts", 60)
    check_alerts(hook, load.nights)
    again = sum(backend.times.values()) - len(backend.spans)
    assert again > 0  # else no death came amid a batch
    alerts, ends = len(wanted(load.nights)), len(taken(hook)) - len(wanted(load.nights))
    print(
        f"\n{len(calls)} calls in {worked_s:.0f} s, {len(backend.spans)} spans after {took_s:.0f} s, {before} of them "
        f"before the backend was away for {down_s:.0f} s; {again} came again, all the same; {alerts} alerts and {ends} "
        f"ends of them by {len(hook.taken)} messages; {sum(calls.values())} nano-dollars everywhere"
    )


def counted(gateway: Gateway) -> tuple[int, int]:
    """Calls and nano-dollars by /metrics; zeros while nothing is served there."""
    page = gateway.get("/metrics")
    if page.status != 200:
        return 0, 0
    text = page.body.decode()
    cost, back = (total(text, name) for name in ("meterbox_cost_usd_total", "meterbox_cost_corrected_usd_total"))
    return round(total(text, "meterbox_requests_total")), round((cost - back) * 10**9)
