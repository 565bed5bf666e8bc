"""Each unit alone and each scope alone stops a runaway agent in time, and the refusal names the limit.

The counts are the provider's own: what it billed, answered, and asked for, never what the gateway says of itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.demo.bill import Row
from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.runaway import DIALECTS, error_of, run_away
from tests.e2e.spending import CHAT, MESSAGES, call, chat, dollars, scripted, settled
from tests.play import Answer, Gateway, nusd

LOOP = Script(output_tokens=30, tool_steps=-1)
TYPES = {CHAT: "budget_exceeded", MESSAGES: "billing_error", "/v1/responses": "budget_exceeded"}
SECRET = "sk-" + "e" * 40


def budget(name: str, scope: str, **more: Any) -> str:
    """One [[budgets]] table."""
    lines = [f'name = "{name}"', f'scope = "{scope}"']
    lines += [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in more.items()]
    return "[[budgets]]\n" + "\n".join(lines) + "\n"


@contextmanager
def started(tmp_path: Path, provider: ScriptedProvider, *budgets: str, server: str = "") -> Iterator[Gateway]:
    """A gateway with these budgets."""
    with Gateway(tmp_path, scripted(provider, "".join(budgets)), server=server) as gateway:
        yield gateway


def rows(provider: ScriptedProvider, *payers: str) -> list[Row]:
    """What the provider answered for these."""
    return [row for row in provider.calls if row.tag in payers and row.status == 200]


def tokens(answered: list[Row]) -> int:
    """Billed tokens."""
    return sum(row.input_tokens + row.output_tokens for row in answered)


def check_refusal(answer: Answer, scope: str, unit: str, limit: int, run: str = "r") -> dict[str, Any]:
    """A final refusal that names its limit; gives back its details."""
    assert 402 == answer.status
    assert "false" == answer.headers["x-should-retry"]
    assert "retry-after" not in answer.headers
    error = error_of(answer)
    details: dict[str, Any] = error["details"]
    assert ("insufficient_quota" if unit == "usd" else f"limit_{unit}") == error["code"]
    assert (scope, unit, run) == (details["scope"], details["unit"], details["run_id"])
    if unit == "usd":
        assert limit == nusd(details["limit_usd"])
        assert nusd(details["spent_usd"]) <= limit
    else:
        assert limit == details["limit"]
        assert 0 < details["used"]
    return details


@pytest.fixture
def looping(provider: ScriptedProvider) -> ScriptedProvider:
    """A provider whose model asks for a tool in every answer."""
    provider.script = LOOP
    return provider


# --------------------------------------------------------------------------- each unit alone


@pytest.fixture
def five(tmp_path: Path, looping: ScriptedProvider) -> Iterator[Gateway]:
    """Five agents, each limited in one unit."""
    agents: dict[str, dict[str, Any]] = {
        "payer": {"usd": "0.004"},
        "caller": {"calls": 7},
        "maker": {"tool_calls": 5},
        "talker": {"tokens": 9_000},
    }
    budgets = [budget(name, f"agent:{name}", per="day", **limit) for name, limit in agents.items()]
    with started(tmp_path, looping, *budgets) as gateway:
        yield gateway


async def test_each_unit_stops_a_runaway_in_time(five: Gateway, looping: ScriptedProvider) -> None:
    """Dollars, calls, tool calls and tokens: the provider's own count stays within, in each dialect; one attempt ends
    it, with the code, the limit and what was used in the caller's dialect."""
    for path in DIALECTS:
        for agent, unit, limit in (
            ("payer", "usd", nusd("0.004")),
            ("caller", "calls", 7),
            ("maker", "tool_calls", 5),
            ("talker", "tokens", 9_000),
        ):
            # each dialect finds the same account: what the first one left over is soon used up
            run = f"{agent}{path}".replace("/", ".")
            answers = await run_away(five, run, path, stream=path == CHAT, x_meterbox_agent=agent)
            details = check_refusal(answers[-1], f"agent:{agent}", unit, limit, run)
            assert datetime.fromisoformat(details["resets_at"]).hour == 0
            assert (TYPES[path] if unit == "usd" else "") in error_of(answers[-1])["type"]
    of = {agent: [r for r in looping.calls if r.tag.startswith(agent)] for agent in ("payer", "caller", "maker")}
    assert 0 < sum(row.nusd for row in of["payer"]) <= nusd("0.004")
    assert 7 == len(of["caller"])
    assert 6 == sum(row.tools for row in of["maker"])  # the answer that passes the limit is delivered, no other
    assert 0 < tokens([row for row in looping.calls if row.tag.startswith("talker")]) <= 9_000


async def test_parallel_calls_do_not_slip_through(five: Gateway, looping: ScriptedProvider) -> None:
    """30 calls at once: exactly 7 of them reach the provider; tokens and dollars stay within."""
    looping.script = Script(output_tokens=200, first_s=0.2)
    for agent in ("caller", "payer", "talker"):
        answers = await asyncio.gather(*(call(five, agent, chat(), x_meterbox_agent=agent) for _ in range(30)))
        assert {200, 402} == {answer.status for answer in answers}
    assert 7 == len(rows(looping, "caller"))
    assert looping.bill_nusd("payer") <= nusd("0.004")
    assert tokens(rows(looping, "talker")) <= 9_000


async def test_time_stops_a_runaway(tmp_path: Path, looping: ScriptedProvider) -> None:
    """A run of two seconds admits no call after them; an agent's seconds are those of its calls."""
    looping.script = Script(output_tokens=30, tool_steps=-1, first_s=0.25)
    agent = budget("time", "agent:slow", seconds=3, per="day")
    with started(tmp_path, looping, budget("life", "run", seconds=2), agent) as gateway:
        begun = time.monotonic()
        answers = await run_away(gateway, "r")
        assert 2.0 <= time.monotonic() - begun < 8.0
        details = check_refusal(answers[-1], "run", "seconds", 2)
        assert details["resets_at"] is None
        refused: list[Answer] = []
        for number in range(12):  # a run each: their own two seconds don't bind
            answer = await call(gateway, f"s{number}", chat(), x_meterbox_agent="slow")
            if answer.status != 200:
                refused.append(answer)
        check_refusal(refused[0], "agent:slow", "seconds", 3, "s3")
        assert 3 == len([row for row in looping.calls if row.tag.startswith("s")])  # each counts a whole second


# --------------------------------------------------------------------------- each scope alone

SCOPES = (
    budget("run", "run", usd=5, calls=20),
    budget("agents", "agent:*", calls=4, per="day", zone="Asia/Tokyo"),
    budget("bob", "agent:bob", calls=3, per="hour"),
    budget("users", "user:*", usd="0.002", per="month", zone="America/New_York"),
    budget("eve", "user:eve", tokens=6_000, per="day", zone="Europe/Berlin"),
)


def turns_at(per: str, zone: str) -> datetime:
    """When the window that is open now ends."""
    now = datetime.now(ZoneInfo(zone))
    if per == "hour":
        return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1) if per == "day" else (day.replace(day=1) + timedelta(days=32)).replace(day=1)


async def test_each_scope_stops_a_runaway(tmp_path: Path, looping: ScriptedProvider) -> None:
    """A run, any agent, one agent, any user, one user: each by its own limit, in its own window."""
    cases: list[tuple[str, dict[str, Any], str, str, int, tuple[str, str] | None]] = [
        ("plain", {}, "run", "calls", 20, None),
        ("a1", {"x_meterbox_agent": "ann"}, "agent:ann", "calls", 4, ("day", "Asia/Tokyo")),
        ("a2", {"x_meterbox_agent": "bob"}, "agent:bob", "calls", 3, ("hour", "UTC")),
        ("u1", {"x_meterbox_user": "uma"}, "user:uma", "usd", nusd("0.002"), ("month", "America/New_York")),
        ("u2", {"x_meterbox_user": "eve"}, "user:eve", "tokens", 6_000, ("day", "Europe/Berlin")),
    ]
    with started(tmp_path, looping, *SCOPES) as gateway:
        for run, heads, scope, unit, limit, window in cases:
            answers = await run_away(gateway, run, limit=400, **heads)
            details = check_refusal(answers[-1], scope, unit, limit, run)
            if window is None:
                assert details["resets_at"] is None
            else:
                assert turns_at(*window) == datetime.fromisoformat(details["resets_at"])
            if unit == "calls":
                assert limit == len(rows(looping, run))
        # an account of its own each: another agent still has all of its four, and a run of its own doesn't help
        assert 402 == (await call(gateway, "a3", chat(), x_meterbox_agent="ann")).status
        assert 5 == len(await run_away(gateway, "a4", x_meterbox_agent="cy"))
        assert looping.bill_nusd("u1") <= nusd("0.002")
        assert tokens(rows(looping, "u2")) <= 6_000


async def test_keys_and_all_together_are_limited(tmp_path: Path, looping: ScriptedProvider) -> None:
    """Each virtual key by its own account, one key by a limit of its own, and everybody by the global one."""
    keys = "".join(f'[[keys]]\nname = "{name}"\nsecret = "{SECRET}{name}"\n' for name in ("wide", "narrow", "third"))
    budgets = (
        budget("keys", "key:*", calls=5, per="day"),
        budget("small", "key:narrow", calls=2, per="hour", zone="Asia/Kolkata"),
        budget("all", "global", calls=9, per="month"),
    )
    with started(tmp_path, looping, keys, *budgets, server='auth = "keys"') as gateway:
        for key, scope, limit in (("wide", "key:wide", 5), ("narrow", "key:narrow", 2), ("third", "global", 9)):
            answers = await run_away(gateway, key, x_meterbox_key=f"{SECRET}{key}")
            check_refusal(answers[-1], scope, "calls", limit, key)
        assert [5, 2, 2] == [len(rows(looping, key)) for key in ("wide", "narrow", "third")]


async def test_the_innermost_limit_is_named(tmp_path: Path, looping: ScriptedProvider) -> None:
    """Of several limits that a call doesn't fit, the run's is named, then the parent's, the agent's, the user's."""
    budgets = (
        budget("run", "run", calls=3),
        budget("agent", "agent:*", calls=3, per="day"),
        budget("user", "user:*", calls=3, per="day"),
        budget("all", "global", calls=9, per="day"),
    )
    with started(tmp_path, looping, *budgets) as gateway:
        heads: dict[str, Any] = {"x_meterbox_agent": "ann", "x_meterbox_user": "uma"}
        answers = await run_away(gateway, "r", **heads)
        check_refusal(answers[-1], "run", "calls", 3)
        child = await call(gateway, "c", chat(), x_meterbox_parent_run_id="r", **heads)
        check_refusal(child, "run", "calls", 3, "c")
        assert "parent run r" in error_of(child)["message"]
        check_refusal(await call(gateway, "other", chat(), **heads), "agent:ann", "calls", 3, "other")
        check_refusal(await call(gateway, "o2", chat(), x_meterbox_user="uma"), "user:uma", "calls", 3, "o2")
        assert 3 == len(looping.calls)


# --------------------------------------------------------------------------- trees


@pytest.mark.parametrize("unit", ["usd", "tokens", "calls"])
async def test_a_tree_spends_no_more_than_its_root(tmp_path: Path, provider: ScriptedProvider, unit: str) -> None:
    """Three levels, 30 concurrent children: together they spend at most what the root may, and use it."""
    limit: dict[str, Any] = {"usd": "0.03", "tokens": 60_000, "calls": 40}
    provider.script = Script(output_tokens=600, first_s=0.05)
    with started(tmp_path, provider, budget("each", "run", **{unit: limit[unit]})) as gateway:
        await call(gateway, "root", chat(max_tokens=16))
        for middle in range(5):
            await call(gateway, f"m{middle}", chat(max_tokens=16), x_meterbox_parent_run_id="root")
        refused: list[Answer] = []

        async def child(number: int) -> None:
            heads: dict[str, Any] = {"x_meterbox_parent_run_id": f"m{number % 5}", "authorization": "Bearer leaf"}
            for _ in range(8):
                answer = await call(gateway, f"leaf{number}", chat(), **heads)
                if answer.status != 200:
                    refused.append(answer)
                    return

        await asyncio.gather(*(child(number) for number in range(30)))
        await asyncio.wait_for(provider.quiet(), 20)
        root = await asyncio.to_thread(gateway.quiet, "root")
        assert provider.bill_nusd() == nusd(root["spent_usd"])
        used = {"usd": provider.bill_nusd(), "tokens": tokens(provider.calls), "calls": len(provider.calls)}[unit]
        most = nusd(limit["usd"]) if unit == "usd" else limit[unit]
        assert most * 0.6 < used <= most
        assert {"run"} == {error_of(answer)["details"]["scope"] for answer in refused}
        assert any("parent run root" in error_of(answer)["message"] for answer in refused)


# --------------------------------------------------------------------------- what else a budget can do


async def test_a_shadow_counts_and_refuses_nobody(tmp_path: Path, looping: ScriptedProvider) -> None:
    """A shadow budget of one call lets twenty pass and records its thresholds once."""
    shadow = budget("watch", "agent:*", calls=2, per="day", mode="shadow", alert_at=[0.5, 1.0])
    with started(tmp_path, looping, shadow) as gateway:
        for number in range(6):
            answer = await call(gateway, f"r{number}", chat(max_tokens=50), x_meterbox_agent="ann")
            assert (200, False) == (answer.status, "x-meterbox-clamped" in answer.headers)
        (account,) = [one for one in gateway.items("/api/budgets") if one["name"] == "watch"]
        assert ("agent:ann", 6) == (account["account"], int(account["spent"]))
        assert ["0.5", "1.0"] == marks(gateway, "agent/ann/calls")


def marks(gateway: Gateway, account: str) -> list[str]:
    """Thresholds that the journal has for an account, in their order."""
    import sqlite3

    import msgspec

    with sqlite3.connect(f"file:{gateway.ledger}?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT data FROM journal WHERE kind = 'threshold' ORDER BY seq").fetchall()
    connection.close()
    told = [msgspec.msgpack.decode(data) for (data,) in found]
    return [str(one["threshold"]) for one in told if one["account"].startswith(account)]


async def test_thresholds_are_recorded_once(tmp_path: Path, looping: ScriptedProvider) -> None:
    """However many calls pass them at once, each threshold of an account stands once in the journal, after a restart
    too."""
    with started(tmp_path, looping, budget("each", "run", calls=20, alert_at=[0.5, 0.8, 1.0])) as gateway:
        await asyncio.gather(*(call(gateway, "r", chat(max_tokens=20)) for _ in range(17)))
        assert ["0.5", "0.8"] == marks(gateway, "run/r/calls")
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(gateway.start)
        await asyncio.gather(*(call(gateway, "r", chat(max_tokens=20)) for _ in range(17)))
        assert ["0.5", "0.8", "1.0"] == marks(gateway, "run/r/calls")
    assert 20 == len(looping.calls)


@pytest.mark.parametrize("path", DIALECTS)
async def test_one_last_call_without_tools(tmp_path: Path, looping: ScriptedProvider, path: str) -> None:
    """Where money ends, one call more is paid from a reserve, its tools barred; then none; all within the limit."""
    limit = "0.1" if path == MESSAGES else "0.008"
    with started(tmp_path, looping, budget("each", "run", usd=limit, on_exceed="last_call")) as gateway:
        answers = await run_away(gateway, "r", path)
        assert 2 < len(answers)
        barred = [row.tools_barred for row in looping.calls]
        assert [False] * (len(barred) - 1) + [True] == barred
        assert 0 == looping.calls[-1].tools
        assert "last call" in answers[-2].headers["x-meterbox-warning"]
        check_refusal(answers[-1], "run", "usd", nusd(limit))
        for _ in range(3):
            assert 402 == (await call(gateway, "r", chat(max_tokens=1))).status
        _, bill = await settled(gateway, looping, "r")
        assert nusd(limit) * 0.25 < bill <= nusd(limit)  # what is kept for the last call is its worst case


async def test_a_cheaper_model_goes_on(tmp_path: Path, looping: ScriptedProvider) -> None:
    """What the dear model can't be paid for any more, the cheaper one on the wire does, until it can't either."""
    dear = budget("each", "run", usd="0.03", on_exceed="degrade", degrade_to="gpt-4o-mini")
    with started(tmp_path, looping, dear) as gateway:
        await run_away(gateway, "r", model="gpt-4o", limit=500)
        names = [row.model for row in looping.calls]
        turn = names.index("gpt-4o-mini")
        assert ["gpt-4o"] * turn == names[:turn]
        assert {"gpt-4o-mini"} == set(names[turn:])
        _, bill = await settled(gateway, looping, "r")
        assert bill <= nusd("0.03")


async def test_expected_holds_what_the_run_has_learned(tmp_path: Path, provider: ScriptedProvider) -> None:
    """After ten answers more streams fit at once than the worst case would let; the overrun stays what is stated."""
    provider.script = Script(output_tokens=100, chunk_tokens=10)
    one = 230 * 150 + 100 * 600  # nano-dollars of such a call
    limit = one * 60
    body = chat(stream=True, max_tokens=4000)
    with started(tmp_path, provider, budget("each", "run", usd=dollars(limit), mode="expected")) as gateway:
        for _ in range(10):
            assert 200 == (await call(gateway, "r", body)).status
        provider.script = Script(output_tokens=100, chunk_tokens=10, first_s=0.3, gap_s=0.02)
        begun = time.monotonic()
        answers = await asyncio.gather(*(call(gateway, "r", body) for _ in range(20)))
        took = time.monotonic() - begun
        assert [200] * 20 == [answer.status for answer in answers]
        assert took < 6.0  # the worst case of one call is a fifth of what is left: in fours they would take longer
        # 2,000 tokens a second each: as fast as the bound is kept (docs/open.md)
        provider.script = Script(output_tokens=4000, chunk_tokens=10, gap_s=0.005)
        await asyncio.gather(*(call(gateway, "r", body) for _ in range(20)))
        await asyncio.wait_for(provider.quiet(), 20)
        assert provider.bill_nusd("r") <= limit + 20 * 256 * 600


async def test_limits_are_lowered_and_raised(tmp_path: Path, looping: ScriptedProvider) -> None:
    """A limit set below what is used pauses the run and says so; one above lets it go on, as far as is allowed."""
    with started(tmp_path, looping, budget("each", "run", usd=1, max_usd=2, calls=50)) as gateway:

        async def limits(**named: Any) -> Answer:
            return await asyncio.to_thread(gateway.post, "/api/runs/r/limits", named)

        for _ in range(3):
            assert 200 == (await call(gateway, "r", chat(max_tokens=50))).status
        for unit, below, above in (("calls", 2, 40), ("usd", "0.000001", "1.5"), ("tokens", 10, 100_000)):
            assert 200 == (await limits(**{unit: below})).status
            told = await asyncio.to_thread(gateway.run, "r")
            assert "paused" == told["state"]
            assert told["reason"]
            refused = await call(gateway, "r", chat(max_tokens=50))
            assert 402 == refused.status
            assert unit == error_of(refused)["details"]["unit"]
            assert 200 == (await limits(**{unit: above})).status
            assert "active" == (await asyncio.to_thread(gateway.run, "r"))["state"]
            assert 200 == (await call(gateway, "r", chat(max_tokens=50))).status
        assert 400 == (await limits(usd="2.5")).status
        assert 6 == len(looping.calls)
