"""What a Responses answer says."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.types import Call, Provider, Quirks, Refusal
from gateway.core.wire.history import answer_hash
from gateway.core.wire.responses_answer import IMAGE_MODEL, Response, failed, gather

PROVIDER = Provider("openai", "openai", "https://x", ("openai-responses",))
CALL = Call(dialect="openai-responses", provider=PROVIDER, kind="metered", edits=frozenset({"add", "local_shell"}))


def _reply(call: Call = CALL, **body):
    return gather(call, json.dumps(body).encode()).reply()


def test_usage_has_its_parts_and_the_tools_beside_it():
    """R-087: tool_usage stands beside usage; a search that is told as none is none; images are billed apart."""
    reply = _reply(
        id="resp_1",
        model="gpt-x",
        status="completed",
        service_tier="priority",
        output=[{"type": "web_search_call", "id": "w"}, {"type": "code_interpreter_call", "id": "c"}],
        usage={
            "input_tokens": 20,
            "input_tokens_details": {
                "cached_tokens": 3,
                "cache_write_tokens": 9,
                "cache_write_tokens_details": {"ttl_12h_tokens": 4},
            },
            "output_tokens": 8,
            "output_tokens_details": {"reasoning_tokens": 5},
        },
        tool_usage={"web_search": {"num_requests": 0}, "image_gen": {"input_tokens": 7, "output_tokens": 70}},
    )
    usage = reply.usage
    assert usage is not None
    assert (20, 8, 3, 9, 4, 5) == (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
    )
    assert 1 == usage.uses["code_interpreter"]
    assert 0 == usage.uses["web_search"]
    assert [(IMAGE_MODEL, 7, 70)] == usage.extra
    assert ("priority", True, True) == (reply.tier, reply.usage_complete, reply.ended)


def test_items_become_calls_and_links():
    """R-100: each message and each call of a client's tool is a link, in order; thoughts and hosted calls are none."""
    reply = _reply(
        status="completed",
        output=[
            {"type": "reasoning", "id": "r"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
            {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a":1}'},
            {"type": "function_call", "call_id": "call_2", "name": "sub", "arguments": "[1"},
            {"type": "custom_tool_call", "call_id": "call_3", "name": "add", "input": "free text"},
            {"type": "local_shell_call", "id": "x", "call_id": "call_4", "action": {"command": ["ls"]}},
        ],
    )
    assert [("add", True, True), ("sub", False, False), ("add", True, None), ("local_shell_call", True, None)] == [
        (call.name, call.known, call.valid) for call in reply.tool_calls
    ]
    calls = [answer_hash("", (f"call_{n}",)) for n in range(1, 5)]
    assert (answer_hash("Let me see.", ()), *calls) == reply.links


def test_a_background_response_is_pending():
    """queued and in_progress tell no usage yet; the finish reason is the provider's own word."""
    queued = _reply(id="resp_1", status="queued", background=True, usage=None)
    assert (True, False, "queued") == (queued.pending, queued.usage_complete, queued.finish_reason)
    part_way = _reply(id="resp_1", status="in_progress", usage={"input_tokens": 1, "output_tokens": 0})
    assert (False, False) == (part_way.pending, part_way.usage_complete)
    cut = _reply(
        status="incomplete",
        incomplete_details={"reason": "max_output_tokens"},
        usage={"input_tokens": 1, "output_tokens": 2},
    )
    assert (False, True, "incomplete:max_output_tokens") == (cut.pending, cut.usage_complete, cut.finish_reason)


def test_a_stated_cost_counts_where_the_preset_states_it():
    """R-087: OpenRouter's cost and xAI's ticks, not anybody's."""
    stating = Provider("openrouter", "openrouter", "https://x", (), quirks=Quirks(states_cost=True))
    call = Call(dialect="openai-responses", provider=stating, kind="metered")
    told: dict[str, Any] = {"status": "completed", "usage": {"input_tokens": 1, "output_tokens": 2, "cost": 0.0000113}}
    assert (11_300, None) == (_reply(call, **told).stated_nusd, _reply(**told).stated_nusd)
    ticks: dict[str, Any] = {
        "status": "completed",
        "usage": {"input_tokens": 1, "output_tokens": 2, "cost_in_usd_ticks": 21},
    }
    assert 3 == _reply(call, **ticks).stated_nusd


def test_a_compaction_tells_its_own_usage():
    """`/responses/compact` has no status, but a usage of its own."""
    reply = _reply(
        id="cmp_1",
        object="response.compaction",
        output=[{"type": "compaction"}],
        usage={"input_tokens": 9, "output_tokens": 3},
    )
    assert (True, None) == (reply.usage_complete, reply.finish_reason)


def test_errors_and_garbage():
    """An error is named by its code; garbage is no answer."""
    assert "bad" == _reply(error={"code": "bad", "type": "t", "message": "m"}).error
    assert not gather(CALL, b"<html>").reply().ended
    assert None is gather(CALL, b'{"usage":7,"output":"x","id":[]}').reply().usage


def test_a_cut_is_a_failed_response_under_its_own_id():
    """R-086: the response's id and model, the refusal's code, type and details."""
    said = json.loads(
        failed(Response(id="resp_1", model="m", created_at=5.0), 12, Refusal(402, "insufficient_quota", "No."))
    )
    assert ("response.failed", 12) == (said["type"], said["sequence_number"])
    response = said["response"]
    assert ("resp_1", "m", "failed", 5.0) == (
        response["id"],
        response["model"],
        response["status"],
        response["created_at"],
    )
    assert ["code", "message", "type", "details"] == list(response["error"])
    assert ("insufficient_quota", "budget_exceeded") == (response["error"]["code"], response["error"]["type"])
