"""Tests of pipeline.py: what a limit changes in a request, what it refuses, and calls that cost nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.core.types import Key, Provider
from gateway.rules.budget import Budget
from tests.fakes import RecordingOutlet, Scripted
from tests.walking import (
    CLAUDE,
    COST,
    DOLLAR,
    JSON,
    MODEL,
    SSE,
    STREAMED,
    Words,
    World,
    answered,
    chat,
    event,
    piece,
    provider,
    streamed,
    whole,
)

TIGHT = "0.0006"  # a call of `chat()` without a limit gets some hundreds of tokens
SHADOW = (Budget("shown", DOLLAR // 1000, DOLLAR // 1000, mode="shadow"),)
SLACK = (Budget("slack", DOLLAR // 1000, DOLLAR // 1000, clamp=False),)


def sent(world: World) -> dict[str, Any]:
    """The last request as the provider got it."""
    body: dict[str, Any] = json.loads(world.upstream.sent[-1].body)
    return body


def code(outlet: RecordingOutlet) -> tuple[int | None, str]:
    return outlet.status, json.loads(outlet.body)["error"]["code"]


def unlimited(**more: Any) -> dict[str, Any]:
    """A request that names no output limit."""
    body = chat(**more)
    del body["max_tokens"]
    return body


async def test_what_is_affordable_is_not_touched() -> None:
    """While all of it fits, the client's own bytes go on, odd spelling and all, and no header says otherwise."""
    world = World(whole())
    body = b'{ "max_tokens":100 , "model":"gpt-4o-mini","messages":[{"content":"\\u0068i","role":"user"}] }'
    outlet = await world.call(body)
    assert body == world.upstream.sent[0].body
    assert (None, None) == (outlet.header("x-meterbox-clamped"), world.last.clamped)


async def test_an_absent_limit_is_set_to_what_is_affordable() -> None:
    """The field is the preset's, all other bytes stay in front of it, and the header says what was granted (R-086)."""
    world = World(whole())
    body = json.dumps(unlimited()).encode()
    outlet = await world.call(body, x_meterbox_limit_usd=TIGHT)
    granted = int(outlet.header("x-meterbox-clamped") or 0)
    assert 256 <= granted < 600
    assert body[:-1] + b',"max_completion_tokens":%d}' % granted == world.upstream.sent[0].body
    assert granted == world.last.clamped
    # the limit in force, at the dearest class it may be billed at, is what is held: not more than the purse
    assert granted * 600 < world.last.hold_nusd <= 600_000


async def test_both_names_of_a_limit_are_lowered() -> None:
    """Whichever of two names the provider obeys, it obeys the grant; a lower one stays (section 13, item 7)."""
    world = World(whole())
    body = chat(max_tokens=9000, max_completion_tokens=8000)
    outlet = await world.call(body, x_meterbox_limit_usd=TIGHT)
    granted = int(outlet.header("x-meterbox-clamped") or 0)
    assert {**body, "max_tokens": granted, "max_completion_tokens": granted} == sent(world)
    await world.call(chat(max_tokens=9000, max_completion_tokens=20), run="other", x_meterbox_limit_usd=TIGHT)
    assert (9000, 20) == (sent(world)["max_tokens"], sent(world)["max_completion_tokens"])


async def test_a_limit_is_never_raised_nor_lowered_below_the_floor() -> None:
    """Below min(asked, 256) a call is refused, not clamped (design.md section 2)."""
    world = World(whole())
    assert (402, "insufficient_quota") == code(await world.call(chat(max_tokens=5000), x_meterbox_limit_usd="0.00025"))
    event, said = world.log[-1]  # whose limit it was, for who reads the log at night
    assert ("refused", "insufficient_quota", "run") == (event, said["code"], said["scope"])
    outlet = await world.call(chat(max_tokens=20))
    assert (200, 20, None) == (outlet.status, sent(world)["max_tokens"], outlet.header("x-meterbox-clamped"))


async def test_the_finer_count_is_asked_only_near_the_limit() -> None:
    """Far from the limit nobody counts; near it the tokenizer's figure buys more output than the bytes do."""
    world = World(whole())
    await world.call(chat(words=200))
    assert [] == world.tokenizer.asked
    bound = [int((await lone(ready)).header("x-meterbox-clamped") or 0) for ready in (False, True)]
    assert bound[0] < bound[1]


async def lone(ready: bool) -> RecordingOutlet:
    """A long call on a short purse, with and without a tokenizer."""
    world = World(whole(), tokenizer=Words(ready))
    outlet: RecordingOutlet = await world.call(unlimited(words=200), x_meterbox_limit_usd="0.001")
    assert ready == (world.tokenizer.warmed == []) == (len(world.tokenizer.asked) == 1)
    return outlet


async def test_thinking_fits_under_the_clamp() -> None:
    """A thinking budget that no longer fits below the limit is lowered with it."""
    world = World(whole(b'{"type":"message","usage":{"input_tokens":5,"output_tokens":5},"stop_reason":"end_turn"}'))
    body = {
        "model": CLAUDE,
        "max_tokens": 30_000,
        "thinking": {"type": "enabled", "budget_tokens": 20_000},
        "messages": [{"role": "user", "content": "hi"}],
    }
    outlet = await world.call(body, "/v1/messages", provider=provider("anthropic"), x_meterbox_limit_usd="0.1")
    limit, budget = sent(world)["max_tokens"], sent(world)["thinking"]["budget_tokens"]
    assert 1024 + 256 <= limit < 30_000
    assert 1024 <= budget < limit == int(outlet.header("x-meterbox-clamped") or 0)


async def test_hosted_tools_are_capped_where_a_budget_needs_it() -> None:
    """A search without a cap gets one under a budget and none without; a cap of the client's own stays."""
    tool: dict[str, Any] = {"type": "web_search_20250305", "name": "web_search"}
    body = {"model": CLAUDE, "max_tokens": 300, "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    for budgets, uses, want in (((), None, None), (None, None, 5), (None, 2, 2)):
        world = World(whole(b"{}"), **({} if budgets is None else {"budgets": budgets}))
        asked = {**body, "tools": [tool if uses is None else {**tool, "max_uses": uses}]}
        outlet = await world.call(asked, "/v1/messages", provider=provider("anthropic"))
        assert (200, want) == (outlet.status, sent(world)["tools"][0].get("max_uses"))
        assert (json.dumps(asked).encode() == world.upstream.sent[0].body) == (uses == want)


async def test_an_unknown_price_is_refused_under_a_budget() -> None:
    """402 `price_unknown`, final, nothing sent; never $0 (http.md section 3)."""
    world = World(whole())
    outlet = await world.call(chat(model="nobody-knows-me"))
    assert ((402, "price_unknown"), "false") == (code(outlet), outlet.header("x-should-retry"))
    assert (None, []) == (outlet.header("retry-after"), world.upstream.sent)
    assert ("refused", 0, None) == (world.last.cost_source, world.last.cost_nusd, world.last.status)


@pytest.mark.parametrize("says", ["caller", "operator", "parent"])
async def test_an_unknown_price_is_refused_under_a_limit_that_no_budget_says(says: str) -> None:
    """A limit that an earlier call's header, /limits or the parent's brought: nothing sent, nothing held or charged."""
    world = World(whole(), budgets=())
    await world.call(**({"x_meterbox_limit_usd": "0.01"} if says == "caller" else {}))
    if says != "caller":
        await world.store.set_limit("run/r/nusd", 10_000_000)
    more: dict[str, Any] = {"run": "child", "x_meterbox_parent_run_id": "r"} if says == "parent" else {}
    outlet = await world.call(chat(model="nobody-knows-me"), **more)
    assert ((402, "price_unknown"), "false") == (code(outlet), outlet.header("x-should-retry"))
    assert (1, COST, 0) == (len(world.upstream.sent), world.spent(), world.held()) and world.sound()
    assert ("refused", 0, None) == (world.last.cost_source, world.last.cost_nusd, world.last.status)


@pytest.mark.parametrize("usage", [True, False])
async def test_an_unknown_price_that_is_allowed_costs_null(usage: bool) -> None:
    """With `allow`, or without a budget, the call passes untouched and its cost is null, never zero."""
    body = answered(model="nobody-knows-me") if usage else answered(usage=None, model="nobody-knows-me")
    for more in ({"refuse_unknown": False}, {"budgets": ()}):
        world = World(whole(body), **more)
        outlet = await world.call(chat(model="nobody-knows-me"))
        assert (200, None) == (outlet.status, outlet.header("x-meterbox-cost-usd"))
        assert ("unknown_model" if usage else "no_usage", None) == (world.last.cost_source, world.last.cost_nusd)
        assert world.spent() == 0 and world.sound()


async def test_an_unknown_name_is_priced_by_the_model_that_answered() -> None:
    """Where the request's name is an alias, the answer's own name is charged."""
    world = World(whole(), refuse_unknown=False)
    await world.call(chat(model="my-alias"))
    assert ("price_list", COST, COST) == (world.last.cost_source, world.last.cost_nusd, world.spent())


async def test_a_cost_that_cannot_be_bounded_is_refused_under_a_budget() -> None:
    """402 `cost_unbounded` under a limit; without one it passes."""
    body = chat(web_search_options={})
    world = World(whole())
    assert (402, "cost_unbounded") == code(await world.call(body))
    assert [] == world.upstream.sent
    assert 200 == (await World(whole(), budgets=()).call(body)).status


async def test_a_shadow_budget_is_only_shown() -> None:
    """It neither clamps nor refuses, sets no limit of ours, cuts nothing, and what is spent is counted all the same."""
    for body in (unlimited(), unlimited(model="priced-by-us"), chat(max_tokens=16_000)):
        world = World(whole(), budgets=SHADOW)
        raw = json.dumps(body).encode()
        for _ in range(3):
            outlet = await world.call(raw)
            assert (200, None) == (outlet.status, outlet.header("x-meterbox-clamped"))
            assert raw == world.upstream.sent[-1].body
        assert world.spent() > 0 and world.sound()
    world = World(streamed(*[piece("word " * 500)] * 30, *STREAMED[1:]), budgets=SHADOW)
    assert (await world.call(chat(True, max_tokens=10))).body.endswith(b"[DONE]\n\n")


async def test_a_budget_that_must_not_clamp_refuses_instead() -> None:
    """`clamp = false`: all of the limit that is asked is held, or the call is refused."""
    world = World(whole(), budgets=SLACK)
    assert (402, "insufficient_quota") == code(await world.call(chat(max_tokens=2000)))
    assert 200 == (await world.call(chat(max_tokens=300))).status
    assert 300 == sent(world)["max_tokens"]


async def test_a_model_whose_maximum_is_unknown_gets_a_limit() -> None:
    """Without a greatest output in our table the limit is set, so that the bound holds (design.md section 2)."""
    world = World(whole())
    outlet = await world.call(unlimited(model="priced-by-us"))
    assert ("8192", 8192) == (outlet.header("x-meterbox-clamped"), sent(world)["max_completion_tokens"])


async def test_embeddings_are_charged_for_their_input() -> None:
    """No output, no clamp, the bytes as they are; an answer with only total_tokens means input."""
    world = World(whole(json.dumps({"object": "list", "data": [], "usage": {"total_tokens": 8}}).encode()))
    body = json.dumps({"model": "text-embedding-3-small", "input": "hello"}).encode()
    outlet = await world.call(body, "/v1/embeddings", x_meterbox_limit_usd="0.001")
    assert (200, body, 8 * 20) == (outlet.status, world.upstream.sent[0].body, world.spent())
    assert None is outlet.header("x-meterbox-clamped") and world.sound()


async def test_a_provider_that_writes_past_its_grant_is_cut() -> None:
    """The stream ends in-band within a slice of the grant; at least the hold is charged, and the upstream closed."""
    world = World(streamed(*[piece("word " * 80)] * 60))
    outlet = await world.call(chat(True, max_tokens=400))
    words = outlet.body.count(b"word ")
    assert 0 < words * 5 // 4 <= 400 + 256 + 100
    assert b"insufficient_quota" in outlet.body and not outlet.body.endswith(b"[DONE]\n\n")
    assert ("cut", "output_over_grant") == (world.last.outcome, world.last.reason)
    assert world.last.hold_nusd <= world.spent() == world.last.cost_nusd and world.sound()


async def test_exact_input_lowers_the_hold_for_the_others() -> None:
    """As soon as the stream tells its input, what is no longer needed is free (ledger.md section 5)."""
    first = event({"id": "c", "model": MODEL, "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 0}})
    world = World(Scripted(headers=SSE, chunks=[first, *STREAMED], chunk_gate=asyncio.Event()))
    task, outlet = world.start(chat(True, words=500, stream_options={"include_usage": True}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert 0 < world.held() <= 10 * 300 + 100 * 1100
    outlet.leave()
    await task
    assert world.spent() == world.last.cost_nusd == world.last.hold_nusd and world.sound()


# --------------------------------------------------------------------------- what costs nothing

FREE = [
    ("GET", "/v1/models", "openai"),
    ("POST", "/v1/messages/count_tokens", "anthropic"),
    ("POST", "/v1/responses/input_tokens", "openai"),
    ("GET", "/v1/responses/resp_1", "openai"),
    ("GET", "/v1/chat/completions/c1", "openai"),
]


@pytest.mark.parametrize(("method", "path", "preset"), FREE)
async def test_lists_and_counts_cost_nothing(method: str, path: str, preset: str) -> None:
    """They pass as they are, hold nothing, and leave no record."""
    world = World(whole(b'{"input_tokens": 5}'))
    outlet = await world.call(b"{}" if method == "POST" else b"", path, method=method, provider=provider(preset))
    assert (200, b'{"input_tokens": 5}') == (outlet.status, outlet.body)
    assert ([], [], 0) == (world.calls, world.store.rows, world.spent()) and world.sound()


def response(status: str, usage: Any = None) -> bytes:
    return json.dumps({"id": "resp_1", "object": "response", "model": MODEL, "status": status, "usage": usage}).encode()


TOLD = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
OWNERS = {"client's credential": (None, "digest"), "virtual key": (Key("team"), "team")}


@pytest.mark.parametrize("owner", OWNERS)
async def test_a_background_response_is_settled_by_its_retrieval_once(owner: str) -> None:
    """The POST shows no usage and is presumed; the first fetch that does sets it right, later ones change nothing."""
    key, tenant = OWNERS[owner]
    answers = [response("queued"), response("in_progress"), *[response("completed", TOLD)] * 2]
    world = World(*[whole(body) for body in answers])
    who: dict[str, Any] = {"key": key, "tenant": tenant}
    body = {"model": MODEL, "input": "hi", "background": True, "max_output_tokens": 100}
    await world.call(body, "/v1/responses", **who)
    account = f"run/{'team~' if key else ''}r/nusd"
    spent = [world.store.book.account(account).spent]
    for _ in range(3):
        outlet = await world.call(b"", "/v1/responses/resp_1", method="GET", **who)
        assert 200 == outlet.status
        spent.append(world.store.book.account(account).spent)
    assert [world.last.hold_nusd] * 2 + [COST] * 2 == spent
    assert ["presumed", "trueup"] == [row.kind for row in world.store.rows] and world.sound()


async def test_a_stored_response_of_another_key_settles_nothing() -> None:
    """Response ids are known per virtual key."""
    world = World(whole(response("queued")), whole(response("completed", TOLD)))
    body = {"model": MODEL, "input": "hi", "background": True, "max_output_tokens": 100}
    await world.call(body, "/v1/responses", key=Key("team"))
    await world.call(b"", "/v1/responses/resp_1", method="GET", key=Key("other"))
    assert ["presumed"] == [row.kind for row in world.store.rows]


async def test_a_stored_stream_that_is_fetched_again_settles_too() -> None:
    """The same with `stream=true`: read while it passes, settled before its end."""
    done = {"type": "response.completed", "response": json.loads(response("completed", TOLD))}
    chunk = b"event: response.completed\ndata: " + json.dumps(done).encode() + b"\n\n"
    world = World(whole(response("queued")), Scripted(headers=SSE, chunks=[chunk]))
    await world.call({"model": MODEL, "input": "hi", "background": True}, "/v1/responses")
    outlet = await world.call(b"", "/v1/responses/resp_1", method="GET", query="stream=true")
    assert (chunk, COST, True) == (outlet.body, world.spent(), world.sound())


async def test_a_response_that_told_its_usage_is_not_charged_again() -> None:
    """Fetching what was settled at its POST costs nothing and changes nothing."""
    world = World(whole(response("completed", TOLD)))
    await world.call({"model": MODEL, "input": "hi"}, "/v1/responses")
    await world.call(b"", "/v1/responses/resp_1", method="GET")
    assert (COST, ["settle"]) == (world.spent(), world.ends())


async def test_what_the_provider_states_wins() -> None:
    """A stated cost is charged where the preset states one, and nowhere else (R-087)."""
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "cost": 0.5}
    known: list[tuple[Provider, str, int]] = [
        (provider("openrouter"), "provider", DOLLAR // 2),
        (provider(), "price_list", COST),
    ]
    for section, source, cost in known:
        world = World(Scripted(headers=JSON, chunks=[answered(usage)]))
        await world.call(chat(model="openai/gpt-4o-mini" if source == "provider" else MODEL), provider=section)
        assert (source, cost) == (world.last.cost_source, world.spent())
