"""What the families share: odd values become text, media lose their bytes, nothing raises."""

from __future__ import annotations

from typing import Any

from gateway.core.wire import content


def test_lists_and_values_stand_as_they_stood() -> None:
    """Raw values, so that a known one need not be read; a single value is a list of one, null is none."""
    assert (b'{"a":  1}', b"2") == content.items(b'[{"a":  1}, 2]')
    assert (b'"x"',) == content.items(b'"x"')
    assert () == content.items(b"") == content.items(b"null")


def test_a_body_that_is_none_has_nothing() -> None:
    """Garbage, another type, a byte order mark in front."""
    for body in (b"", b"[]", b"{", b"\xff"):
        assert b"" == bytes(content.read_body(body).messages)
    assert b"[1]" == bytes(content.read_body(b'\xef\xbb\xbf{"messages": [1], "x": 2}').messages)


def test_media_are_measured_not_kept() -> None:
    """Nobody can redact a picture: a data URL gives its kind and size, an address stays."""
    held = "data:image/png;base64," + "QUJD" * 100
    assert {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "", "size_bytes": 300} == (
        content.media("image", held)
    )
    assert {"type": "uri", "modality": "image", "uri": "https://x/y.png"} == content.media("image", "https://x/y.png")
    assert {"type": "file", "modality": "document", "file_id": "f1"} == content.media("document", None, "f1")


def test_arguments_that_are_json_stand_as_values() -> None:
    """So that their fields can be judged by name; half of them, or plain text, stay text."""
    assert {"a": 1} == content.tool_call("i", "f", '{"a": 1}')["arguments"]
    assert '{"a": ' == content.tool_call("i", "f", '{"a": ')["arguments"]
    assert "plain" == content.tool_call("i", "f", "plain")["arguments"]
    assert "arguments" not in content.tool_call(None, "f", None)


def test_roles_are_the_contracts() -> None:
    """Four roles; others speak as the user."""
    given: tuple[Any, ...] = (
        "system",
        "developer",
        "user",
        "assistant",
        "model",
        "tool",
        "function",
        "critic",
        None,
        7,
        [],
    )
    roles = [content.message(role, [])["role"] for role in given]
    assert ["system", "system", "user", "assistant", "assistant", "tool", "tool", *["user"] * 4] == roles


def test_texts_are_joined_only_where_all_are() -> None:
    """A result of blocks is one text; with a picture among them it stays a list."""
    assert "a\nb" == content.texts([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}])
    assert content.texts([{"type": "text", "text": "a"}, {"type": "image"}]) is None
    assert content.texts("a") is None and content.texts([]) is None


def test_a_long_stream_is_read_with_rests() -> None:
    """Whoever else needs the interpreter gets it in between."""
    rests: list[int] = []
    found = list(content.events(b'data: {"a": 1}\n\n' * 200 + b"data: [DONE]\n\n: x\n\n", lambda: rests.append(1)))
    assert (200, 3) == (len(found), len(rests))
