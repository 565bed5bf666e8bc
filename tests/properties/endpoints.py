"""Every endpoint of every dialect, as a request and its answer; and ports that fail at a given await.

Invariant: answers are made by the scripted provider's own wire formats, with usage unless told otherwise. What never
enters: an assertion.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.errors import StoreFailed, UpstreamFailed
from gateway.core.types import Provider
from gateway.demo import script, wire_chat, wire_messages, wire_responses
from tests.fakes import RecordingOutlet, Scripted, ScriptedStream, ScriptedUpstream
from tests.walking import CLAUDE, JSON, MODEL, SSE, USAGE, Words, World, event, provider

ODD = RuntimeError("nobody expects this")
SAID = [{"role": "user", "content": "hello hello hello"}]


@dataclass(frozen=True)
class Endpoint:
    """One way to call. bare: the same answer without usage."""

    name: str
    path: str
    body: dict[str, Any] | None
    answer: Scripted
    bare: Scripted
    provider: Provider
    method: str = "POST"
    metered: bool = True


def _made(wire: Any, body: dict[str, Any], with_usage: bool) -> Scripted:
    prompt = wire.read(json.dumps(body).encode())
    said = script.answer(prompt, script.Script(output_tokens=20), 1)
    if not prompt.stream:
        return Scripted(headers=JSON, chunks=[wire.whole(said, with_usage)])
    return Scripted(headers=SSE, chunks=[chunk for chunk, _ in wire.stream(said, prompt, with_usage, 8)])


def _wired(name: str, path: str, wire: Any, preset: str, body: dict[str, Any]) -> list[Endpoint]:
    found = []
    for stream in (False, True):
        asked = {**body, "stream": stream}
        if wire is wire_chat and stream:
            asked["stream_options"] = {"include_usage": True}
        words = "streamed" if stream else "whole"
        answers = (_made(wire, asked, True), _made(wire, asked, False))
        found.append(Endpoint(f"{name} {words}", path, asked, *answers, provider(preset)))
    return found


def _plain(name: str, path: str, body: dict[str, Any], answer: dict[str, Any]) -> Endpoint:
    bare = {key: value for key, value in answer.items() if key != "usage"}
    scripts = [Scripted(headers=JSON, chunks=[json.dumps(one).encode()]) for one in (answer, bare)]
    return Endpoint(name, path, body, scripts[0], scripts[1], provider("openai"))


_COMPLETION = {"id": "c", "model": "gpt-3.5-turbo-instruct", "usage": USAGE,
               "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}]}  # fmt: skip
_EMBEDDED = {"model": "text-embedding-3-small", "data": [{"index": 0, "embedding": [0.1]}],
             "usage": {"prompt_tokens": 3, "total_tokens": 3}}  # fmt: skip
_ASKED = {"model": "gpt-3.5-turbo-instruct", "prompt": "hello", "max_tokens": 50, "stream": True}
_FREE = Scripted(headers=JSON, chunks=[b"{", b"}"])

METERED: tuple[Endpoint, ...] = (
    *_wired("chat", "/v1/chat/completions", wire_chat, "openai", {"model": MODEL, "messages": SAID, "max_tokens": 100}),
    *_wired("messages", "/v1/messages", wire_messages, "anthropic",
            {"model": CLAUDE, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
             "max_tokens": 100}),
    *_wired("responses", "/v1/responses", wire_responses, "openai",
            {"model": MODEL, "input": "hello", "max_output_tokens": 100}),
    _plain("completion", "/v1/completions", {**_ASKED, "stream": False}, _COMPLETION),
    Endpoint("completion streamed", "/v1/completions", {**_ASKED, "stream_options": {"include_usage": True}},
             Scripted(headers=SSE, chunks=[event({**_COMPLETION, "usage": None}),
                                           event({**_COMPLETION, "choices": []}), event(b"[DONE]")]),
             Scripted(headers=SSE, chunks=[event({**_COMPLETION, "usage": None}), event(b"[DONE]")]),
             provider("openai")),
    _plain("embedding", "/v1/embeddings", {"model": "text-embedding-3-small", "input": "hello"}, _EMBEDDED),
)  # fmt: skip
UNMETERED: tuple[Endpoint, ...] = (
    Endpoint("models", "/v1/models", None, _FREE, _FREE, provider("openai"), "GET", False),
    Endpoint("count", "/v1/messages/count_tokens", {"model": CLAUDE, "messages": SAID}, _FREE, _FREE,
             provider("anthropic"), metered=False),
    Endpoint("retrieve", "/v1/responses/resp_1", None, _FREE, _FREE, provider("openai"), "GET", False),
    Endpoint("opaque", "/v1/nobody/knows", {"a": 1}, _FREE, _FREE, provider("openai"), metered=False),
)  # fmt: skip


class Trip:
    """Counts the awaits of a walk and does something at one of them, just before or just after what is awaited."""

    def __init__(self, how: str, when: str, at: int) -> None:
        self.how, self.when, self.at = how, when, at
        self.count = 0
        self.where = ""  # at which port it went off
        self.stop: dict[str, Callable[[], Any]] = {}

    def before(self, port: str) -> None:
        self.count += 1
        if self.count == self.at and self.when == "before":
            self._go_off(port)

    def after(self, port: str) -> None:
        if self.count == self.at and self.when == "after" and not self.where:
            self._go_off(port)

    def _go_off(self, port: str) -> None:
        self.where = port
        if self.how in self.stop:
            self.stop[self.how]()
        elif self.how == "odd":
            raise ODD
        elif self.how == "cancelled":
            raise asyncio.CancelledError
        elif port.startswith("store"):
            raise StoreFailed("the disk is full")
        elif port.startswith("upstream"):
            raise UpstreamFailed("the line broke", kind="reset")
        else:
            raise ConnectionError("gone")


class _Every:
    """Stands in for a table of hooks by method: each name has one."""

    def __init__(self, act: Callable[[str], None]) -> None:
        self._act = act

    def get(self, name: str, _default: Any) -> Callable[[], None]:
        return lambda: self._act(f"store.{name}")


class TrippedOutlet(RecordingOutlet):
    trip: Trip

    async def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        self.trip.before("outlet.start")
        await super().start(status, headers)
        self.trip.after("outlet.start")

    async def write(self, chunk: bytes) -> None:
        self.trip.before("outlet.write")
        await super().write(chunk)
        self.trip.after("outlet.write")

    async def end(self) -> None:
        self.trip.before("outlet.end")
        await super().end()
        self.trip.after("outlet.end")

    async def whole(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.trip.before("outlet.whole")
        await super().whole(status, headers, body)
        self.trip.after("outlet.whole")


class TrippedStream(ScriptedStream):
    trip: Trip

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in super().chunks():
            self.trip.before("upstream.chunks")
            yield chunk
            self.trip.after("upstream.chunks")
        self.trip.before("upstream.chunks")


class TrippedUpstream(ScriptedUpstream):
    def __init__(self, trip: Trip, *scripts: Scripted) -> None:
        super().__init__(*scripts)
        self.trip = trip

    async def send(self, *args: Any, **more: Any) -> ScriptedStream:
        self.trip.before("upstream.send")
        stream = await super().send(*args, **more)
        tripped = TrippedStream(stream._script)
        tripped.trip, tripped._closing = self.trip, stream._closing
        self.streams[-1] = tripped
        args[3](tripped.close)
        self.trip.after("upstream.send")
        return tripped


class TrippedWords(Words):
    trip: Trip

    async def count(self, encoding: str, text: str) -> int | None:
        self.trip.before("tokenizer.count")
        counted = await super().count(encoding, text)
        self.trip.after("tokenizer.count")
        return counted


def world_of(endpoint: Endpoint, trip: Trip, answer: Scripted | None = None) -> tuple[World, TrippedOutlet]:
    """A gateway whose ports all count for this trip, and its client."""
    words, outlet = TrippedWords(), TrippedOutlet()
    words.trip = outlet.trip = trip
    upstream = TrippedUpstream(trip, answer or endpoint.answer)
    world = World(upstream=upstream, tokenizer=words)
    world.upstream = upstream
    world.faulty.before = _Every(trip.before)  # type: ignore[assignment]  # asked for by name only
    world.faulty.after = _Every(trip.after)  # type: ignore[assignment]  # as above
    trip.stop = {"left": outlet.leave, "killed": lambda: world.live.stop_run("r", "too loud")}
    return world, outlet


async def walk(world: World, endpoint: Endpoint, outlet: RecordingOutlet, **headers: str) -> None:
    """One call of this endpoint."""
    body = b"" if endpoint.body is None else endpoint.body
    await world.call(
        body, endpoint.path, outlet, provider=endpoint.provider, method=endpoint.method, **headers
    )  # fmt: skip
