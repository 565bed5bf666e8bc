"""Each scope in each unit, alone, through a real gateway: a runaway agent is stopped in time, the next one is not.

tests/test_pipeline_runaway.py has the same in all windows. Here the counts are the provider's own, the wire is real,
and one gateway is given one budget after another by SIGHUP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.bill import Row
from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.runaway import error_of
from tests.e2e.spending import call, chat, scripted
from tests.play import Answer, Gateway, nusd

SECRET = "sk-" + "e" * 40
KEYS = "".join(f'[[keys]]\nname = "{name}"\nsecret = "{SECRET}{name}"\n' for name in ("x", "y", "z"))
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}]
BODY = chat(max_tokens=60, tools=TOOLS)
MOST_CALLS = 10_000  # a bound of the test's own
X, Y, Z = ({"x_meterbox_key": SECRET + name} for name in "xyz")  # every call has a key
# Whose calls a budget stops, and whose it leaves alone; headers. A run's name stands in front of the number of a call.
WHO: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "run": ("run", {**X, "run": "one"}, X),
    "tree": ("run", {**X, "x_meterbox_parent_run_id": "top"}, X),
    "agent:*": ("agent:ann", {**X, "x_meterbox_agent": "ann"}, {**X, "x_meterbox_agent": "bob"}),
    "agent:carl": ("agent:carl", {**X, "x_meterbox_agent": "carl"}, {**X, "x_meterbox_agent": "bob"}),
    "user:*": ("user:uma", {**X, "x_meterbox_user": "uma"}, {**X, "x_meterbox_user": "eve"}),
    "user:vic": ("user:vic", {**X, "x_meterbox_user": "vic"}, {**X, "x_meterbox_user": "eve"}),
    "key:*": ("key:y", Y, X),
    "key:z": ("key:z", Z, X),
    "global": ("global", X, None),
}
# Each leaves room for more than one call. A run goes on for three seconds; others' calls take a whole one each.
LIMITS: dict[str, Any] = {"calls": 3, "tool_calls": 2, "seconds": 3, "usd": "0.0006", "tokens": 2500}


def config(provider: ScriptedProvider, scope: str, unit: str) -> str:
    """One budget, and the keys."""
    own = scope in ("run", "tree")
    period = "" if own else 'per = "month"\n'
    table = f'[[budgets]]\nname = "b"\nscope = "{"run" if own else scope}"\n{unit} = {LIMITS[unit]}\n{period}'
    return scripted(provider, KEYS + table)


@pytest.fixture
def gateway(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Gateway]:
    """A gateway that asks for keys, in front of a provider whose model asks for a tool in every answer."""
    provider.script = Script(output_tokens=20, tool_steps=-1)
    with Gateway(tmp_path, scripted(provider, KEYS), server='auth = "keys"') as started:
        yield started


async def needed(gateway: Gateway) -> int:
    """What the call would hold; nano-dollars. Asking makes the tokenizer load, and once it counts that is less."""
    heads: dict[str, Any] = {**X, "x_meterbox_limit_usd": "0.000001"}
    return nusd(error_of(await call(gateway, "poor", BODY, **heads))["details"]["needed_usd"])


async def counted_finely(gateway: Gateway, before: int) -> None:
    """Waits for the tokenizer, so that who is refused doesn't need less a second later."""
    async with asyncio.timeout(30):
        while await needed(gateway) == before:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.05)


class Caller:
    """Calls of an owner, each of a run of its own where none is named."""

    def __init__(self, gateway: Gateway, case: str) -> None:
        self._gateway = gateway
        self.case = case
        self._made = 0

    async def step(self, run: str | None = None, **heads: Any) -> Answer:
        """One call."""
        self._made += 1
        if "x_meterbox_parent_run_id" in heads:
            heads["x_meterbox_parent_run_id"] += self.case
        return await call(self._gateway, f"{run or self._made}{self.case}", BODY, **heads)


async def run_away(caller: Caller, who: dict[str, Any]) -> Answer:
    """Calls until it is refused; the refusal."""
    for _ in range(MOST_CALLS):
        answer = await caller.step(**who)
        if answer.status != 200:
            return answer
    raise AssertionError("nobody stopped it")


def check(answer: Answer, word: str, unit: str) -> None:
    """A final refusal by this budget and no other."""
    error = error_of(answer)
    details = error["details"]
    assert (402, "false") == (answer.status, answer.headers["x-should-retry"])
    assert "retry-after" not in answer.headers
    code = "insufficient_quota" if unit == "usd" else f"limit_{unit}"
    assert (code, word, unit) == (error["code"], details["scope"], details["unit"])
    limit = details["limit_usd" if unit == "usd" else "limit"]
    assert LIMITS[unit] == limit
    assert f"{limit}" in error["message"]
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ends_at = None if word == "run" else (month + timedelta(days=32)).replace(day=1).isoformat()
    assert (ends_at and ends_at.replace("+00:00", "Z")) == details["resets_at"]


def check_count(rows: list[Row], unit: str, case: str) -> None:
    """What the provider counted: within the limit, and what is counted one by one reaches it."""
    assert len(rows) > 1, case
    if unit == "usd":
        assert sum(row.nusd for row in rows) <= nusd(LIMITS[unit]), case
    elif unit == "tokens":
        assert sum(row.input_tokens + row.output_tokens for row in rows) <= LIMITS[unit], case
    elif unit == "calls":
        assert LIMITS[unit] == len(rows), case
    elif unit == "tool_calls":  # the answer that passes the limit is delivered, no other
        assert LIMITS[unit] + 1 == sum(row.tools for row in rows), case


async def test_each_scope_in_each_unit_stops_a_runaway(gateway: Gateway, provider: ScriptedProvider) -> None:
    """By the provider's own count; the owner's next call is refused as well, another owner's is served."""
    coarse = await needed(gateway)
    for unit in LIMITS:
        if unit == "usd":
            await counted_finely(gateway, coarse)
        for scope, (word, who, other) in WHO.items():
            gateway.write(config(provider, scope, unit))
            await asyncio.to_thread(gateway.hup)
            before, begun = len(provider.calls), asyncio.get_running_loop().time()
            caller = Caller(gateway, f"-{unit}-{scope.replace(':', '.').replace('*', 'each')}")
            check(await run_away(caller, who), word, unit)
            took = asyncio.get_running_loop().time() - begun
            rows = provider.calls[before:]
            check(await caller.step(**who), word, unit)
            assert before + len(rows) == len(provider.calls), caller.case
            check_count(rows, unit, caller.case)
            if unit == "seconds":
                assert 3.0 <= took < 8.0 if word == "run" else len(rows) <= 3, caller.case
            if other is not None:
                assert 200 == (await caller.step(**other)).status, caller.case
            else:
                check(await caller.step(**Y, x_meterbox_agent="bob", x_meterbox_user="eve"), word, unit)
