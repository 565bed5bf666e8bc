"""Scripts: words that are tokens, limits that hold, knobs that a request may turn."""

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.script import WORDS, Prompt, Script, answer, script_for, tokens_of

RANKS = Path(__file__).resolve().parents[2] / "../shared/tiktoken"


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_every_word_is_one_token(encoding, monkeypatch):
    """The script counts words, and a tokenizer counts the same."""
    if not RANKS.exists():
        pytest.skip("../shared is missing: no rank files")
    monkeypatch.setitem(os.environ, "TIKTOKEN_CACHE_DIR", str(RANKS.resolve()))
    import tiktoken

    said = "".join(WORDS * 3)
    assert len(WORDS) * 3 == len(tiktoken.get_encoding(encoding).encode(said))


@given(st.none() | st.integers(0, 400), st.integers(0, 300), st.integers(0, 100), st.integers(-1, 2), st.booleans())
def test_an_answer_keeps_to_its_limit(limit, words, thoughts, steps, tools):
    """Reasoning, text and tool arguments together never exceed the limit; `length` says that it cut something off."""
    prompt = Prompt("m", False, 10, limit, ("look",) if tools else ())
    script = Script(output_tokens=words, reasoning_tokens=thoughts, tool_steps=steps)
    said = answer(prompt, script, 1)
    if limit is not None:
        assert limit >= said.output_tokens
    wants_tool = tools and steps != 0
    cut = len(said.words) < words or said.reasoning_tokens < thoughts or (wants_tool and said.tool is None)
    assert ("length" == said.finish) == cut
    assert (not cut and said.tool is not None) == ("tool" == said.finish)


def test_a_request_may_turn_knobs():
    """The header's knobs lie over the script; unknown ones and wrong types are refused."""
    assert Script(output_tokens=5, gap_s=0.5) == script_for(Script(gap_s=0.5), '{"output_tokens": 5}')
    assert Script() == script_for(Script(), None)
    for wrong in ('{"outputs": 1}', '{"gap_s": "x"}', "[]", "x"):
        with pytest.raises(msgspec.MsgspecError):
            script_for(Script(), wrong)


@given(st.binary(max_size=200))
def test_input_tokens_never_exceed_bytes(body):
    """A token is at least a byte, so that the gateway's bound is sound; nothing is free."""
    assert 1 <= tokens_of(body) <= max(1, len(body))


def test_answers_are_the_same_again():
    """No chance in a script."""
    prompt = Prompt("m", True, 10)
    first, again = (hashlib.sha256(repr(answer(prompt, Script(), 7)).encode()).hexdigest() for _ in range(2))
    assert first == again


def test_no_tool_is_called_where_none_may_be():
    """Tools that are listed but barred are left alone: the answer is text."""
    prompt = Prompt("m", False, 10, tools=("search",), tools_barred=True)
    said = answer(prompt, Script(tool_steps=-1), 1)
    assert said.tool is None
    assert "stop" == said.finish
