"""The request fields that the OpenAI formats share, and their rewriting by splice."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Undecodable
from gateway.core.types import Call, Edits, Provider, Quirks
from gateway.core.wire.body import read_object
from gateway.core.wire.history import Memo
from gateway.core.wire.openai_request import Note, asks_usage, check_fields, read_limits, read_model, rewrite

OPENAI = Provider("openai", "openai", "https://x", ("openai-chat",), quirks=Quirks(usage_option=True))
OTHER = Provider("t", "together", "https://x", ("openai-chat",))


def call_of(raw: bytes, provider: Provider = OPENAI, thinking=()) -> Call:
    """A call with the note that rewrite needs."""
    fields = read_object(raw)
    return Call("openai-chat", provider, "metered", edits=Note(fields, read_limits(fields), thinking))


def clamp(raw: bytes, most: int | None, ask: bool = False, provider: Provider = OPENAI, thinking=()) -> bytes:
    """The body after rewrite."""
    return rewrite(call_of(raw, provider, thinking), raw, Edits(most, ask))


@pytest.mark.parametrize(
    ("raw", "out"),
    [
        (b'{"max_tokens": 900, "n":1}', b'{"max_tokens": 50, "n":1}'),
        (b'{"max_tokens":9,"max_completion_tokens":900}', b'{"max_tokens":9,"max_completion_tokens":50}'),
        (b'{"max_tokens":99,"max_completion_tokens":900}', b'{"max_tokens":50,"max_completion_tokens":50}'),
        (b'{"n":1}', b'{"n":1,"max_completion_tokens":50}'),
        (b'{"max_completion_tokens":null}', b'{"max_completion_tokens":50}'),
        (b'{"max_tokens":10}', b'{"max_tokens":10}'),
    ],
)
def test_the_limit_is_lowered_under_every_name(raw, out):
    """Both names where both are given; never raised; added under the preset's name where none is."""
    assert out == clamp(raw, 50)


def test_the_added_name_is_the_presets():
    """Together knows max_tokens; a quirk decides where it is set."""
    assert b'{"n":1,"max_tokens":5}' == clamp(b'{"n":1}', 5, provider=OTHER)
    quirky = Provider("m", "openai", "https://x", (), quirks=Quirks(output_field="max_tokens"))
    assert b'{"n":1,"max_tokens":5}' == clamp(b'{"n":1}', 5, provider=quirky)


@pytest.mark.parametrize(
    ("raw", "out"),
    [
        (b'{"a":1}', b'{"a":1,"stream_options":{"include_usage":true}}'),
        (b'{"stream_options": null ,"a":1}', b'{"stream_options": {"include_usage":true} ,"a":1}'),
        (b'{"stream_options":{ "x" : 1 }}', b'{"stream_options":{ "x" : 1,"include_usage":true }}'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":false}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":true}}', b'{"stream_options":{"include_usage":true}}'),
    ],
)
def test_usage_is_asked_for_in_place(raw, out):
    """Also where the client said no (ledger.md section 5)."""
    assert out == clamp(raw, None, ask=True)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers() | st.text(max_size=3), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_everything_else_stays(value, clamped, asked):
    """Two additions at once keep valid JSON, the other values and their order."""
    raw = json.dumps(value).encode()
    out = json.loads(clamp(raw, 7 if clamped else None, ask=asked))
    added = {
        **({"max_completion_tokens": 7} if clamped else {}),
        **({"stream_options": {"include_usage": True}} if asked else {}),
    }
    assert list({**value, **added}.items()) == list(out.items())


def test_nothing_to_do_gives_the_same_object():
    """Untouched bytes are not even copied."""
    raw = b'{"max_tokens":5}'
    assert raw is clamp(raw, 9)
    assert raw is clamp(raw, None)


def test_a_thinking_budget_stays_below_the_limit():
    """Claude behind a chat endpoint wants it so (wire-formats.md section 1)."""
    raw = b'{"max_tokens":9000,"thinking":{"type":"enabled","budget_tokens":4000}}'
    out = clamp(raw, 2000, thinking=(("thinking", "budget_tokens", 4000),))
    assert b'{"max_tokens":2000,"thinking":{"type":"enabled","budget_tokens":1999}}' == out
    assert b"4000" in clamp(raw, 5000, thinking=(("thinking", "budget_tokens", 4000),))


@pytest.mark.parametrize(
    ("raw", "out"),
    [
        (b'{"tools":[{}]}', b'{"tools":[{}],"tool_choice":"none"}'),
        (b'{"tool_choice":"required","tools":[{}]}', b'{"tool_choice":"none","tools":[{}]}'),
        (
            b'{"tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":true,"tools":[{}]}',
            b'{"tool_choice":"none","parallel_tool_calls":true,"tools":[{}]}',
        ),
        (b'{"functions":[{}],"function_call":{"name":"f"}}', b'{"functions":[{}],"function_call":"none"}'),
        (b'{"tools":[ ]}', b'{"tools":[ ]}'),
        (b'{"response_format":{"type":"json_object"}}', b'{"response_format":{"type":"json_object"}}'),
    ],
)
def test_a_last_call_may_not_use_the_tools_that_it_lists(raw, out):
    """`tool_choice` (of old `function_call`) none; OpenAI refuses it where no tools are listed."""
    assert out == rewrite(call_of(raw), raw, Edits(last=True))


def test_the_model_is_named_where_the_clients_stood():
    """Everything else in its own spelling; a name is spelled as JSON."""
    raw = b'{"n":1, "model" : "a", "max_tokens":9}'
    assert b'{"n":1, "model" : "b/\\"c", "max_tokens":4}' == rewrite(call_of(raw), raw, Edits(4, model='b/"c'))


def test_another_body_is_read_again():
    """Spans belong to the bytes they were found in."""
    call = call_of(b'{"max_tokens":100}')
    assert b'{"x":1,"max_tokens":5}' == rewrite(call, b'{"x":1,"max_tokens":100}', Edits(5))


@pytest.mark.parametrize("model", ["gpt-4o", "@cf/meta/llama-3.3", "anthropic/claude:free", "a" * 200])
def test_short_tokens_are_models(model):
    """Letters, digits and . _ : / @ - up to 200 characters (security.md section 2)."""
    assert model == read_model(read_object(json.dumps({"model": model}).encode()), "/v1/chat/completions")


@pytest.mark.parametrize("model", ["", "a" * 201, "a b", "a\n", "ä", None, 5, {}])
def test_other_models_are_refused(model):
    """Missing, too long, with other characters, of another kind: 400 naming the field."""
    with pytest.raises(Undecodable, match="`model`"):
        read_model(read_object(json.dumps({"model": model}).encode()), "/v1/chat/completions")


def test_a_deployment_in_the_path_is_the_model():
    """Azure's path names it, and wins over the body (wire-formats.md section 1)."""
    path = "/openai/deployments/gpt-4o-mini/chat/completions"
    assert "gpt-4o-mini" == read_model(read_object(b"{}"), path)
    assert "gpt-4o-mini" == read_model(read_object(b'{"model":"other"}'), path)
    with pytest.raises(Undecodable):
        read_model(read_object(b"{}"), "/openai/deployments/a b/chat/completions")


def test_usage_options_are_read_strictly():
    """A repeated key inside would be read apart by two parsers; no object at all is refused."""
    assert asks_usage(read_object(b'{"stream_options":{"include_usage":true}}'))
    assert not asks_usage(read_object(b'{"stream_options":null}'))
    for raw in (b'{"stream_options":[]}', b'{"stream_options":{"include_usage":true,"include_usage":false}}'):
        with pytest.raises(Undecodable):
            asks_usage(read_object(raw))


def test_every_field_is_checked_and_weighed():
    """Depth and UTF-8 of values that nobody reads; what NFKC may add to them."""
    memo: Memo[int] = Memo()
    assert 30 == check_fields(read_object('{"x":"\ufdfa","messages":"\ufdfa"}'.encode()), memo, ("messages",))
    with pytest.raises(Undecodable, match="deeper"):
        check_fields(read_object(b'{"x":' + b"[" * 64 + b"]" * 64 + b"}"), memo)
    check_fields(read_object(b'{"x":' + b"[" * 63 + b"]" * 63 + b"}"), memo)
    with pytest.raises(Undecodable, match="UTF-8"):
        check_fields(read_object(b'{"x":"\xff"}'), memo)
