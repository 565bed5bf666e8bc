"""What an Anthropic answer says."""

from __future__ import annotations

import json

from gateway.core.types import Refusal
from gateway.core.wire.anthropic_answer import Gathered, anthropic_error, gather


def _message(**usage):
    return {
        "id": "msg_1",
        "type": "message",
        "model": "claude-x",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": usage,
    }


def test_input_is_the_sum_of_its_three_parts():
    """R-087: this API leaves cached and cache-written tokens out of input_tokens."""
    told = gather(
        _message(
            input_tokens=5,
            cache_creation_input_tokens=30,
            cache_read_input_tokens=200,
            cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            output_tokens=7,
            output_tokens_details={"thinking_tokens": 3},
        ),
        "",
    ).reply(None)
    assert told.usage is not None
    assert (235, 7, 200, 30, 20, 3) == (
        told.usage.input_tokens,
        told.usage.output_tokens,
        told.usage.cache_read_tokens,
        told.usage.cache_write_tokens,
        told.usage.cache_write_1h_tokens,
        told.usage.reasoning_tokens,
    )
    assert (True, True) == (told.usage_complete, told.ended)


def test_a_null_does_not_take_back_what_was_told():
    """R-087: usage is cumulative; a field keeps its last value that isn't null."""
    answer = Gathered("")
    answer.begin(_message(input_tokens=8, cache_read_input_tokens=2, output_tokens=1))
    answer.merge({"input_tokens": None, "cache_read_input_tokens": 5, "output_tokens": 9})
    usage = answer.reply(None).usage
    assert usage is not None
    assert (13, 9) == (usage.input_tokens, usage.output_tokens)


def test_a_raised_cache_write_without_split_counts_as_asked():
    """message_delta may raise the total without a split: what isn't covered counts at the lifetime that was asked."""
    for dearest, hour in (("1h", 50), ("5m", 20)):
        answer = Gathered(dearest)
        answer.begin(_message(cache_creation_input_tokens=20, cache_creation={"ephemeral_1h_input_tokens": 20}))
        answer.merge({"cache_creation_input_tokens": 50, "output_tokens": 1, "input_tokens": None})
        usage = answer.reply(None).usage
        assert usage is not None
        assert (50, hour) == (usage.cache_write_tokens, usage.cache_write_1h_tokens)


def test_tokens_billed_apart_are_extra():
    """Compaction and advisor tokens are in no top-level field; a fallback's are extra only where the sums say so."""
    entries = [
        {"type": "message", "input_tokens": 10, "output_tokens": 4},
        {"type": "compaction", "input_tokens": 90, "output_tokens": 9},
        {
            "type": "advisor_message",
            "model": "claude-big",
            "input_tokens": 20,
            "cache_read_input_tokens": 5,
            "output_tokens": 6,
        },
        {"type": "fallback_message", "model": "claude-old", "input_tokens": 11, "output_tokens": 3},
    ]
    apart = gather(_message(input_tokens=10, output_tokens=4, iterations=entries), "").reply(None).usage
    within = gather(_message(input_tokens=21, output_tokens=7, iterations=entries), "").reply(None).usage
    assert apart is not None and within is not None
    assert [("claude-x", 90, 9), ("claude-big", 25, 6), ("claude-old", 11, 3)] == apart.extra
    assert [("claude-x", 90, 9), ("claude-big", 25, 6)] == within.extra


def test_uses_are_those_that_are_billed():
    """The bill's figure wins over the blocks, also where it is 0; kinds without a figure are counted."""
    body = _message(
        input_tokens=1, output_tokens=1, server_tool_use={"web_search_requests": 2, "web_fetch_requests": 0}
    )
    body["content"] = [
        {"type": "server_tool_use", "id": "s", "name": name, "input": {}}
        for name in ("web_search", "web_fetch", "bash_code_execution", "tool_search_tool_bm25")
    ] + [{"type": "mcp_tool_use", "id": "m", "name": "ask", "input": {}}]
    usage = gather(body, "").reply(None).usage
    assert usage is not None
    assert {"web_search": 2, "code_execution": 1, "tool_search": 1, "mcp": 1} == usage.uses


def test_arguments_are_judged_when_their_block_is_closed():
    """No arguments are an empty object; an open block is not judged; blanks don't change a digest."""
    answer = Gathered("")
    for index, pieces in enumerate((['{"a":', " 1}"], [], ["[1"], ['{"a":'])):
        answer.open(index, {"type": "tool_use", "id": f"toolu_{index}", "name": "add", "input": {}})
        for piece in pieces:
            answer.say(index, piece)
    for index in range(3):
        answer.close(index)
    calls = answer.reply(frozenset({"add"})).tool_calls
    assert [True, True, False, None] == [call.valid for call in calls]
    whole = {"content": [{"type": "tool_use", "id": "t", "name": "other", "input": {"a": 1}}]}
    (same,) = gather(whole, "").reply(frozenset({"add"})).tool_calls
    assert (calls[0].digest, False) == (same.digest, same.known)


def test_visible_output_is_counted_and_taken_once():
    """Text, thoughts and arguments count in UTF-8 bytes; `take` gives each piece once."""
    answer = Gathered("")
    answer.open(0, {"type": "text", "text": ""})
    answer.say(0, "é")
    answer.say(7, "x")
    assert (3, "éx", "") == (answer.output_bytes, answer.take(), answer.take())


def test_nonsense_is_no_answer():
    """Values of other kinds are not told, and an error is named by its type."""
    assert not gather([1], "").ended
    odd = gather({"id": 7, "content": "x", "usage": {"input_tokens": "9", "output_tokens": True}}, "").reply(None)
    assert (None, None, False) == (odd.response_id, odd.usage, odd.usage_complete)
    assert "overloaded_error" == gather({"type": "error", "error": {"type": "overloaded_error"}}, "").error


def test_a_refusal_has_the_type_of_its_status():
    """Http.md section 3, the types of this API."""
    types = {
        400: "invalid_request_error",
        402: "billing_error",
        403: "permission_error",
        429: "rate_limit_error",
        500: "api_error",
    }
    for status, kind in types.items():
        said = json.loads(anthropic_error(Refusal(status, "some_code", "Words.", run_id="r")))
        assert ("error", ["type", "code", "message", "details"]) == (said["type"], list(said["error"]))
        assert (kind, "some_code", "r") == (
            said["error"]["type"],
            said["error"]["code"],
            said["error"]["details"]["run_id"],
        )
