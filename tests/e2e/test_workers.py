"""Several workers behind one port: one ledger, one memory of conversations, one word of an operator; and SIGHUP.

A scripted provider on the wire keeps its own bill; the gateway is the real `serve` with its worker processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.spending import call, chat, settled
from tests.play import Answer, Gateway, alive, fetch, nusd

Make = Callable[..., Gateway]


def section(provider: ScriptedProvider, usd: str = "10", gap_s: int = 60) -> str:
    """A configuration with one provider and one budget for every run."""
    return (
        f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\ntimeouts.gap_s = {gap_s}\n'
        f'[[budgets]]\nname = "per-run"\nscope = "run"\nusd = "{usd}"\n'
    )


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """A provider that bills exactly."""
    started = ScriptedProvider()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
def make(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Make]:
    """Starts gateways, and ends whatever is left of them."""
    made: list[Gateway] = []

    def one(workers: int = 4, usd: str = "10", server: str = "") -> Gateway:
        made.append(Gateway(tmp_path, section(provider, usd), server=server, workers=workers))
        return made[-1].start()

    yield one
    for gateway in made:
        left = gateway.pids().values()
        gateway.stop()
        for pid in filter(alive, left):
            os.kill(pid, signal.SIGKILL)


def instances(gateway: Gateway) -> set[str]:
    """The processes that have held money for a call, by the ledger's own word."""
    with closing(sqlite3.connect(f"file:{gateway.ledger}?mode=ro", uri=True)) as ledger:
        return {row[0] for row in ledger.execute("SELECT DISTINCT instance FROM reservation")}


async def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.02)


def at(line: dict[str, Any]) -> float:
    """The instant of a log line."""
    return datetime.fromisoformat(line["at"]).timestamp()


# --------------------------------------------------------------------------- one ledger, one memory


async def test_four_workers_spend_from_one_purse(make: Make, provider: ScriptedProvider) -> None:
    """20 parallel calls over 4 processes, each affordable alone, can't overspend $0.02 together."""
    gateway = make()
    provider.script = Script(output_tokens=4000, first_s=0.05)
    await asyncio.gather(*(call(gateway, "r", chat(), x_meterbox_limit_usd="0.02") for _ in range(20)))
    told, bill = await settled(gateway, provider, "r")
    assert 0 < bill <= nusd(told["spent_usd"]) <= nusd("0.02")
    assert 1 < len(instances(gateway))


async def test_a_kill_ends_the_streams_of_all_workers(make: Make, provider: ScriptedProvider) -> None:
    """Whichever worker hears of it: every open stream of the run ends in-band within a second, the others flow on."""
    gateway = make()
    provider.script = Script(output_tokens=400, chunk_tokens=2, gap_s=0.02)
    other = asyncio.ensure_future(call(gateway, "r2", chat(stream=True, max_tokens=400)))
    streams: list[asyncio.Task[Any]] = []

    def all_asked() -> bool:
        return len(provider.calls) == len(streams) + 1

    while len(streams) < 12 or (len(instances(gateway)) < 2 and len(streams) < 60):  # any worker takes any connection
        streams += [asyncio.ensure_future(call(gateway, "r", chat(stream=True, max_tokens=400))) for _ in range(6)]
        await until(all_asked)
    assert 1 < len(instances(gateway))
    assert 200 == (await asyncio.to_thread(gateway.post, "/api/runs/r/kill", {"reason": "runaway"})).status
    answers = await asyncio.wait_for(asyncio.gather(*streams), 1)
    assert all(b"run_killed" in answer.body and b"runaway" in answer.body for answer in answers)
    assert b"[DONE]" in (await other).body
    assert all([403 == (await call(gateway, "r", chat())).status for _ in range(8)])
    await asyncio.to_thread(gateway.post, "/api/runs/r/resume", {})
    provider.script = Script(output_tokens=5)
    again = await asyncio.gather(*(call(gateway, "r", chat()) for _ in range(8)))
    assert [200] * 8 == [answer.status for answer in again]


async def test_a_conversation_without_an_id_stays_one_run(make: Make, provider: ScriptedProvider) -> None:
    """Each turn comes over a connection of its own and meets any worker; each conversation is one run all the same."""
    gateway = make()
    provider.script = Script(output_tokens=8)

    async def talk(number: int) -> set[str]:
        said: list[dict[str, Any]] = [{"role": "user", "content": f"task {number}"}]
        runs = set()
        for turn in range(8):
            body = {"model": "gpt-4o-mini", "messages": said, "max_tokens": 50}
            answer = await fetch(gateway.port, "/scripted/v1/chat/completions", body, {"authorization": "Bearer k"})
            runs.add(answer.headers["x-meterbox-run-id"])
            said += [answer.json()["choices"][0]["message"], {"role": "user", "content": f"go on {number} {turn}"}]
        return runs

    found = await asyncio.gather(*(talk(number) for number in range(4)))
    assert [1] * 4 == [len(runs) for runs in found]
    assert 4 == len(set().union(*found))
    assert 1 < len(instances(gateway))


# --------------------------------------------------------------------------- who dies, and who takes over


async def test_a_dead_worker_is_replaced_and_harms_nobody_else(make: Make, provider: ScriptedProvider) -> None:
    """SIGKILL amid load: the others' streams arrive whole, the dead one's holds are presumed at once, a new one serves
    within 2 s."""
    gateway = make()
    provider.script = Script(output_tokens=200, chunk_tokens=5, gap_s=0.05)
    body = chat(stream=True, max_tokens=200)
    streams = [asyncio.ensure_future(call(gateway, "r", body)) for _ in range(16)]
    await until(lambda: len(provider.calls) == 16)
    await asyncio.to_thread(gateway.warm)
    victim = gateway.pids()[2]
    os.kill(victim, signal.SIGKILL)
    answers = [one for one in await asyncio.gather(*streams, return_exceptions=True) if isinstance(one, Answer)]
    ended = [answer for answer in answers if b"[DONE]" in answer.body]
    (died,) = await asyncio.to_thread(gateway.says, "worker_died")
    assert (2, victim, "killed by SIGKILL", True) == (died["worker"], died["pid"], died["how"], died["served"])
    ready = (await asyncio.to_thread(gateway.says, "worker_ready", 5))[-1]
    assert at(ready) - at(died) < 2
    told, bill = await settled(gateway, provider, "r")
    assert 0 < bill <= nusd(told["spent_usd"])
    calls = await asyncio.to_thread(gateway.items, "/api/runs/r/calls")
    lost = sum(one["cost_source"] == "presumed" for one in calls)
    assert (16, 16 - lost) == (len(calls), len(ended))
    assert 200 == (await call(gateway, "r", chat(max_tokens=9))).status


async def test_all_workers_die_and_are_replaced(make: Make, provider: ScriptedProvider) -> None:
    """What was in flight is presumed, what comes meanwhile waits in the listening queue and is served."""
    gateway = make(workers=2)
    provider.script = Script(output_tokens=100, chunk_tokens=5, gap_s=0.05)
    streams = [asyncio.ensure_future(call(gateway, "r", chat(stream=True, max_tokens=100))) for _ in range(6)]
    await until(lambda: len(provider.calls) == 6)
    for pid in gateway.pids().values():
        os.kill(pid, signal.SIGKILL)
    waiting = await call(gateway, "r", chat(max_tokens=9))
    await asyncio.gather(*streams, return_exceptions=True)
    assert 200 == waiting.status
    _, bill = await settled(gateway, provider, "r")
    assert 0 < bill


async def test_a_killed_supervisor_takes_its_workers_along(make: Make, provider: ScriptedProvider) -> None:
    """They finish what they have and let go of the port: the next `serve` starts on it, and on the ledger, at once."""
    gateway = make(workers=2)
    provider.script = Script(output_tokens=60, chunk_tokens=5, gap_s=0.05)
    stream = asyncio.ensure_future(call(gateway, "r", chat(stream=True, max_tokens=60)))
    await until(lambda: len(provider.calls) == 1)
    left = gateway.pids()
    gateway.kill()
    gateway.log.rename(gateway.folder / "first.log")
    await asyncio.to_thread(gateway.start)
    assert b"[DONE]" in (await stream).body
    assert 200 == (await call(gateway, "r", chat(max_tokens=9))).status
    await until(lambda: not any(map(alive, left.values())))
    told, bill = await settled(gateway, provider, "r")
    assert 0 < bill == nusd(told["spent_usd"])


async def test_sigterm_finishes_what_is_in_flight(make: Make, provider: ScriptedProvider) -> None:
    """Every stream of every worker arrives whole, then all of them end with status 0 and leave no process."""
    gateway = make(workers=3)
    provider.script = Script(output_tokens=100, chunk_tokens=5, gap_s=0.03)
    streams = [asyncio.ensure_future(call(gateway, "r", chat(stream=True, max_tokens=100))) for _ in range(9)]
    await until(lambda: len(provider.calls) == 9)
    left = gateway.pids()
    assert gateway.process is not None
    gateway.process.terminate()
    assert all(b"[DONE]" in answer.body for answer in await asyncio.gather(*streams))
    assert 0 == await asyncio.to_thread(gateway.process.wait, 15)
    assert not any(map(alive, left.values()))


def test_a_port_that_is_taken_is_said_once(make: Make, tmp_path: Path) -> None:
    """The supervisor finds out before any worker starts."""
    gateway = make(workers=2)
    other = tmp_path / "other"
    other.mkdir()
    second = Gateway(other, "", workers=2)
    second.port = gateway.port
    second.write("")
    with pytest.raises(AssertionError, match="serve ended with 1"):
        second.start()
    assert "is taken by another program" in second.log.read_text().splitlines()[-1]
    assert [] == second.said("started")


def test_a_ledger_that_cannot_be_opened_is_said_once(tmp_path: Path) -> None:
    """One worker tries; its sentence is the last line, and nobody tries again."""
    gateway = Gateway(tmp_path, "", workers=3)
    gateway.ledger.write_bytes(b"no database " * 1_000)
    with pytest.raises(AssertionError, match="serve ended with 1"):
        gateway.start()
    assert "damaged" in gateway.log.read_text().splitlines()[-1]
    assert 1 == len(gateway.said("worker_died"))


def test_the_supervisor_costs_nothing_while_all_is_well(make: Make) -> None:
    """Not a tick of the CPU in two seconds."""
    gateway = make(workers=2)
    assert gateway.process is not None
    stat = Path(f"/proc/{gateway.process.pid}/stat")
    gateway.warm()
    before = stat.read_text().split()[13:15]
    time.sleep(2)
    assert before == stat.read_text().split()[13:15]


# --------------------------------------------------------------------------- another configuration


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_raised_budget_lets_the_refused_run_go_on(make: Make, provider: ScriptedProvider, workers: int) -> None:
    """SIGHUP counts for the next call, in every worker; what was spent stays; lowering stops the run again."""
    gateway = make(workers, "0.001")
    provider.script = Script(output_tokens=1200)
    while 200 == (await call(gateway, "r", chat(max_tokens=1200))).status:
        pass
    spent = nusd((await asyncio.to_thread(gateway.quiet, "r"))["spent_usd"])
    assert 0 < spent <= nusd("0.001")
    gateway.write(section(provider, "1"))
    said = await asyncio.to_thread(gateway.hup)
    assert ("reloaded", "budgets.per-run") == (said["event"], said["changed"])
    answers = [await call(gateway, "r", chat(max_tokens=1200)) for _ in range(6)]
    assert [200] * 6 == [answer.status for answer in answers]
    told, bill = await settled(gateway, provider, "r")
    assert spent < bill == nusd(told["spent_usd"])
    assert "1" == told["limits"]["usd"]
    gateway.write(section(provider, "0.001"))
    await asyncio.to_thread(gateway.hup)
    assert [402] * 6 == [(await call(gateway, "r", chat(max_tokens=1200))).status for _ in range(6)]
    assert bill == nusd((await asyncio.to_thread(gateway.run, "r"))["spent_usd"])


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_lowered_budget_binds_who_waits(make: Make, provider: ScriptedProvider, workers: int) -> None:
    """A call that stands in line at SIGHUP is judged by the budgets of now; what was granted before goes on."""

    def parted(usd: str) -> str:
        return section(provider) + f'[[budgets]]\nname = "all"\nscope = "global"\nper = "month"\nusd = "{usd}"\n'

    gateway = make(workers)
    gateway.write(parted("0.02"))
    await asyncio.to_thread(gateway.hup)
    provider.script = Script(output_tokens=1000, first_s=1.0)
    calls = [asyncio.create_task(call(gateway, f"r{number}", chat(max_tokens=1500))) for number in range(40)]
    await until(lambda: len(provider.calls) >= 10)
    granted = len(provider.calls)
    gateway.write(parted("0.000001"))
    await asyncio.to_thread(gateway.hup)
    answers = await asyncio.gather(*calls)
    assert {200, 402} == {answer.status for answer in answers}
    assert granted <= len(provider.calls) <= granted + 10  # those that the rest of the old budget paid for meanwhile


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_broken_file_changes_nothing(make: Make, provider: ScriptedProvider, workers: int) -> None:
    """Its sentences are in the log; also a worker that is started then has the configuration that was good."""
    gateway = make(workers, "2")
    gateway.write(section(provider, "3") + "[prices]\nunknwon = 1\n")
    said = await asyncio.to_thread(gateway.hup)
    assert "reload_failed" == said["event"]
    assert "prices.unknwon: unknown key. Did you mean `unknown`?" in said["why"]
    if workers > 1:
        for pid in gateway.pids().values():
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(gateway.says, "worker_ready", 2 * workers, 30)
    for _ in range(4):
        assert 200 == (await call(gateway, "r", chat(max_tokens=9))).status
    assert "2" == (await asyncio.to_thread(gateway.run, "r"))["limits"]["usd"]
    gateway.write(section(provider, "4"))
    assert "budgets.per-run" == (await asyncio.to_thread(gateway.hup))["changed"]
    assert "4" == (await asyncio.to_thread(gateway.run, "r"))["limits"]["usd"]


async def test_a_replaced_worker_has_the_latest_configuration(make: Make, provider: ScriptedProvider) -> None:
    """The one that was taken over last, not the one of the start."""
    gateway = make(2, "2")
    gateway.write(section(provider, "3"))
    await asyncio.to_thread(gateway.hup)
    for pid in gateway.pids().values():
        os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(gateway.says, "worker_ready", 4, 30)
    assert 200 == (await call(gateway, "r", chat(max_tokens=9))).status
    assert "3" == (await asyncio.to_thread(gateway.run, "r"))["limits"]["usd"]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stream_that_is_open_while_all_changes_arrives_whole(
    make: Make, provider: ScriptedProvider, workers: int
) -> None:
    """Another provider, another budget: the call that was admitted before ends as it began."""
    gateway = make(workers)
    provider.script = Script(output_tokens=120, chunk_tokens=5, gap_s=0.05)
    stream = asyncio.ensure_future(call(gateway, "r", chat(stream=True, max_tokens=120)))
    await until(lambda: len(provider.calls) == 1)
    gateway.write(section(provider, "5").replace("scripted]", "other]"))
    said = await asyncio.to_thread(gateway.hup)
    assert "budgets.per-run, providers.other, providers.scripted" == said["changed"]
    answer = await stream
    assert b"[DONE]" in answer.body
    assert 404 == (await call(gateway, "r", chat())).status
    other = await fetch(gateway.port, "/other/v1/chat/completions", chat(max_tokens=9), {"authorization": "Bearer r"})
    assert 200 == other.status


@pytest.mark.parametrize("workers", [1, 3])
async def test_twenty_reloads_under_load_lose_no_call(make: Make, provider: ScriptedProvider, workers: int) -> None:
    """Every call is served whole and booked exactly, whatever the configuration changes to meanwhile."""
    gateway = make(workers)
    provider.script = Script(output_tokens=30, chunk_tokens=5, gap_s=0.005)
    assert gateway.process is not None
    answers: list[Answer] = []
    over = False

    async def work() -> None:
        while not over:
            answers.append(await call(gateway, "r", chat(stream=len(answers) % 2 == 0, max_tokens=30)))

    load = [asyncio.ensure_future(work()) for _ in range(6)]
    for number in range(20):
        gateway.write(section(provider, str(10 + number), 50 + number // 3))
        gateway.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.05)
    gateway.write(section(provider, "50"))
    await asyncio.to_thread(gateway.hup, 30)
    over = True
    await asyncio.gather(*load)
    assert len(answers) > 20
    assert {200} == {answer.status for answer in answers}
    told, bill = await settled(gateway, provider, "r")
    assert bill == nusd(told["spent_usd"])
    assert len(answers) == told["calls"]
    await until(lambda: gateway.run("r")["limits"]["usd"] == "50")


async def test_what_needs_a_restart_is_said_and_left(make: Make, provider: ScriptedProvider) -> None:
    """A port, the number of workers, the ledger's place: named in the log; the rest of the file counts."""
    gateway = make(2)
    port = gateway.port
    gateway.port, gateway.workers = port + 1, 3
    gateway.write(section(provider, "7"), 'max_body_mb = 1\nauth = "none"')
    gateway.port, gateway.workers = port, 2
    said = await asyncio.to_thread(gateway.hup)
    assert "budgets.per-run, server.max_body_mb" == said["changed"]
    assert "server.auth, server.port, server.workers" == said["needs_restart"]
    assert 2 == len(gateway.pids())
    assert 413 == (await call(gateway, "r", chat(words=200_000))).status


def test_flags_and_environment_still_win_after_a_reload(tmp_path: Path) -> None:
    """`--port` holds whatever the file says."""
    gateway = Gateway(tmp_path, "")
    file = gateway.file.read_text()
    gateway.file.write_text(file.replace(f"port = {gateway.port}", "port = 1"))
    command = ["serve", "--config", str(gateway.file), "--port", str(gateway.port)]
    with gateway.log.open("ab") as log:
        gateway.process = subprocess.Popen([sys.executable, "-m", "gateway", *command], stdout=log, stderr=log)
    try:
        gateway.says("started")
        gateway.file.write_text(file.replace(f"port = {gateway.port}", "port = 2") + "[runs]\nidle_s = 9\n")
        said = gateway.hup()
        assert ("runs.idle_s", None) == (said["changed"], said.get("needs_restart"))
    finally:
        gateway.stop()
