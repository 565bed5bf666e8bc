"""The parts of an Anthropic request."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Undecodable
from gateway.core.types import Hosted
from gateway.core.wire import anthropic_request as request
from gateway.core.wire.body import read_object, splice
from gateway.core.wire.history import answer_hash


def _read(**message):
    return request.read_message(json.dumps(message).encode())


def test_an_answer_hashes_by_its_text_and_calls():
    """What a client drops or adds when it quotes an answer (thoughts, cache marks) doesn't change its hash."""
    text = {"type": "text", "text": "It is 4."}
    use = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    whole = _read(role="assistant", content=[{"type": "thinking", "thinking": "hm", "signature": "s"}, text, use])
    bare = _read(role="assistant", content=[{**text, "cache_control": {"type": "ephemeral"}}, use])
    assert answer_hash("It is 4.", ["toolu_1"]) == whole.hash == bare.hash
    assert (True, ("toolu_1",), "", "5m") == (whole.answer, whole.ids, whole.cache_write, bare.cache_write)


def test_a_user_message_hashes_alike_as_string_and_as_list():
    """Clients change a string to a list to hang a cache mark on it."""
    plain = _read(role="user", content="hi")
    marked = _read(role="user", content=[{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}])
    assert plain.hash == marked.hash
    assert plain.hash != _read(role="user", content="ho").hash


def test_a_tool_result_is_believed_by_its_flag():
    """R-100: `is_error` decides; a text that sounds like an error does not."""
    block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Error: no such file"}
    (silent,) = _read(role="user", content=[block]).results
    (flagged,) = _read(role="user", content=[{**block, "is_error": True}]).results
    assert (False, True) == (silent.is_error, flagged.is_error)
    assert ("toolu_1", 19, silent.digest) == (flagged.tool_call_id, flagged.size_bytes, flagged.digest)


def test_media_is_taken_out_of_the_text():
    """Base64 is no text; an image has a greatest size wherever it lies, a document elsewhere may fill the window."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 80}}
    inside = {"type": "tool_result", "tool_use_id": "t", "content": [image, image]}
    found = _read(role="user", content=[image, inside])
    assert (3, 240, False, False) == (found.images, found.media_bytes, found.media, found.unseen)
    linked = _read(role="user", content=[{"type": "image", "source": {"type": "url", "url": "https://x"}}])
    assert (1, False) == (linked.images, linked.unseen)
    for source in ({"type": "url", "url": "https://x"}, {"type": "file", "file_id": "f"}):
        assert _read(role="user", content=[{"type": "document", "source": source}]).unseen
    written = _read(role="user", content=[{"type": "document", "source": {"type": "text", "data": "words"}}])
    assert (False, False, 0) == (written.media, written.unseen, written.media_bytes)


def test_tools_are_told_apart_by_who_runs_them():
    """Client tools by name, the provider's own by kind, with their caps."""
    tools = [
        {"name": "add", "input_schema": {}},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": None},
        {"type": "code_execution_20260120", "name": "code_execution"},
        {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": "oracle_20270101", "name": "oracle"},
    ]
    offer = request.read_tools(json.dumps(tools).encode())
    assert ("add", "bash") == offer.names
    assert (
        Hosted("web_search", 3, True),
        Hosted("web_fetch", None, True),
        Hosted("code_execution", None, False),
        Hosted("tool_search", request.SEARCHES, False),
        Hosted("mcp", None, False),
        Hosted("oracle", None, False),
    ) == offer.hosted
    assert offer.sets


@pytest.mark.parametrize("tools", [b'[{"type":"web_search_20250305","type":"custom"}]', b"[1]", b"{}"])
def test_tools_with_two_readings_are_refused(tools):
    """A repeated key could hide a tool that costs money."""
    with pytest.raises(Undecodable):
        request.read_tools(tools)


def test_what_works_beside_the_tools_counts_as_hosted():
    """MCP servers, fallback models and compaction are work that no output limit bounds."""
    body = b'{"mcp_servers":[{}],"fallbacks":"default","context_management":{"edits":[{"type":"compact_20260112"}]}}'
    assert ["mcp", "fallback", "compaction"] == [tool.kind for tool in request.beside(read_object(body))]
    assert [] == request.beside(read_object(b'{"mcp_servers":[],"context_management":{"edits":[]}}'))


def test_a_cache_mark_counts_at_its_dearest():
    """One mark of an hour makes the whole request an hour; a key that is spelled with escapes counts as the dearest."""
    assert "" == request.cache_write(b'{"a":"b"}')
    assert "5m" == request.cache_write(b'{"cache_control":{"type":"ephemeral"}}')
    assert "1h" == request.cache_write(b'{"cache_control":{"type":"ephemeral","ttl":"1h"}}')
    assert "1h" == request.cache_write(b'{"cache\\u005fcontrol":{}}')
    assert "" == request.cache_write(b'{"a":"\\u001b[1m"}')


@pytest.mark.parametrize(
    ("user", "session"),
    [
        ("user_ab_account_cd_session_7f9e", "7f9e"),
        ('{"device_id":"d","session_id":"s-1"}', "s-1"),
        ('{"device_id":"d"}', None),
        ("{broken", None),
        ("someone", None),
    ],
)
def test_a_session_is_read_from_the_user_id(user, session):
    """Both spellings of Claude Code name the session."""
    assert session == request.session_of(read_object(json.dumps({"metadata": {"user_id": user}}).encode()))


def _lowered(body, limit):
    raw = json.dumps(body).encode()
    return json.loads(splice(raw, request.lowered(read_object(raw), limit)))


def test_a_lowered_limit_takes_the_thinking_budget_along():
    """R-086: 1024 <= budget_tokens < max_tokens holds after the clamp."""
    body = {"max_tokens": 9000, "thinking": {"type": "enabled", "budget_tokens": 8000}}
    assert {"max_tokens": 8500, "thinking": {"type": "enabled", "budget_tokens": 8000}} == _lowered(body, 8500)
    assert {"max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2744}} == _lowered(body, 3000)
    assert {"max_tokens": 1100, "thinking": {"type": "enabled", "budget_tokens": 1024}} == _lowered(body, 1100)
    with pytest.raises(Undecodable) as refused:
        _lowered(body, 1024)
    assert (402, "insufficient_quota") == (refused.value.status, refused.value.code)


def test_a_limit_is_only_lowered():
    """A limit below the grant stays; an absent one is added."""
    assert {"max_tokens": 5} == _lowered({"max_tokens": 5}, 9)
    assert {"max_tokens": 9} == _lowered({}, 9)


def test_caps_go_to_tools_without_one():
    """Only tools that know max_uses get it; the rest of the body keeps its bytes."""
    raw = (
        b'{ "tools": [{"type":"web_search_20250305","name":"w"}, {"type":"web_fetch_20250910","max_uses":null},'
        b'{"name":"a"},{"type":"web_search_20250305","max_uses":1}] }'
    )
    expected = raw.replace(b'"name":"w"', b'"name":"w","max_uses":4').replace(b"null", b"4")
    assert expected == splice(raw, request.capped(read_object(raw), 4))
