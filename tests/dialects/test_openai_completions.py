"""Completions of old: a prompt, many answers, no conversation."""

from __future__ import annotations

import json

import pytest

from gateway.core.types import Call, Edits, Inbound, Labels, Provider, Refusal
from gateway.dialects.openai_completions import OpenAICompletions

OPENAI = Provider("openai", "openai", "https://x", ("openai-completions",))


def decode(method: str = "POST", **fields: object) -> Call:
    """The call that these fields make."""
    body = json.dumps({"model": "m", **fields}).encode()
    path = "/v1/completions"
    return OpenAICompletions().decode(Inbound(method, None, path, path, "", (), body, Labels(), "t", None, 0.0), OPENAI)


def test_chats_are_not_ours():
    """Only the end /completions without /chat in front."""
    dialect = OpenAICompletions()
    assert dialect.matches("POST", "/v1/completions") and dialect.matches("POST", "/v1/fim/completions")
    assert not dialect.matches("POST", "/v1/chat/completions")
    assert "free" == decode("GET").kind


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"prompt": "x"}, 1),
        ({"prompt": "x", "n": 2, "best_of": 5}, 5),
        ({"prompt": ["a", "b", "c"], "n": 2}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]]}, 2),
        ({}, 1),
    ],
)
def test_output_is_multiplied(fields, choices):
    """max(n, best_of) for each prompt of a list; token ids are one prompt (wire-formats.md section 1)."""
    assert choices == decode(**fields).size.choices


def test_an_absent_limit_is_not_asked():
    """16 is OpenAI's own default, not the client's word; the clamp adds max_tokens, the only name here."""
    call = decode(prompt="x")
    assert ("text_completion", None) == (call.operation, call.size.asked_output)
    out = OpenAICompletions().rewrite(call, call.edits.fields.body, Edits(9, True, last=True, model="n"))
    assert {"model": "n", "prompt": "x", "max_tokens": 9} == json.loads(out)


def test_usage_is_not_asked_for():
    """http.md section 2: only on chat streams."""
    call = decode(prompt="x", stream=True)
    assert call.edits.fields.body is OpenAICompletions().rewrite(call, call.edits.fields.body, Edits(ask_usage=True))


def test_an_echo_is_not_metered():
    """The request's own text comes back first; the cut must not count it."""
    dialect, call = OpenAICompletions(), decode(prompt="hello", echo=True)
    raw = json.dumps({"choices": [{"index": 0, "text": "hello you", "finish_reason": "stop"}]}).encode()
    assert 4 == dialect.whole(call, 200, raw).output_bytes
    reader = dialect.reader(call, False)
    reader.feed(b"data: " + raw + b"\n\n")
    assert 4 == reader.output_bytes


def test_equal_prompts_are_known_again():
    """First message and chain come from the prompt."""
    assert decode(prompt="a").lineage == decode(prompt="a", n=2).lineage != decode(prompt="b").lineage


def test_refusals_are_openais():
    """The same shape as a chat's."""
    assert b'"code":"x"' in OpenAICompletions().refuse(Refusal(402, "x", "m"))
    assert OpenAICompletions().own_error(b'{"error":{}}')
