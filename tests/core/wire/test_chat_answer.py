"""What an answer comes to, from chunks of every provider's habit."""

from __future__ import annotations

import json

import pytest

from gateway.core.types import Call, Provider, Quirks, Reply
from gateway.core.wire.chat_answer import Answer, decode_chunk
from gateway.core.wire.history import answer_hash, text_hash

PLAIN = Quirks()


def call_of(preset: str = "openai", quirks: Quirks = PLAIN) -> Call:
    """A call to hand in; it offers the tool `f`."""
    return Call(
        "openai-chat", Provider(preset, preset, "https://x", (), quirks=quirks), "metered", model="m", tools=("f",)
    )


def answer_of(*chunks: object, call: Call | None = None, ended: bool = True, echoed: int = 0) -> Reply:
    """The reply after these chunks."""
    answer = Answer(call or call_of(), echoed)
    for chunk in chunks:
        decoded = decode_chunk(json.dumps(chunk).encode())
        assert decoded is not None
        answer.take(decoded)
    return answer.reply(ended)


def delta(index: int = 0, finish: str | None = None, **fields: object) -> dict[str, object]:
    """A chunk with one choice."""
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def piece(index: int | None = 0, id_: str | None = None, name: str | None = None, arguments: object = None) -> dict:
    """A chunk with a piece of a tool call."""
    return delta(tool_calls=[{"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}])


def names(reply: Reply) -> list[tuple[str, str]]:
    """(id, name) of each tool call."""
    return [(tool.id, tool.name) for tool in reply.tool_calls]


def test_text_is_joined_and_linked():
    """The answer hashes as the client will quote it."""
    reply = answer_of({"id": "i", "model": "m1"}, delta(content=" he"), delta(content="llo", finish="stop"))
    assert ("i", "m1", "stop", 6) == (reply.response_id, reply.model, reply.finish_reason, reply.output_bytes)
    assert (answer_hash("hello", []),) == reply.links


def test_thoughts_and_refusals_are_output():
    """Whatever their name; two names of the same thoughts count once; UTF-8 bytes, not characters."""
    assert 2 == answer_of(delta(reasoning_content="é")).output_bytes
    assert 2 == answer_of(delta(reasoning="ab", reasoning_content="ab")).output_bytes
    assert 3 == answer_of(delta(refusal="abc")).output_bytes
    assert 4 == answer_of(delta(audio={"transcript": "word", "data": "AAAA"})).output_bytes
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ok"}]
    reply = answer_of(delta(content=parts, finish="stop"))
    assert (4, (answer_hash("ok", []),)) == (reply.output_bytes, reply.links)


def test_tool_calls_are_put_together():
    """Id and name in the first piece, arguments in all; judged as JSON objects and known by the offer."""
    reply = answer_of(
        piece(0, "c1", "f", ""), piece(0, None, None, '{"a"'), piece(1, "c2", "g", "{}"), piece(0, None, None, ":1}")
    )
    assert [("c1", "f"), ("c2", "g")] == names(reply)
    assert [(True, True), (False, True)] == [(tool.known, tool.valid) for tool in reply.tool_calls]
    assert text_hash('{"a":1}') == reply.tool_calls[0].digest
    assert (answer_hash("", ["c1", "c2"]),) == reply.links


def test_parallel_calls_under_one_number_are_apart():
    """Google's compatible endpoint numbers all of them 0; a repeated id is the same call."""
    assert [("a", "f"), ("b", "f")] == names(answer_of(piece(0, "a", "f", "{}"), piece(0, "b", "f", "{}")))
    assert [("a", "f")] == names(answer_of(piece(0, "a", "f", "{"), piece(0, "a", "f", "}")))


def test_calls_without_numbers_are_told_by_their_names():
    """A name begins the next call; what has none goes on with the last."""
    reply = answer_of(piece(None, "a", "f", "{"), piece(None, None, None, "}"), piece(None, "b", "g", "{}"))
    assert [("a", "f"), ("b", "g")] == names(reply)


def test_calls_come_in_the_order_of_the_choices():
    """All choices, the first one's calls first; a link is made of the first choice alone."""
    late = {"choices": [{"index": 1, "delta": {"tool_calls": [{"index": 0, "id": "z", "function": {"name": "f"}}]}}]}
    reply = answer_of(late, piece(0, "a", "f", "{}"))
    assert [("a", "f"), ("z", "f")] == names(reply)
    assert (answer_hash("", ["a"]),) == reply.links


def test_other_kinds_of_calls_are_calls():
    """Custom tools (not judged), the single function_call of old (no id: its name), empty ones are none."""
    custom = delta(tool_calls=[{"index": 0, "id": "c", "custom": {"name": "f", "input": "x y"}}])
    assert [("c", None)] == [(tool.id, tool.valid) for tool in answer_of(custom).tool_calls]
    reply = answer_of(
        delta(function_call={"name": "f", "arguments": '{"a"'}), delta(function_call={"arguments": ":1}"})
    )
    assert ([("f", "f")], True) == (names(reply), reply.tool_calls[0].valid)
    assert [] == names(answer_of(delta(function_call={"name": "", "arguments": ""})))


@pytest.mark.parametrize(
    ("arguments", "valid"), [("", True), ("{}", True), ("[]", False), ('{"a":', False), ({"a": 1}, True)]
)
def test_arguments_are_judged(arguments, valid):
    """An object; nothing at all means none; some providers send it unquoted."""
    assert valid == answer_of(piece(0, "a", "f", arguments)).tool_calls[0].valid


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_usage_is_complete_only_at_the_end():
    """Running figures (vLLM) are no final ones; after every choice has finished, or [DONE], they are."""
    running = {**delta(content="x"), "usage": USAGE}
    assert not answer_of(running, ended=False).usage_complete
    assert not answer_of(running, delta(finish="stop"), ended=False).usage_complete
    assert answer_of(running, ended=True).usage_complete
    assert answer_of(delta(finish="stop"), {"choices": [], "usage": USAGE}, ended=False).usage_complete
    half = [delta(0, "stop"), delta(1, content="x"), {"choices": [], "usage": USAGE}]
    assert not answer_of(*half, ended=False).usage_complete
    assert not answer_of(delta(finish="stop")).usage_complete


def test_groq_tells_usage_in_its_own_place():
    """`x_groq.usage` in the last chunk, asked or not (wire-formats.md section 2)."""
    reply = answer_of(delta(finish="stop"), {"choices": [], "x_groq": {"usage": USAGE}}, ended=False)
    assert reply.usage is not None
    assert (3, 2, True) == (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage_complete)


def test_input_is_told_as_soon_as_it_is_known():
    """A 0 in an early chunk is no figure: the hold must not sink to it."""
    answer = Answer(call_of())
    for prompt, want in ((0, None), (7, 7)):
        chunk = decode_chunk(json.dumps({"usage": {"prompt_tokens": prompt}}).encode())
        assert chunk is not None
        answer.take(chunk)
        assert want == answer.input_told


def test_stated_costs_count_only_where_the_preset_states_them():
    """design.md section 2; a 0 beside tokens needs a reason."""
    told = {"choices": [], "usage": {**USAGE, "cost": 0.5, "is_byok": True}}
    assert None is answer_of(told).stated_nusd
    reply = answer_of(told, call=call_of("openrouter", quirks=Quirks(states_cost=True)))
    assert (500_000_000, True) == (reply.stated_nusd, reply.stated_zero_ok)


def test_hidden_thoughts_are_billed_apart_at_google():
    """Its compatible endpoint leaves them out of completion_tokens; elsewhere a larger total proves nothing."""
    told = {"model": "g", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 12}}
    for preset, extra in (("gemini", [("g", 0, 7)]), ("mistral", [])):
        usage = answer_of(told, call=call_of(preset)).usage
        assert usage is not None
        assert (2, extra) == (usage.output_tokens, usage.extra)


def test_errors_in_band_are_seen():
    """In the chunk (Groq, OpenRouter) or in a choice; nothing is complete by that."""
    assert "tool_use_failed" == answer_of({"error": {"code": "tool_use_failed"}}, ended=False).error
    assert "502" == answer_of({"choices": [{"index": 0, "error": {"code": 502}, "finish_reason": "error"}]}).error


def test_tools_run_by_groq_are_uses():
    """Each once, though a stream repeats it when it is done."""
    tool = {"index": 0, "type": "search"}
    reply = answer_of(delta(executed_tools=[tool]), delta(executed_tools=[{**tool, "output": "x"}]), {"usage": USAGE})
    assert reply.usage is not None
    assert {"search": 1} == reply.usage.uses


def test_an_echo_is_no_output():
    """Completions with `echo` begin with the request's own text, in any cut."""
    chunks = [{"choices": [{"index": 0, "text": text}]} for text in ("Say", " hi: h", "i")]
    assert 2 == answer_of(*chunks, echoed=len("Say hi: ")).output_bytes


@pytest.mark.parametrize("data", [b"", b"1", b"[]", b"{", b"<html>", b'{"id":"\xff"}', b"[" * 100_000])
def test_what_is_no_object_is_no_chunk(data):
    """Garbage is passed over, never an error."""
    assert None is decode_chunk(data)


@pytest.mark.parametrize("choices", ["x", [1], [None], {"a": 1}, [{"delta": 5}], [{"delta": {"tool_calls": {}}}]])
def test_odd_choices_lose_no_usage(choices):
    """Choices of a shape that nobody expects: the rest of the chunk still counts."""
    reply = answer_of({"id": "i", "choices": choices, "usage": USAGE})
    assert reply.usage is not None
    assert ("i", 3) == (reply.response_id, reply.usage.input_tokens)


@pytest.mark.parametrize("field", ["id", "model", "usage", "service_tier", "error", "x_groq"])
@pytest.mark.parametrize("value", [5, "x", [], {}, True])
def test_odd_fields_end_nothing(field, value):
    """No value of any field raises."""
    answer_of(
        {
            field: value,
            "choices": [{"index": value, "delta": {"content": value, "audio": value}, "finish_reason": value}],
        }
    )
