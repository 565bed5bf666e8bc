"""What calls say is captured where the operator asks for it, and nowhere else (telemetry contract, rule 14; R-083).

Invariant: real walks over the memory store; what the client gets is the same with and without capture.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.core import capture, outcome
from gateway.core.capture import Said, Scribe
from gateway.core.errors import StoreFailed
from gateway.rules.budget import Budget
from gateway.stores.memory import MemoryStore
from tests.walking import CLAUDE, DONE, STREAMED, USAGE_CHUNK, World, chat, piece, provider, streamed, whole


class Ears:
    """Implements core.capture.Ear, on the loop: what is taken is written at once."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.taken: list[Said] = []
        self.room_left = most
        self.store: MemoryStore | None = None
        self._scribe = Scribe()

    def room(self, size: int) -> bool:
        fits = size <= self.room_left
        self.room_left -= size if fits else 0
        return fits

    def take(self, said: Said) -> None:
        self.taken.append(said)
        if self.store is not None:
            self.store.remember(self._scribe.write(said, self.store._now()), lambda: None)


def listening(*scripts: Any, **more: Any) -> tuple[World, Ears]:
    """A world that captures."""
    ears = Ears(more.pop("most", 1 << 30))
    world = World(*scripts, capture=ears, **more)
    ears.store = world.store
    return world, ears


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


async def test_off_the_stream_of_a_walk_is_the_providers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-083: off by default, and then there is no work for a chunk, none for a call, and nothing in the record."""
    monkeypatch.setattr(capture, "Heard", None)  # a walk that made one would fail
    monkeypatch.setattr(capture, "_Overheard", None)
    world = World(streamed(), whole())
    seen: list[Any] = []
    plain = capture.over

    def watched(ear: Any, step: Any, stream: Any) -> Any:
        went = plain(ear, step, stream)
        seen.append((stream, went))
        return went

    monkeypatch.setattr(capture, "over", watched)
    await world.call(chat(stream=True))
    await world.call(chat())
    assert [True, True] == [came is went for came, went in seen]
    assert [None, None] == [call.content for call in world.calls]
    assert not [entry for entry in world.store.journal if entry.kind == "content"]
    assert world.sound()


@pytest.mark.parametrize("stream", [False, True])
async def test_on_a_call_is_followed_by_its_messages(stream: bool) -> None:
    """The entry comes behind the call's; the call says that it will come; the client sees no difference."""
    world, _ = listening(streamed() if stream else whole())
    plain = World(streamed() if stream else whole())
    body = chat(stream=stream, words=1, tools=[{"type": "function", "function": {"name": "add"}}])
    got, without = await world.call(body), await plain.call(body)
    assert (without.body, without.headers, without.status) == (got.body, got.headers, got.status)
    call = world.last
    assert call.content is True
    kinds = [entry.kind for entry in world.store.journal if entry.call_id == call.call_id]
    assert ["call", "content"] == kinds[-2:]
    assert {
        "system": [],
        "input": [{"role": "user", "parts": [text("hello ")]}],
        "output": [{"role": "assistant", "parts": [text("hello" if stream else "hi")]}],
        "tools": [{"type": "function", "name": "add"}],
        "truncated": False,
        "rules": 1,
    } == world.store.reading().content(call.call_id, "r")
    assert world.sound()


async def test_a_history_is_written_down_once() -> None:
    """Each call brings all messages again: the texts of the second are only what is new in it."""
    world, _ = listening(whole())
    first = [{"role": "user", "content": "what is it?"}]
    await world.call(chat() | {"messages": first})
    before = set(world.store.texts)
    more = [*first, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "go on"}]
    await world.call(chat() | {"messages": more})
    assert 1 == len(set(world.store.texts) - before), "the answer is the same message when it is quoted"
    found = world.store.reading().content(world.last.call_id, "r")
    assert found is not None
    assert ["what is it?", "hi", "go on"] == [one["parts"][0]["content"] for one in found["input"]]


async def test_no_secret_comes_as_far_as_the_journal() -> None:
    """R-083: canaries in a request, a system text, tool arguments and an answer; the call's tool too."""
    key = "sk-" + "canary" * 4
    blocks = [
        {"type": "text", "text": f"use {key}"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"password": "tulip", "to": "joe@example.com"}},
    ]
    answer = {"id": "m", "type": "message", "model": CLAUDE, "role": "assistant", "stop_reason": "tool_use",
              "content": blocks, "usage": {"input_tokens": 5, "output_tokens": 5}}  # fmt: skip
    world, _ = listening(whole(json.dumps(answer).encode()))
    asked = [{"role": "user", "content": [{"type": "text", "text": f"{key} 4111 1111 1111 1111"}]}]
    body = {"model": CLAUDE, "max_tokens": 50, "system": f"the key is {key}", "messages": asked}
    await world.call(body, "/v1/messages", provider=provider("anthropic"))
    found = world.store.reading().content(world.last.call_id, "r")
    assert found is not None
    said = msgspec.json.encode([found, world.store.texts]).decode()
    assert not [word for word in (key, "tulip", "joe@", "4111") if word in said]
    assert {"password": "[redacted:secret]", "to": "[redacted:email]"} == found["output"][0]["parts"][1]["arguments"]
    assert [text("the key is [redacted:api-key]")] == found["system"]


async def test_a_call_that_never_got_an_answer_says_nothing() -> None:
    """Refused by a budget: nothing left the house, nothing is captured."""
    world, ears = listening(whole(), budgets=(Budget("nothing", 1, 1),))
    await world.call()
    assert "refused" == world.last.outcome
    assert (None, []) == (world.last.content, ears.taken)


async def test_what_finds_no_room_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer beyond its bound, or beyond that of all, is cut; the client gets all of it."""
    monkeypatch.setattr(capture, "ANSWER_MOST", len(STREAMED[0]) + 5)
    world, ears = listening(streamed())
    assert (await world.call(chat(stream=True))).body
    assert ((STREAMED[0],), True) == (ears.taken[0].answer, ears.taken[0].cut)
    found = world.store.reading().content(world.last.call_id, "r")
    assert found is not None and found["truncated"] and [text("hel")] == found["output"][0]["parts"]
    monkeypatch.undo()
    world, ears = listening(whole(), most=0)
    await world.call()
    assert ((), True) == (ears.taken[0].answer, ears.taken[0].cut)


async def test_a_ledger_that_fails_does_not_keep_what_was_heard() -> None:
    """The walk hands in once, also where settling failed, and nothing stays behind."""
    world, ears = listening(whole())
    ears.store = None
    world.faulty.fails["settle"] = StoreFailed("the disk is full")
    await world.call()
    assert 1 == len(ears.taken)


async def test_what_comes_after_the_end_is_not_kept() -> None:
    """Bytes behind the terminal event pass, and are no part of what was said."""
    world, ears = listening(streamed(piece("a", "stop"), USAGE_CHUNK, DONE, b": more\n\n"))
    got = await world.call(chat(stream=True))
    assert got.body.endswith(b": more\n\n")
    kept = b"".join(ears.taken[0].answer)
    assert b"more" not in kept
    assert (1 << 30) - len(kept) == ears.room_left, "nothing counts as kept that nobody will hand in"


async def test_formats_without_messages_are_not_captured() -> None:
    """Embeddings have none."""
    used = {"prompt_tokens": 1, "total_tokens": 1}
    embedded = {"object": "list", "data": [], "model": "text-embedding-3-small", "usage": used}
    world, ears = listening(whole(json.dumps(embedded).encode()))
    await world.call({"model": "text-embedding-3-small", "input": "hi"}, "/v1/embeddings", provider=provider("openai"))
    assert (None, []) == (world.last.content, ears.taken)


async def test_a_defect_of_ours_keeps_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks before a call has settled: what it said is handed in, else its bytes would count for ever."""
    world, ears = listening(streamed())

    def breaks(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(outcome, "close", breaks)
    await world.call(chat(stream=True))
    assert 1 == len(ears.taken)
