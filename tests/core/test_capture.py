"""A scribe reads each message once, writes what is new, and stays within its bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from gateway.core import capture, redact
from gateway.core.capture import KNOWN_MOST, MESSAGES_MOST, TEXT_MOST, TOOLS_MOST, YOUNG_S, Said, Scribe, parts

AT = 1_800_000_000.0


def said(messages: Any, answer: bytes = b"", cut: bool = False, dialect: str = "openai-chat", **more: Any) -> Said:
    """What a call said."""
    field = "input" if dialect == "openai-responses" else "messages"
    return Said("c", "r", dialect, json.dumps({field: messages, **more}).encode(), (answer,), cut)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_what_was_read_before_is_only_hashed() -> None:
    """A history of many messages comes with every call: its texts are made, and handed on, once."""
    rests: list[int] = []
    scribe = Scribe(lambda: rests.append(1))
    history = [user(f"message {number}") for number in range(20)]
    first = scribe.write(said(history), AT)
    assert (20, 20, 20) == (len(first.input), len(first.texts), len(rests))
    second = scribe.write(said([*history, user("one more")]), AT + 1)
    assert first.input == second.input[:20]
    assert (1, 21) == (len(second.texts), len(rests))


def test_what_is_still_said_is_told_again_in_time() -> None:
    """A text is forgotten by its age: each hour it is young again. So it is where the ledger did not write it."""
    scribe = Scribe()
    one = said([user("hi")])
    assert [1, 0, 1, 0] == [len(scribe.write(one, AT + at).texts) for at in (0, YOUNG_S - 1, YOUNG_S, YOUNG_S + 1)]
    assert 1 == len(scribe.write(one, AT - 10).texts), "a clock that was set back makes nothing known for ever"
    scribe.forget()
    assert 1 == len(scribe.write(one, AT).texts)


def test_what_is_known_is_bounded() -> None:
    """Old texts are forgotten first."""
    scribe = Scribe()
    for start in range(0, KNOWN_MOST + MESSAGES_MOST, MESSAGES_MOST):
        scribe.write(said([user(str(start + number)) for number in range(MESSAGES_MOST)]), AT)
    assert KNOWN_MOST == len(scribe._known)
    assert 1 == len(scribe.write(said([user("0")]), AT).texts)
    assert 0 == len(scribe.write(said([user(str(KNOWN_MOST))]), AT).texts)


def test_the_same_bytes_mean_another_thing_elsewhere() -> None:
    """A message and a tool, or two formats, are not mixed up."""
    scribe = Scribe()
    value = {"role": "user", "content": "hi", "name": "x", "type": "message"}
    first = scribe.write(said([value], tools=[value]), AT)
    assert first.input != first.tools
    other = scribe.write(said([value], dialect="openai-responses"), AT)
    assert 1 == len(other.texts), "known to one format is not known to the other"


def test_the_longest_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, tools, one message, a request: what is beyond a bound is left out, and said."""
    scribe = Scribe()
    many = scribe.write(said([user(str(number)) for number in range(MESSAGES_MOST + 5)]), AT)
    assert (MESSAGES_MOST, True) == (len(many.input), many.truncated)
    assert many.input[-1] == scribe.write(said([user(str(MESSAGES_MOST + 4))]), AT).input[0], "the newest stay"
    tools = [{"function": {"name": f"f{number}"}} for number in range(TOOLS_MOST + 1)]
    told = scribe.write(said([], tools=tools), AT)
    assert (TOOLS_MOST, True) == (len(told.tools), told.truncated)
    large = [{"type": "text", "text": f"{number} " * 20_000 + f"sk-{'canary' * 4}"} for number in range(20)]
    wide = scribe.write(said([{"role": "user", "content": large}]), AT)
    (text,) = wide.texts.values()
    assert wide.truncated and len(text.encode()) <= TEXT_MOST and "canary" not in text
    assert "user" == json.loads(text)["role"]
    monkeypatch.setattr(capture, "REQUEST_MOST", 10)
    huge = scribe.write(said([user("hi")]), AT)
    assert ((), True) == (huge.input, huge.truncated)
    assert redact.VERSION == huge.rules


def test_parts_are_the_whole() -> None:
    """Texts first, what names them last; one that is too large alone is a part of its own."""
    content = Scribe().write(said([user("a" * 10), user("b" * 100), user("c" * 10), user("d" * 10)]), AT)
    found = list(parts(content, 150))
    assert [False, False, True] == [part.last for part in found]
    assert content.texts == {name: text for part in found for name, text in part.texts.items()}
    assert content == structs.replace(found[-1], texts=content.texts)
    assert [content] == list(parts(content))


def test_nothing_said_is_printed() -> None:
    """A log line, a traceback: the bytes are counted, not shown."""
    assert "canary" not in repr(said([user("canary")], b"canary"))


def test_half_an_answer() -> None:
    """Of a stream what came; of half a JSON text nothing, and both are said to be cut."""
    scribe = Scribe()
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "hel"}}]}\n\n'
    cut = scribe.write(said([], event + b'data: {"choices": [{"ind', cut=True), AT)
    assert cut.truncated and '"hel"' in "".join(cut.texts.values())
    assert ((), True) == (
        (half := scribe.write(said([], b'{"choices": [{"message": {"content": "h', cut=True), AT)).output,
        half.truncated,
    )


@pytest.mark.parametrize("dialect", sorted(capture.FAMILIES))
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"not json", b'{"messages": 1, "input": 1, "system": 1, "tools": 1, "prompt": 1}',
     b'{"messages": [1, null, "x", [], {}], "input": [1, null, [], {}], "tools": [1, {}, null]}', b"\xff\xfe",
     b'{"messages": [{"role": {}, "content": {"a": [1]}}], "system": [{"type": 5}], "instructions": {"b": 1}}',
     b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"[" * 5_000, b'{"messages": [{"content": 1e999}]}',
     b'{"messages": [{"role": "assistant", "content": 123456789012345678901234567890}]}',
     b'{"messages": [{"role": "assistant", "tool_calls": [7, {"function": 1}]}]}'],
)  # fmt: skip
def test_nothing_odd_breaks_it(dialect: str, body: bytes) -> None:
    """Whatever stands in a body, in a request or in an answer."""
    content = Scribe().write(Said("c", "r", dialect, body, (body,), False), AT)
    for text in content.texts.values():
        json.loads(text)
        text.encode()
