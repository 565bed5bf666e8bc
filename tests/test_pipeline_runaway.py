"""Tests of pipeline.py: every scope in every unit, alone, stops a runaway agent in time, over a ledger in a file.

The budgets are read from a configuration, so that what is tried is all that one may say. The agent asks for two tools
in every answer, takes 2.5 seconds for it, and, where the budget isn't a run's, begins a run for each call: only the
budget that is tried can stop it. Each kind of owner has the same name, so that none can pass for another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from gateway import config_budgets
from gateway.config import load
from gateway.config_budgets import UNITS
from gateway.core.errors import ConfigError
from gateway.core.types import NUSD, Key
from gateway.rules.budget import Budget
from tests.fakes import RecordingOutlet, Scripted, ScriptedStream, ScriptedUpstream
from tests.ledgers import opened, sqlite
from tests.walking import COST, World, answered, chat, whole

MOST_CALLS = 50  # a bound of the test's own: whoever comes so far was stopped by nobody
CALL_S = 2.5
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
ASKED = [{"id": f"t{at}", "type": "function", "function": {"name": "search", "arguments": "{}"}} for at in (1, 2)]
MESSAGE = {"role": "assistant", "content": None, "tool_calls": ASKED}
ANSWER = answered(choices=[{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}])
# The world's time is 2027-01-15T08:00:00Z. Windows by their end, and by what ends an account's name.
PERIODS = {
    "hour": ("2027-01-15T09:00:00Z", "/2027-01-15T08"),
    "day": ("2027-01-16T00:00:00Z", "/2027-01-15"),
    "month": ("2027-02-01T00:00:00Z", "/2027-01"),
}


class Case(Struct, frozen=True):
    """A scope: whom its budget stops, and whom it leaves alone. Headers by their names with underscores."""

    scope: str
    word: str  # as the refusal names it
    account: str  # without unit and window
    stopped: list[dict[str, Any]]  # the first is the runaway itself
    free: list[dict[str, Any]]


OWNERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "agent": lambda name: {"x_meterbox_agent": name},
    "user": lambda name: {"x_meterbox_user": name},
    "key": lambda name: {"key": Key(name)},
}


def owned(kind: str, name: str) -> Case:
    """An agent, user or key: by its name, or each on its own (`*`). Whoever else has that name doesn't count."""
    mine = OWNERS[kind]
    others = {header: value for other in OWNERS if other != kind for header, value in OWNERS[other]("x").items()}
    free = [mine("y"), {**mine("y"), **others}, others, {}]
    return Case(f"{kind}:{name}", f"{kind}:x", f"{kind}/x", [mine("x"), {**mine("x"), **others}], free)


BELOW = {"x_meterbox_parent_run_id": "top"}
DEEPER = {"x_meterbox_parent_run_id": "one-0"}  # the first run that had no name, a child of `top` by then
CASES = {
    "run": Case("run", "run", "run/r", [{"run": "r"}], [{"run": "r2"}, {"run": "r", "key": Key("x")}]),
    "tree": Case("run", "run", "run/top", [BELOW, DEEPER, {"run": "top"}], [{}, {"x_meterbox_parent_run_id": "r"}]),
    **{f"{kind}:{name}": owned(kind, name) for kind in OWNERS for name in "*x"},
    "global": Case("global", "global", "global/all", [{}, *(whose("x") for whose in OWNERS.values())], []),
}
WINDOWED = [name for name in CASES if name not in ("run", "tree")]
# Limits, and how many calls they let through: what is counted to the very call, dollars and tokens as far as they go.
LIMITS: dict[str, tuple[int | str, int | None]] = {
    "usd": ("0.0005", None),
    "calls": (4, 4),
    "tool_calls": (5, 3),  # two, four, six: the answer that passes the limit is delivered, no other is asked for
    "tokens": (1600, None),
    "seconds": (6, None),
}


def table(scope: str, unit: str, per: str | None) -> str:
    """The one budget of a configuration."""
    period = "" if per is None else f'per = "{per}"\n'
    return f'[[budgets]]\nname = "b"\nscope = "{scope}"\n{unit} = {LIMITS[unit][0]}\n{period}'


def rules(folder: Path, text: str) -> list[Budget]:
    """What a configuration makes of it; $10 for every run stands beside all but a run's own."""
    file = folder / "meterbox.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, {}).budget_rules()


class Slow(ScriptedUpstream):
    """Its answers take their time, by the world's clock."""

    tick: Callable[[float], None]

    async def send(self, *args: Any, **named: Any) -> ScriptedStream:
        self.tick(CALL_S)
        return await super().send(*args, **named)


class Kept(World):
    """A world whose ledger is a file."""

    def __init__(self, folder: Path, budgets: list[Budget], script: Scripted) -> None:
        self.slow = Slow(script)
        super().__init__(budgets=budgets, upstream=self.slow)
        self.slow.tick = self.clock.advance
        self.file = sqlite(folder, self.clock)
        self.faulty.store = self.file  # type: ignore[assignment]  # both fit the socket
        self._numbers = count()

    async def step(self, **who: Any) -> RecordingOutlet:
        """A call of this owner; of a run of its own where none is named."""
        run = who.pop("run", None) or f"one-{next(self._numbers)}"
        outlet: RecordingOutlet = await self.call(chat(tools=TOOLS), run=run, **who)
        return outlet


@asynccontextmanager
async def world(folder: Path, budgets: list[Budget]) -> AsyncIterator[Kept]:
    """Open as long as the block lasts; the books are right at its end."""
    kept = Kept(folder, budgets, whole(ANSWER))
    async with opened(kept.file):
        yield kept
        assert [] == kept.file.audit()


def check_refusal(outlet: RecordingOutlet, word: str, unit: str, resets_at: str | None) -> dict[str, Any]:
    """A final refusal by this limit alone, in the words of http.md section 3; gives back its details."""
    assert (402, "false", None) == (outlet.status, outlet.header("x-should-retry"), outlet.header("retry-after"))
    error = json.loads(outlet.body)["error"]
    code = "insufficient_quota" if unit == "usd" else f"limit_{unit}"
    assert (code, "budget_exceeded" if unit == "usd" else code) == (error["code"], error["type"])
    details: dict[str, Any] = error["details"]
    assert (word, unit, resets_at, False) == tuple(details[n] for n in ("scope", "unit", "resets_at", "retryable"))
    assert outlet.header("x-meterbox-run-id") == details["run_id"]
    limit = LIMITS[unit][0]
    dollars = [details[name] for name in ("limit_usd", "spent_usd", "held_usd", "needed_usd")]
    numbers = [details[name] for name in ("limit", "used", "held", "needed")]
    told, silent = (dollars, numbers) if unit == "usd" else (numbers, dollars)
    assert ([None] * 4, limit) == (silent, told[0])
    assert float(told[2]) == 0, "nothing is in flight"
    assert f"{limit}" in error["message"]
    return details


def check_in_time(details: dict[str, Any], unit: str, served: int, of_run: bool) -> None:
    """Not a call too many, nor one too few."""
    limit, calls = LIMITS[unit]
    if unit == "usd":
        spent, needed = (round(float(details[name]) * NUSD) for name in ("spent_usd", "needed_usd"))
        assert served * COST == spent <= round(float(limit) * NUSD) < spent + needed
    elif unit == "tokens":
        assert served * 30 == details["used"] <= int(limit) < details["used"] + details["needed"]
    elif unit == "seconds":  # of a run those since it began; else each call's own, rounded up
        assert (3, 7) if of_run else (2, 6) == (served, details["used"])
    else:
        assert (calls, calls if unit == "calls" else 2 * served) == (served, details["used"])
    assert served > 1, "it was not the first call that was refused"


async def run_away(kept: Kept, who: dict[str, Any]) -> tuple[int, RecordingOutlet]:
    """Calls without end until one is refused; how many were served."""
    for served in range(MOST_CALLS):
        outlet = await kept.step(**who)
        if outlet.status != 200:
            assert served == len(kept.slow.sent)
            return served, outlet
    raise AssertionError("nobody stopped it")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("name", "per"), [("run", None), ("tree", None), *((name, per) for name in WINDOWED for per in PERIODS)]
)
async def test_each_limit_alone_stops_a_runaway(tmp_path: Path, name: str, per: str | None, unit: str) -> None:
    """In time, by its own name, all that is its owner's and nobody else; until its window ends, a run for good."""
    case, of_run = CASES[name], per is None
    resets_at, window = PERIODS.get(per or "", (None, ""))
    async with world(tmp_path, rules(tmp_path, table(case.scope, unit, per))) as kept:
        served, outlet = await run_away(kept, case.stopped[0])
        details = check_refusal(outlet, case.word, unit, resets_at)
        check_in_time(details, unit, served, of_run)
        if not (of_run and unit == "seconds"):  # that passes by itself, and is no row
            account = kept.file.reading().account(f"{case.account}/{UNITS[unit]}{window}")
            used = served * COST if unit == "usd" else details["used"]
            assert account is not None and (used, 0) == (account.spent, account.held)
        for who in case.stopped:
            check_refusal(await kept.step(**who), case.word, unit, resets_at)
        assert served == len(kept.slow.sent), "it had one attempt for each refusal, and nothing was sent"
        for who in case.free:
            assert 200 == (await kept.step(**who)).status, who
        kept.clock.at = datetime.fromisoformat(resets_at or "2028-01-01T00:00:00Z").timestamp()
        assert (402 if of_run else 200) == (await kept.step(**case.stopped[0])).status


@pytest.mark.parametrize("name", CASES)
async def test_many_at_once_do_not_slip_through(tmp_path: Path, name: str) -> None:
    """Thirty calls in one moment: what is held before a call is sent stays within the limit, whoever it is for."""
    case = CASES[name]
    for unit in ("usd", "calls", "tokens"):
        folder = tmp_path / unit
        folder.mkdir()
        async with world(folder, rules(folder, table(case.scope, unit, "day" if name in WINDOWED else None))) as kept:
            outlets = await asyncio.gather(*(kept.step(**case.stopped[0]) for _ in range(30)))
            served = sum(outlet.status == 200 for outlet in outlets)
            assert {200, 402} == {outlet.status for outlet in outlets}
            outlet = await kept.step(**case.stopped[0])
            details = check_refusal(outlet, case.word, unit, PERIODS["day"][0] if name in WINDOWED else None)
            check_in_time(details, unit, served, False)
            assert served == len(kept.slow.sent)


async def test_where_a_tree_is_stopped_its_root_is_named(tmp_path: Path) -> None:
    """A child that made no call yet reads whose limit it was; its own would have let it go."""
    for unit in UNITS:
        folder = tmp_path / unit
        folder.mkdir()
        async with world(folder, rules(folder, table("run", unit, None))) as kept:
            _, outlet = await run_away(kept, BELOW)
            assert "The budget of the parent run top has" in json.loads(outlet.body)["error"]["message"]


NO_WINDOW = "a run has one budget for its whole life"
MISSING = 'is missing: write per = "hour", "day" or "month"'
NOT_A_RUN = '"run" is for scope "run" only: write per = "hour", "day" or "month"'


@pytest.mark.parametrize(
    ("name", "per", "why"),
    [
        *(("run", per, NO_WINDOW) for per in PERIODS),
        *((name, per, why) for name in WINDOWED for per, why in ((None, MISSING), ("run", NOT_A_RUN))),
    ],
)
def test_what_is_not_tried_is_refused(tmp_path: Path, name: str, per: str | None, why: str) -> None:
    """A run in a window, and anybody else without one, in every unit: the key and the way out are told."""
    for unit in UNITS:
        with pytest.raises(ConfigError) as caught:
            rules(tmp_path, table(CASES[name].scope, unit, per))
        assert f"budgets[0].per: {why}" in str(caught.value)


def test_a_run_may_say_that_it_is_its_window(tmp_path: Path) -> None:
    """`per = "run"` is what a budget of scope run is without it."""
    for unit in UNITS:
        assert rules(tmp_path, table("run", unit, "run")) == rules(tmp_path, table("run", unit, None))


def test_all_units_and_scopes_are_tried() -> None:
    """One that is added here is tried here."""
    assert set(LIMITS) == set(UNITS)
    scopes = {*config_budgets._SCOPES, *(f"{kind}:x" for kind in config_budgets._KINDS)}
    assert scopes == {case.scope for case in CASES.values()}
    assert set(PERIODS) == set(config_budgets._SPANS)
