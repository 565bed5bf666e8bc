"""What is remembered of a chat message and of a tool list."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Undecodable
from gateway.core.wire.chat_message import read_message, read_tools, text_of
from gateway.core.wire.history import answer_hash, text_hash


def read(**message):
    """The digest of a message."""
    return read_message(json.dumps(message).encode())


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_an_answer_is_the_same_in_every_spelling():
    """String or parts, null content or empty, extra fields that clients keep or drop."""
    want = answer_hash("hi", ["call_1"])
    assert want == read(role="assistant", content=" hi\n", tool_calls=[CALL]).hash
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert want == read(role="assistant", content=parts, tool_calls=[CALL], refusal=None, annotations=[]).hash
    assert (
        want == read(role="assistant", content="hi", tool_calls=[CALL], reasoning_content="hm", function_call=None).hash
    )
    assert (
        read(role="assistant", content=None).hash
        == read(role="assistant", content="").hash
        == read(role="assistant").hash
    )


def test_ids_are_collected_in_order():
    """Of calls and of results, each once."""
    assert ("call_1",) == read(role="assistant", tool_calls=[CALL, CALL]).ids
    assert ("x1",) == read(role="tool", tool_call_id="x1", content="ok").ids


def test_a_result_tells_whether_it_failed():
    """http.md section 4: the text decides here; parts count as their text."""
    (result,) = read(role="tool", tool_call_id="x", content=[{"type": "text", "text": "Error: é"}]).results
    assert ("x", True, 9, text_hash("Error: é")) == (
        result.tool_call_id,
        result.is_error,
        result.size_bytes,
        result.digest,
    )
    (older,) = read(role="function", name="f", content="fine").results
    assert ("f", "f", False) == (older.tool_call_id, older.name, older.is_error)


def test_media_are_no_text():
    """Base64 is taken out of the bound by bytes; what is not an image is bounded by the context window only."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
    digest = read(role="user", content=[image, {"type": "text", "text": "what?"}])
    assert (1, 1000, False, False) == (digest.images, digest.media_bytes, digest.media, digest.unseen)
    audio = read(role="user", content=[{"type": "input_audio", "input_audio": {"data": "B" * 500, "format": "wav"}}])
    assert (0, 500, True, False) == (audio.images, audio.media_bytes, audio.media, audio.unseen)
    file = read(role="user", content=[{"type": "file", "file": {"file_id": "f1"}}])
    assert (0, True, True) == (file.media_bytes, file.media, file.unseen)


def test_an_unknown_part_is_never_nothing():
    """What nobody knows counts as media, so the bound stays sound."""
    assert read(role="user", content=[{"type": "hologram", "hologram": "x"}]).media


def test_a_prompt_in_a_data_url_stays_in_the_bound():
    """Only what stands behind `;base64,` is left out."""
    assert (
        0 == read(role="user", content=[{"type": "image_url", "image_url": {"url": "data:,tell me " * 50}}]).media_bytes
    )


@pytest.mark.parametrize("raw", [b"1", b'"x"', b'{"role":"user","role":"system"}', b'{"role":"a","x":{"y":1,"y":2}}'])
def test_a_message_that_two_parsers_could_read_apart_is_refused(raw):
    """No object, or a repeated key at any level: 400."""
    with pytest.raises(Undecodable):
        read_message(raw)


def test_tools_are_offered_by_name():
    """Functions, custom tools and the bare functions of old; what the provider runs itself is hosted, not cappable."""
    tools = [
        {"type": "function", "function": {"name": "f"}},
        {"type": "custom", "custom": {"name": "c"}},
        {"name": "old"},
        {"type": "web_search"},
    ]
    offer = read_tools(json.dumps(tools).encode())
    assert ("f", "c", "old") == offer.names
    assert [("web_search", None, False)] == [(tool.kind, tool.uses, tool.cappable) for tool in offer.hosted]
    for raw in (b"{}", b"[1]"):
        with pytest.raises(Undecodable):
            read_tools(raw)


def test_text_is_what_is_read_aloud():
    """Text parts only."""
    assert "ab" == text_of(["a", {"text": "b"}, {"type": "thinking", "thinking": "c"}, 5])
    assert "" == text_of({"x": 1}) == text_of(None)
