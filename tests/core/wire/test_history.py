"""Messages are known again by their hashes, and read once each."""

from __future__ import annotations

import json
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Undecodable
from gateway.core.wire.history import (
    Memo,
    answer_hash,
    chain,
    distinct,
    fold,
    growth,
    message_hash,
    prose_ids,
    text_hash,
)


def test_an_answer_hashes_as_it_is_quoted():
    """Blanks at both ends and thoughts in front are not part of it; text and ids are."""
    said = answer_hash("hello", ["call_1"])
    assert said == answer_hash(" \n hello\n", ["call_1"])
    assert said == answer_hash("<think>\nhm\n</think>\n\nhello", ["call_1"])
    assert said not in (answer_hash("hello", []), answer_hash("hello!", ["call_1"]), answer_hash("hello", ["call_2"]))
    assert answer_hash("<think>never closed", []) != answer_hash("", [])


def test_volatile_marks_do_not_count():
    """A cache mark that moves on, and the list it hangs on, leave the message the same."""
    plain = message_hash("user", "hi")
    assert plain == message_hash("user", [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}])
    assert plain != message_hash("system", "hi")
    image = {"type": "image_url", "image_url": {"url": "u"}}
    assert message_hash("user", [image]) == message_hash("user", [{**image, "cache_control": {}}])
    assert message_hash("user", [image]) != message_hash("user", [])


@given(st.lists(st.integers(0, 2**64 - 1), max_size=6), st.lists(st.integers(0, 2**64 - 1), max_size=3))
def test_a_chain_grows_at_its_end(links, more):
    """A longer conversation begins with the chain of the shorter one; each step is a fold."""
    short, long = chain(links), chain(links + more)
    assert short == long[: len(links)]
    if more:
        assert fold(short[-1] if short else 0, more[0]) == long[len(links)]


def test_a_message_is_read_once():
    """The same bytes are decoded once, other bytes anew."""
    asked: list[bytes] = []
    memo: Memo[int] = Memo()

    def read(raw: bytes) -> int:
        asked.append(raw)
        return len(raw)

    assert [3, 3, 4] == [memo.look(raw, read) for raw in (b'"a"', b'"a"', b'"ab"')]
    assert [b'"a"', b'"ab"'] == asked


def test_the_memo_is_bounded():
    """It keeps the newest; what it forgot is read again."""
    memo: Memo[bytes] = Memo(most=2)
    for raw in (b"1", b"2", b"3"):
        memo.look(raw, bytes)
    assert 2 == len(memo)
    assert b"1" == memo.look(b"1", bytes)
    assert 2 == len(memo)


def test_an_unsound_message_is_refused_before_it_is_read():
    """Too deep or broken UTF-8 never reaches the reader, and is not remembered."""
    memo: Memo[bytes] = Memo()
    for raw in (b"[" * 63 + b"]" * 63, b'"\xff"'):
        with pytest.raises(Undecodable):
            memo.look(raw, bytes)
    assert 0 == len(memo)


def test_ids_in_prose_are_found():
    """smolagents writes calls into the text: by their look, or by their label, in order."""
    raw = b'{"content":"[{\'id\': \'D681PevKs\'}] then \\"id\\": \\"x9y8z7w6\\" and toolu_01Abcdef, call_0a1b2c3d4e"}'
    assert ["D681PevKs", "x9y8z7w6", "toolu_01Abcdef", "call_0a1b2c3d4e"] == prose_ids(raw)
    assert [] == prose_ids(b'{"content":"call me"}')


def test_field_names_are_no_ids():
    """`tool_call_id` and `call_id` stand in every tool message: taken for ids they would join all runs."""
    assert ["call_1a2b3c"] == prose_ids(b'{"tool_call_id":"call_1a2b3c","call_id":"x","name":"call_center_agent"}')
    assert [] == prose_ids(b'{"content":"recall_12345678 tool_call_12345678"}')


def test_ids_of_one_message_are_bounded():
    """A message full of ids yields a bounded number."""
    assert 256 == len(prose_ids(b" call_abcdef12" * 1000))


def test_growth_is_the_worst_that_normalising_adds():
    """ASCII adds nothing; U+FDFA grows from 3 bytes to 33, escaped from 6 to 33 (ledger.md section 5)."""
    assert 0 == growth(b'"plain"')
    assert 0 == growth('"é"'.encode())
    assert 30 == growth('"\ufdfa"'.encode())
    assert 27 == growth(b'"\\ufdfa"')


@given(st.text(max_size=30))
def test_growth_never_errs_low(text):
    """bytes + growth bounds the text after NFKC."""
    for raw in (json.dumps(text).encode(), json.dumps(text, ensure_ascii=False).encode()):
        assert len(normalize("NFKC", text).encode()) <= len(raw) + growth(raw)


def test_small_things():
    """Names keep their order; a lone surrogate hashes like any text."""
    assert ("b", "a") == distinct(["b", "a", "b"])
    assert text_hash("x") == text_hash(b"x")
    assert text_hash("\ud800") != text_hash("")
