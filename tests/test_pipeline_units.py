"""Tests of pipeline.py: each unit alone, each scope alone, a last call, a cheaper model, as their callers see them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.core.types import Denied, Key, Run
from gateway.core.windows import Calendar
from gateway.rules.budget import Budget
from tests.fakes import RecordingOutlet
from tests.walking import CLAUDE, COST, MODEL, World, answered, chat, piece, provider, streamed, whole

CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
DAY = Calendar("day")


def budget(unit: str, limit: int, **more: Any) -> tuple[Budget, ...]:
    return (Budget("b", limit, limit, unit=unit, **more),)  # type: ignore[arg-type]  # a unit


def error(outlet: RecordingOutlet) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(outlet.body)["error"]
    return said


def sent(world: World, at: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(world.upstream.sent[at].body)
    return body


async def until_refused(world: World, most: int = 20, **more: Any) -> tuple[int, RecordingOutlet]:
    """Calls until one is refused; how many were served."""
    for served in range(most):
        outlet: RecordingOutlet = await world.call(**more)
        if outlet.status != 200:
            return served, outlet
    raise AssertionError("nobody stopped it")


async def test_calls_are_counted_and_stopped() -> None:
    """Three of three; the fourth reads limit_calls with its numbers, and reaches nobody."""
    world = World(whole(), budgets=budget("calls", 3))
    served, outlet = await until_refused(world)
    assert (3, 402, 3) == (served, outlet.status, len(world.upstream.sent))
    said = error(outlet)
    assert ("limit_calls", "limit_calls") == (said["code"], said["type"])
    assert "This run has made 3 of its 3 calls. Don't retry" in said["message"]
    details = said["details"]
    assert ("run", "calls", 3, 3, 0, 1, None) == tuple(
        details[name] for name in ("scope", "unit", "limit", "used", "held", "needed", "limit_usd")
    )
    assert "false" == outlet.header("x-should-retry") and world.sound()


async def test_a_call_that_nobody_billed_is_a_call() -> None:
    """A provider that answers 429 for ever does not let an agent call for ever; a call that was not sent is none."""
    world = World(whole(b'{"error":{}}', 429), budgets=budget("calls", 2))
    for status in (429, 429, 402):
        assert status == (await world.call()).status
    assert (2, 0) == (world.store.book.account("run/r/calls").spent, world.spent()) and world.sound()


async def test_tool_calls_are_counted_when_they_are_emitted() -> None:
    """The answer that passes the limit is delivered whole, the next call refused (design.md section 2)."""
    message = {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "t2"}]}
    body = answered(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    world = World(whole(body), budgets=budget("tool_calls", 3))
    served, outlet = await until_refused(world, body=chat(tools=TOOLS))
    assert (2, "limit_tool_calls") == (served, error(outlet)["code"])
    assert "asked for 4 tool calls; its limit is 3" in error(outlet)["message"] and world.sound()


async def test_seconds_run_from_the_runs_beginning() -> None:
    """Nothing is held; when the time is up the next call is refused, and told how long it was."""
    world = World(whole(), budgets=budget("seconds", 60))
    assert 200 == (await world.call()).status
    world.clock.advance(59)
    assert 200 == (await world.call()).status
    world.clock.advance(1)
    outlet = await world.call()
    assert (402, "limit_seconds") == (outlet.status, error(outlet)["code"])
    assert "has been going for 60 seconds; its limit is 60" in error(outlet)["message"] and world.sound()


@pytest.mark.parametrize("model", [MODEL, "nobody-prices-this"])
async def test_tokens_are_held_and_settled_like_dollars(model: str) -> None:
    """Input and output as billed, with a price or without; clamped to what is left, then refused."""
    world = World(whole(), budgets=budget("tokens", 3000), refuse_unknown=False)
    first = await world.call(chat(model=model, max_tokens=2500))
    assert (None, 30) == (first.header("x-meterbox-clamped"), world.store.book.account("run/r/tokens").spent)
    outlet = await world.call(chat(model=model, max_tokens=9000, words=200))
    clamped = int(outlet.header("x-meterbox-clamped") or 0)
    assert 256 < clamped < 3000 and clamped == sent(world)["max_tokens"]
    served, outlet = await until_refused(world, 90, body=chat(model=model, max_tokens=2000, words=400))
    assert "limit_tokens" == error(outlet)["code"] and "of its 3000 tokens" in error(outlet)["message"]
    assert 60 + 30 * served == world.store.book.account("run/r/tokens").spent <= 3000 and world.sound()


@pytest.mark.parametrize("model", [MODEL, "nobody-prices-this"])
async def test_a_budget_of_tokens_cuts_who_writes_past_it(model: str) -> None:
    """Whatever it costs: within a slice, in-band, with the unit's own code; the excess is an overrun."""
    world = World(streamed(*[piece("word " * 80)] * 60), budgets=budget("tokens", 1000), refuse_unknown=False)
    outlet = await world.call(chat(True, model=model, max_tokens=9000))
    assert b'"code":"limit_tokens"' in outlet.body
    assert outlet.body.count(b"word ") * 5 // 4 <= 1000 + 256 + 100
    account = world.store.book.account("run/r/tokens")
    assert account.spent >= 1000 and account.overrun == account.spent - 1000 and world.sound()


SCOPES = [
    ("agent:*", {"x_meterbox_agent": "a"}, "agent:a", "The budget of agent a has"),
    ("agent:a", {"x_meterbox_agent": "a"}, "agent:a", "The budget of agent a has"),
    ("user:*", {"x_meterbox_user": "u"}, "user:u", "The budget of user u has"),
    ("key:*", {"key": Key("team")}, "key:team", "The budget of key team has"),
    ("global", {}, "global", "The budget of all runs together has"),
]


@pytest.mark.parametrize(("scope", "who", "word", "says"), SCOPES)
async def test_each_scope_alone_stops_many_runs(scope: str, who: dict[str, Any], word: str, says: str) -> None:
    """Its calls are counted over all runs of the day; the refusal names it, and when it begins anew."""
    world = World(whole(), budgets=budget("calls", 2, scope=scope, window=DAY))
    for number in range(2):
        assert 200 == (await world.call(run=f"r{number}", **who)).status
    outlet = await world.call(run="r2", **who)
    said = error(outlet)
    assert (402, "limit_calls", word) == (outlet.status, said["code"], said["details"]["scope"])
    assert said["message"].startswith(says) and "of the day 2027-01-15 (UTC)" in said["message"]
    assert "2027-01-16T00:00:00Z" == said["details"]["resets_at"]
    world.clock.advance(86_400)
    assert 200 == (await world.call(run="r3", **who)).status and world.sound()


async def test_a_child_is_refused_in_its_parents_name() -> None:
    """The tree spends the root's calls; the child reads whose limit it was."""
    world = World(whole(), budgets=budget("calls", 2))
    await world.call(run="root")
    await world.call(run="child", x_meterbox_parent_run_id="root")
    outlet = await world.call(run="other", x_meterbox_parent_run_id="root")
    assert "The budget of the parent run root has made 2 of its 2 calls" in error(outlet)["message"]
    assert "run" == error(outlet)["details"]["scope"] and world.sound()


async def test_a_circle_that_another_process_told_of_is_refused() -> None:
    """What the ledger knows of the line above a run may close one: 400, nothing sent, nothing held."""
    world = World(whole(), budgets=budget("calls", 5))
    await world.call()
    await world.call(run="top", x_meterbox_parent_run_id="r")
    world.faulty.says["reserve"] = Denied("", "", "stale")
    world.faulty.says["run"] = Run("r", "r", parent="top")
    outlet = await world.call()
    assert (400, "invalid_request") == (outlet.status, error(outlet)["code"])
    assert 2 == len(world.upstream.sent) and 0 == world.held()


# --------------------------------------------------------------------------- a last call

LAST: dict[str, dict[str, Any]] = {
    "chat": {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True},
    "responses": {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
    "anthropic": {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "any"}},
}


async def test_one_last_call_is_made_without_tools() -> None:
    """Paid from what was kept, inside the limit; the next one reads that it was made."""
    limit = 1_000_000
    world = World(whole(), budgets=budget("nusd", limit, on_exceed="last_call"))
    ask = {"body": chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=True)}
    served, outlet = await until_refused(world, 90, **ask)
    bodies = [sent(world, at) for at in range(served)]
    assert ["required"] * (served - 1) + ["none"] == [body["tool_choice"] for body in bodies]
    assert TOOLS == bodies[-1]["tools"] and bodies[-1]["parallel_tool_calls"] is True
    assert "Its last call has been made" in error(outlet)["message"]
    assert "last call" in world.calls[-2].warning and world.spent() == served * COST <= limit and world.sound()


async def test_a_last_call_says_so_in_a_header() -> None:
    """The caller knows why its tools were not used."""
    world = World(whole(), budgets=budget("calls", 2, on_exceed="last_call"))
    first, last = await world.call(), await world.call()
    assert None is first.header("x-meterbox-warning")
    assert "this is the last call" in (last.header("x-meterbox-warning") or "")
    assert "tool_choice" not in sent(world), "nothing is set where no tools are offered"
    assert 402 == (await world.call()).status and world.sound()


@pytest.mark.parametrize("kind", LAST)
async def test_each_dialect_spells_the_last_call_its_own_way(kind: str) -> None:
    """Chat and Responses a word, Anthropic an object; tools stay listed (Anthropic needs them in the history)."""
    more = LAST[kind]
    said: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 50, **more}
    path, preset = "/v1/chat/completions", "openai"
    if kind == "responses":
        said, path = {"model": MODEL, "input": "x", **more}, "/v1/responses"
    elif kind == "anthropic":
        said["model"], path, preset = CLAUDE, "/v1/messages", "anthropic"
    world = World(whole(b'{"error":{}}', 400), budgets=budget("calls", 1, on_exceed="last_call"))
    await world.call(said, path, provider=provider(preset))
    none = {"type": "none"} if kind == "anthropic" else "none"
    assert (none, more["tools"]) == (sent(world)["tool_choice"], sent(world)["tools"]) and world.sound()


# --------------------------------------------------------------------------- another model


async def test_what_the_dear_model_costs_too_much_for_the_cheap_one_does() -> None:
    """Sent with the other name and nothing else changed; the caller is told, the record keeps both."""
    cheap = answered(model=MODEL)
    world = World(whole(cheap), budgets=budget("nusd", 2_000_000, on_exceed="degrade", degrade_to=MODEL))
    body = json.dumps(chat(model="gpt-4o", words=200)).encode()
    outlet = await world.call(body)
    assert (200, body.replace(b"gpt-4o", MODEL.encode())) == (outlet.status, world.upstream.sent[0].body)
    assert f"{MODEL} is asked instead of gpt-4o" in (outlet.header("x-meterbox-warning") or "")
    assert ("gpt-4o", MODEL, COST) == (world.last.request_model, world.last.attempts[0].model, world.spent())
    assert None is outlet.header("x-meterbox-clamped") and world.sound()


async def test_a_call_that_fits_clamped_keeps_its_model() -> None:
    """The clamp down to its floor comes first: it would have been granted."""
    world = World(whole(), budgets=budget("nusd", 9_000_000, on_exceed="degrade", degrade_to=MODEL))
    outlet = await world.call(chat(model="gpt-4o", max_tokens=9000))
    assert "gpt-4o" == sent(world)["model"] and int(outlet.header("x-meterbox-clamped") or 0) > 256
    assert None is outlet.header("x-meterbox-warning") and world.sound()


async def test_where_the_cheap_one_does_not_fit_either_it_is_refused() -> None:
    """One refusal, nothing sent, nothing held."""
    world = World(whole(), budgets=budget("nusd", 1000, on_exceed="degrade", degrade_to=MODEL))
    outlet = await world.call(chat(model="gpt-4o"))
    assert (402, "insufficient_quota", []) == (outlet.status, error(outlet)["code"], world.upstream.sent)
    assert "gpt-4o" == world.last.request_model and world.sound()


# --------------------------------------------------------------------------- clocks


async def test_a_step_of_the_clock_makes_no_call_longer() -> None:
    """A call's own times go by the clock that never steps: an agent's seconds are those it took."""
    gate = asyncio.Event()
    world = World(whole(gate=gate), budgets=budget("seconds", 600, scope="agent:*", window=DAY))
    steady = world.clock.mono()
    world.clock.mono = lambda: steady  # type: ignore[method-assign]  # the wall clock steps, this one never does
    task, _ = world.start(x_meterbox_agent="a")
    for _ in range(20):
        await asyncio.sleep(0)
    world.clock.advance(-7200)
    steady += 2.5
    gate.set()
    await task
    assert 2.5 == world.last.ended_at - world.last.started_at
    assert 2.5 == world.last.attempts[0].ended_at - world.last.attempts[0].started_at
    assert world.sound()


async def test_a_key_that_names_its_agent_later_binds_its_runs() -> None:
    """A run that a header gave to another agent counts for the key's own from the next call on, where it is limited."""
    world = World(whole(), budgets=budget("calls", 2, scope="agent:boxed", window=DAY))
    for _ in range(3):
        assert 200 == (await world.call(key=Key("k"), x_meterbox_agent="free")).status
    answers = [await world.call(key=Key("k", agent="boxed"), x_meterbox_agent="free") for _ in range(3)]
    assert [200, 200, 402] == [outlet.status for outlet in answers]
    assert ("agent:boxed", "boxed") == (error(answers[-1])["details"]["scope"], world.store.book.runs["k~r"].agent)
    assert world.sound()
