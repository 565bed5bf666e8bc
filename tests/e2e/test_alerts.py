"""Alerts of a real gateway at a real receiver: budgets, kills, burn rates; and what comes over SIGKILL and refusals."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.core.telemetry.alerts import webhook
from gateway.core.telemetry.alerts.episodes import Message
from gateway.demo.provider import ScriptedProvider
from tests.e2e.observing import Alertmanager, missing
from tests.e2e.spending import call, chat, scripted
from tests.play import ROOT, Gateway, nusd
from tests.receiver import SECRET, Post, Receiver, receiving, verified


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody else's server."""
    with receiving() as one:
        yield one


def config(provider: ScriptedProvider, receiver: Receiver, alerts: str = "burn_usd_per_h = 0", more: str = "") -> str:
    """A provider, a channel, and what a test adds."""
    return scripted(
        provider,
        f'{more}\n[projections.alerts]\n{alerts}\n[projections.alerts.channels.hook]\nurl = "{receiver.url}"\n'
        f'secret = "{SECRET}"\n',
    )


EACH = '[[budgets]]\nname = "each"\nscope = "run"\nusd = "0.004"\nalert_at = [0.5, 0.9]\n'


async def comes(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Waits until something holds."""
    for _ in range(int(seconds / 0.05)):
        if await asyncio.to_thread(true):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


def named(receiver: Receiver, alertname: str, status: str = "firing") -> list[Post]:
    """The messages of one kind that were taken."""
    return [
        post
        for post in receiver.taken
        if (post.body["groupLabels"]["alertname"], post.body["status"]) == (alertname, status)
    ]


async def meterbox(gateway: Gateway, *args: str) -> tuple[int, str]:
    """The command line, in a process of its own."""
    env = {**os.environ, "XDG_STATE_HOME": str(gateway.folder / "home")}
    asked = [sys.executable, "-m", "gateway", *args, "--config", str(gateway.file)]
    done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60)
    return done.returncode, done.stdout


async def spend(gateway: Gateway, run: str, most: int = 60) -> int:
    """Calls until one is refused; how many passed."""
    for number in range(most):
        knobs = json.dumps({"output_tokens": 400})
        if (await call(gateway, run, chat(max_tokens=400), x_scripted=knobs)).status != 200:
            return number
    return most


async def test_a_run_meets_its_budget_and_a_person_kills_another(tmp_path: Path, provider, receiver):
    """R-116: each threshold once, the stop once however often it knocks, the kill with its reason; all signed; /api and
    the command line know who was told; a mute and an ack are known at once."""
    with Gateway(tmp_path, config(provider, receiver, more=EACH)) as gateway:
        assert 2 < await spend(gateway, "night") < 60
        for _ in range(30):
            await call(gateway, "night", chat(max_tokens=400))
        await comes(lambda: bool(named(receiver, "run_stopped")), "the stop")
        await call(gateway, "other", chat(max_tokens=50))
        await asyncio.to_thread(gateway.post, "/api/runs/other/kill", {"reason": "it deletes files"})
        await comes(lambda: len(named(receiver, "run_stopped")) == 2, "the kill")
        assert ["0.5", "0.9"] == [
            post.body["commonLabels"]["threshold"] for post in named(receiver, "budget_threshold")
        ]
        stopped, killed = named(receiver, "run_stopped")
        assert "Run night was stopped by its budget: $0.00" in stopped.said[1]
        assert stopped.said[1].endswith("of $0.004 used, calls that may need more are refused.")
        assert "it deletes files" in killed.said[1]
        assert {"run_id": "other", "alertname": "run_stopped", "severity": "warning"} == killed.body["commonLabels"]
        assert ["meterbox kill other", "meterbox runs show other"] == [
            killed.body["commonAnnotations"][word] for word in ("stop", "look")
        ]
        assert all(verified(post.headers, post.raw) for post in receiver.posts)
        await comes(lambda: _delivered(gateway) == 4, "the deliveries")
        items = await asyncio.to_thread(gateway.items, "/api/alerts")
        assert ["run_stopped", "run_stopped", "budget_threshold", "budget_threshold"] == [
            item["labels"]["alertname"] for item in items
        ]
        assert items[0]["annotations"]["mute"] == killed.body["commonAnnotations"]["mute"]
        words = items[0]["annotations"]["mute"].split()[1:]
        assert 0 == (await meterbox(gateway, *words))[0]
        assert 0 == (await meterbox(gateway, "alerts", "ack", items[1]["alert_id"]))[0]
        status, out = await meterbox(gateway, "alerts", "list", "--json")
        listed = json.loads(out)["items"]
        assert (0, "muted", True) == (status, listed[0]["state"], listed[1]["acked_at"] is not None)
        assert (0, "hook: taken\n") == await meterbox(gateway, "alerts", "test")
        assert ("firing", True) == (receiver.posts[-1].said[0], "is a test" in receiver.posts[-1].said[1])
        tried = await asyncio.to_thread(gateway.post, "/api/alerts/test", {})
        assert [{"channel": "hook", "taken": True, "error": None}] == tried.json()["items"]
    assert 1 == len({post.id for post in named(receiver, "run_stopped") if "night" in post.said[1]})
    assert (0, "hook: taken\n") == await meterbox(gateway, "alerts", "test")  # no gateway runs now
    assert SECRET not in gateway.log.read_text()


def _delivered(gateway: Gateway) -> int:
    return sum(one["state"] == "delivered" for item in gateway.items("/api/alerts") for one in item["deliveries"])


async def test_a_burning_run_is_told_although_no_budget_is_set(tmp_path: Path, provider, receiver):
    """R-092: the pace and what a day of it costs, from the first seconds on; the run's end is the alert's end."""
    with Gateway(tmp_path, config(provider, receiver, "burn_usd_per_h = 0.01")) as gateway:
        assert 8 == await spend(gateway, "night", 8)
        await comes(lambda: bool(named(receiver, "burn_rate")), "the alert")
        status, said = named(receiver, "burn_rate")[0].said
        assert ("firing", True) == (status, "Run night burns $0.0" in said and "a day at this pace." in said)
        await asyncio.to_thread(gateway.post, "/api/runs/night/end", {})
        await comes(lambda: bool(named(receiver, "burn_rate", "resolved")), "the end")
        spent = nusd((await asyncio.to_thread(gateway.get, "/api/runs/night")).json()["spent_usd"])
        assert 0 < spent
        assert "Over: Run night has ended" in named(receiver, "burn_rate", "resolved")[0].said[1]


async def test_what_is_refused_and_killed_comes_with_the_same_id(tmp_path: Path, provider, receiver):
    """500s, then SIGKILL while a repeat waits, then a start: at once, the same id, the same body, and then no more."""
    receiver.answers = [500]
    gateway = Gateway(tmp_path, config(provider, receiver, more=EACH)).start()
    try:
        await call(gateway, "R", chat(max_tokens=50))
        await asyncio.to_thread(gateway.post, "/api/runs/R/kill", {"reason": "enough"})
        await comes(lambda: len(receiver.posts) >= 2, "the first repeat")
        assert receiver.posts[1].at - receiver.posts[0].at <= 5.5
        assert ("hook", "it answered 500") == tuple(
            gateway.says("channel_failed")[0][word] for word in ("channel", "why")
        )
        gateway.kill()
        receiver.answers = [200]
        before = len(receiver.posts)
        gateway.start()
        await comes(lambda: len(receiver.taken) >= 1, "the message", 15)
        await comes(lambda: _delivered(gateway) == 1, "its delivery")
    finally:
        gateway.stop()
    assert before + 1 == len(receiver.posts)
    assert 1 == len({post.id for post in receiver.posts})
    assert 1 == len({post.raw for post in receiver.posts})
    assert all(verified(post.headers, post.raw) for post in receiver.posts)


async def test_a_reload_brings_another_channel_what_comes_then(tmp_path: Path, provider, receiver):
    """SIGHUP; the first channel goes on."""
    with receiving() as second, Gateway(tmp_path, config(provider, receiver, more=EACH)) as gateway:
        await _kill(gateway, "A")
        await comes(lambda: len(receiver.taken) == 1, "the first")
        more = f'[projections.alerts.channels.second]\nurl = "{second.url}"\n'
        gateway.write(config(provider, receiver, more=EACH) + more)
        await asyncio.to_thread(gateway.hup)
        await _kill(gateway, "B")
        await comes(lambda: len(receiver.taken) == 2 and len(second.taken) == 1, "the second, on both")
        assert "Run B" in second.taken[0].said[1]
        assert "webhook-signature" not in second.taken[0].headers


async def _kill(gateway: Gateway, run: str) -> None:
    await call(gateway, run, chat(max_tokens=50))
    answer: Any = await asyncio.to_thread(gateway.post, f"/api/runs/{run}/kill", {"reason": "enough"})
    assert 200 == answer.status


@pytest.mark.server
async def test_the_body_is_what_the_real_alertmanager_posts(tmp_path: Path, receiver):
    """Version 4, field for field: the same names, types, time forms, and the same fingerprint for the same labels; so
    whoever reads one reads the other."""
    if why := missing():
        pytest.skip(why)
    at, about = 1_700_000_000.25, {"summary": "Run R was killed.", "mute": "meterbox alerts mute al_1"}
    labels = {"run_id": "R \u00fc/1", "agent": "ann"}
    message = Message("msg_1", "al_1", "run_stopped", "warning", labels, about, "firing", at, None, at)
    alertmanager = await asyncio.to_thread(Alertmanager, tmp_path, receiver.url)
    try:
        whole = {"alertname": "run_stopped", "severity": "warning", **labels}
        posted = [{"labels": whole, "annotations": about, "startsAt": "2023-11-14T22:13:20.25Z"}]
        line = http.client.HTTPConnection("127.0.0.1", alertmanager.port, timeout=20)
        line.request("POST", "/api/v2/alerts", json.dumps(posted), {"content-type": "application/json"})
        assert 200 == line.getresponse().status
        line.close()
        await comes(lambda: bool(receiver.posts), "its webhook")
    finally:
        alertmanager.stop()
    theirs, ours = receiver.posts[0].body, json.loads(webhook.body(message, "people"))
    for body in (theirs, ours):
        for field in ("groupKey", "groupLabels", "externalURL"):  # the route's own, and where it stands
            assert body.pop(field) is not None
        assert isinstance(body["alerts"][0].pop("generatorURL"), str)
        assert datetime.fromisoformat(body["alerts"][0].pop("startsAt")).timestamp() == at
    assert theirs == ours
