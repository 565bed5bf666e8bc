"""Every verb that explains money, as a person runs it, beside a gateway that serves a provider with its own bill."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.story import QUESTIONS
from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.spending import call, chat, dollars, scripted
from tests.play import ROOT, Gateway, nusd

BUDGETS = """
[[budgets]]
name = "each-run"
scope = "run"
usd = "0.05"
calls = 9
[[budgets]]
name = "daily"
scope = "agent:*"
per = "day"
usd = "5"
"""


@pytest.fixture
def gateway(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Gateway]:
    """Nine calls and five cents a run, five dollars a day for each agent."""
    with Gateway(tmp_path, scripted(provider, BUDGETS)) as started:
        yield started


async def verb(gateway: Gateway, *words: str) -> tuple[int, str, str]:
    """`meterbox WORDS` as a process of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("METERBOX_")}
    command = [sys.executable, "-m", "gateway", *words, "--config", str(gateway.file)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def data(gateway: Gateway, *words: str) -> Any:
    """What a verb says with --json."""
    _, out, err = await verb(gateway, *words, "--json")
    assert "" == err
    return json.loads(out)


def invoice(provider: ScriptedProvider, folder: Path) -> str:
    """The provider's own bill as OpenAI exports it."""
    day = datetime.now(UTC).date().isoformat()
    rows = [f"{day}T00:00:00+00:00,{row.model},1,{dollars(row.nusd)},usd" for row in provider.calls if row.nusd]
    file = folder / "bill.csv"
    file.write_text("start_time_iso,model,num_model_requests,amount_value,amount_currency\n" + "\n".join(rows) + "\n")
    return str(file)


async def test_every_nano_dollar_is_explained(gateway: Gateway, provider: ScriptedProvider, tmp_path: Path) -> None:
    """A runaway is told in seven answers; what ended unclear is above the bill until the bill is booked, beside the
    gateway: then calls, runs and budgets say what was billed, and the audit is clean throughout."""
    heads: dict[str, Any] = {"x_meterbox_agent": "research"}
    for _ in range(5):
        assert 200 == (await call(gateway, "r", chat(), **heads)).status
    provider.script = Script(output_tokens=2_000, gap_s=0.01)
    await call(gateway, "r", chat(stream=True), leave=200, **heads)
    provider.script = Script(no_usage=True)
    await call(gateway, "kid", chat(max_tokens=200), x_meterbox_parent_run_id="r", **heads)
    provider.script = Script()
    for _ in range(4):
        last = await call(gateway, "r", chat(), **heads)
    assert (402, "limit_calls") == (last.status, last.json()["error"]["code"])
    await asyncio.to_thread(gateway.quiet, "r")

    status, page, err = await verb(gateway, "runs", "show", "r")
    assert (0, "") == (status, err)
    assert list(QUESTIONS) == [line for line in page.split("\n") if line and not line.startswith(" ")]
    for words in (
        "refused with limit_calls",
        "has 9 calls spent of 9 calls",
        "kid",
        "the configuration allows 9 calls a run",
        "ended unclear",
    ):
        assert words in page, page
    status, table, _ = await verb(gateway, "budget")
    assert (0, True) == (status, "agent:research" in table and "run r" in table and "used up" in table)
    assert 0 == (await verb(gateway, "ledger", "audit"))[0]

    bill = provider.bill_nusd()
    before = nusd(gateway.run("r")["spent_usd"])
    assert bill < before
    file = invoice(provider, tmp_path)
    told = await data(gateway, "prices", "diff", file, "--provider", "scripted")
    assert (False, dollars(bill)) == (told["agrees"], f"{nusd(told['report_usd']) / 1e9:.9f}")
    said = await data(gateway, "prices", "diff", file, "--provider", "scripted", "--book", "--actor", "ann")
    assert (True, []) == (said["agrees"], said["not_booked"])
    calls = [*gateway.items("/api/runs/r/calls"), *gateway.items("/api/runs/kid/calls")]
    assert bill == sum(nusd(one["cost_usd"]) for one in calls)
    assert bill == nusd(gateway.run("r")["spent_usd"])
    daily = next(item for item in gateway.items("/api/budgets") if item["name"] == "daily")
    assert bill == nusd(daily["spent"])
    assert 0 == (await data(gateway, "prices", "diff", file, "--provider", "scripted", "--book"))["corrections"]
    assert 0 == (await verb(gateway, "ledger", "audit"))[0]

    assert 0 == (await verb(gateway, "budget", "r", "--calls", "9"))[0]
    assert 2 == (await verb(gateway, "ledger", "backup", str(gateway.file)))[0]
    assert 0 == (await verb(gateway, "ledger", "backup", str(tmp_path / "copy.db")))[0]
    assert 200 == (await call(gateway, "another", chat(), **heads)).status
