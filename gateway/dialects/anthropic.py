"""Anthropic messages: `POST /v1/messages`, streamed and not; counting and listing are free.

Invariant: bytes pass as they came, but for a lowered output limit (with a thinking budget that fits below it) and caps
on the provider's own tools. A stream that we end, ends with this API's `error` event, and no open tool call is closed.
What never enters: a clock, a socket, another dialect.
Source: platform.claude.com/docs, "Messages" and "Streaming Messages"; checked against anthropic 2.12.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.errors import Undecodable
from gateway.core.types import Call, Edits, Inbound, Provider, Refusal, Reply, Size
from gateway.core.wire import anthropic_request as request
from gateway.core.wire import body as bodies
from gateway.core.wire.anthropic_answer import Delta, Event, Gathered, anthropic_error, gather
from gateway.core.wire.anthropic_request import Offer
from gateway.core.wire.asked import read_asked
from gateway.core.wire.body import Fields, read_object, splice
from gateway.core.wire.flow import Flow, looks_streamed
from gateway.core.wire.history import Digest, Memo
from gateway.core.wire.openai_request import check_fields
from gateway.core.wire.prefix import Growing
from gateway.core.wire.tally import Tally, dearest, model_of, tally

_EVENT = msgspec.json.Decoder(Event)
_JSON = msgspec.json.Decoder()
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_OFFER = Offer()
_FREE_POSTS = ("/messages/count_tokens", "/cancel")


class Anthropic:
    """The dialect. `seed` keeps outsiders from preparing messages whose bytes hash alike."""

    name = "anthropic-messages"

    def __init__(self, seed: int = 0) -> None:
        self._messages: Growing[Offer] = Growing(seed=seed)
        self._systems: Memo[Digest] = Memo(1024, seed)
        self._tools: Memo[Offer] = Memo(1024, seed)
        self._sound: Memo[int] = Memo(1024, seed)

    def matches(self, method: str, path: str) -> bool:
        """Messages, what is read of their batches, counts, and the list of models; an assistant's thread has messages,
        too. A batch that is begun costs money that nobody meters yet: it is no path of ours."""
        if "/threads/" in path:
            return False
        if path.endswith("/messages"):
            return method == "POST"
        if "/messages/" in path:
            return method != "POST" or path.endswith(_FREE_POSTS)
        return method == "GET" and (path.endswith("/models") or "/models/" in path)

    def decode(self, inbound: Inbound, provider: Provider) -> Call:
        """Understands a request as far as we act on it. Raises Undecodable."""
        path = inbound.match
        if not path.endswith("/messages"):
            return self._other(inbound.method, path, provider)
        fields = read_object(inbound.body)
        raw_tools, raw_system = fields.get("tools"), fields.get("system")
        offer = self._tools.look(raw_tools, request.read_tools) if raw_tools is not None else _NO_OFFER
        system = self._systems.look(raw_system, request.read_system) if raw_system is not None else Digest()
        extra_bytes = check_fields(fields, self._sound, ("messages",))
        read = self._messages.read(_messages(fields), "messages", request.read_message)
        summed = tally(read, system.hash, request.session_of(fields), _thread(fields))
        names = offer.names + tuple(name for said in read for name in said.names)
        return Call(
            dialect=self.name,
            provider=provider,
            kind="metered",
            model=model_of(fields, path),
            stream=bodies.boolean(fields, "stream") or False,
            asked=read_asked(fields),
            size=_size(fields, summed, offer, system, extra_bytes),
            lineage=summed.lineage,
            tools=names,
            results=summed.results,
            edits=None if offer.sets else frozenset(names),
        )

    def _other(self, method: str, path: str, provider: Provider) -> Call:
        """What is no message is free; `matches` lets nothing else in."""
        operation = "count" if path.endswith("/count_tokens") else "list" if method == "GET" else "other"
        return Call(dialect=self.name, provider=provider, kind="free", operation=operation)

    def rewrite(self, call: Call, body: bytes, edits: Edits) -> bytes:
        """Usage needs no asking here. Raises Undecodable (402) where thinking doesn't fit below the limit."""
        if edits.max_output is None and edits.caps is None and not edits.last and edits.model is None:
            return body
        fields = read_object(body)
        changes = request.lowered(fields, edits.max_output) if edits.max_output is not None else []
        if edits.caps is not None and call.size.hosted:
            changes += request.capped(fields, edits.caps)
        if edits.last and bodies.is_filled(fields, "tools"):
            # tools stay: a history that holds tool calls is refused without them (design.md section 2)
            bodies.put(fields, "tool_choice", b'{"type":"none"}', changes)
        if edits.model is not None:
            bodies.put(fields, "model", msgspec.json.encode(edits.model), changes)
        return splice(body, changes)

    def reader(self, call: Call, hide_usage: bool) -> AnthropicReader:
        """A reader for a streamed answer; there is no usage event of its own to hide."""
        del hide_usage
        return AnthropicReader(call)

    def whole(self, call: Call, status: int, body: bytes) -> Reply:
        """Reads an answer that is not streamed. Never raises."""
        if looks_streamed(body):
            reader = self.reader(call, False)
            reader.feed(body)
            return reader.reply()
        try:
            message = _JSON.decode(body)
        except _BROKEN:
            return Reply(error=f"http_{status}" if status >= 400 else None)
        reply = gather(message, call.size.cache_write).reply(call.edits)
        if status >= 400 and reply.error is None:
            reply.error = f"http_{status}"
        return reply

    def refuse(self, refusal: Refusal) -> bytes:
        """The error body in this API's own shape."""
        return anthropic_error(refusal)

    def own_error(self, body: bytes) -> bool:
        """Is this the API's own JSON error?"""
        try:
            said = _JSON.decode(body)
        except _BROKEN:
            return False
        return isinstance(said, dict) and isinstance(said.get("error"), dict)


def _messages(fields: Fields) -> bytes:
    raw = fields.get("messages")
    if raw is None:
        raise Undecodable("`messages` is missing: send the conversation as an array of messages.")
    return raw


def _thread(fields: Fields) -> str | None:
    """The message that a server-held conversation (beta) goes on from."""
    raw = fields.get("thread")
    thread = bodies.strict_inside(raw, "thread") if raw is not None else None
    return bodies.text(thread, "previous_message_id") if thread is not None else None


def _size(fields: Fields, summed: Tally, offer: Offer, system: Digest, extra_bytes: int) -> Size:
    thinking = request.thinking_of(fields)
    # the field on top puts a mark on the last block by itself
    beside = b'"cache_control":' + (fields.get("cache_control") or b"") if "cache_control" in fields.spans else b""
    hosted = (*offer.hosted, *request.beside(fields))
    return Size(
        text_bytes=len(fields.body) - summed.media_bytes + summed.extra_bytes + extra_bytes,
        images=summed.images,
        other_media=summed.media,
        unseen=summed.unseen or summed.lineage.previous is not None,
        asked_output=bodies.integer(fields, "max_tokens"),
        thinking=bodies.integer(thinking, "budget_tokens") if thinking is not None else None,
        hosted=hosted,
        tools=bool(offer.names or hosted),
        tier=bodies.text(fields, "service_tier"),
        cache_write=dearest([summed.cache_write, offer.cache_write, system.cache_write, request.cache_write(beside)]),
        speed=bodies.text(fields, "speed"),
        geo=bodies.text(fields, "inference_geo"),
    )


class AnthropicReader(Flow):
    """Reads a stream while it passes; `message_stop` and `error` end it, and wait in `rest`."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._answer = Gathered(call.size.cache_write)
        self._offered: frozenset[str] | None = call.edits
        self.input_told: int | None = None

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of text, thoughts and tool arguments so far."""
        return self._answer.output_bytes

    def take(self) -> str:
        """Visible output since the last `take`."""
        return self._answer.take()

    def cut(self, refusal: Refusal) -> bytes:
        """The `error` event that official SDKs raise as an APIStatusError."""
        return self.broken_off() + b"event: error\ndata: " + anthropic_error(refusal) + b"\n\n"

    def reply(self) -> Reply:
        """What the answer said so far."""
        return self._answer.reply(self._offered)

    def see(self, data: bytes) -> bool:
        """Takes note of an event. True: it is the last."""
        try:
            said = _EVENT.decode(data)
        except _BROKEN:
            said = _loosely(data)
        if said.type == "content_block_delta":
            delta = said.delta
            if delta is not None:
                self._answer.say(said.index, delta.text or delta.thinking or delta.partial_json or "")
            return False
        return self._note(said)

    def is_last(self, data: bytes) -> bool:
        """Would `see` call it the last?"""
        if b"message_stop" not in data and b"error" not in data:
            return False
        try:
            return _EVENT.decode(data).type in ("message_stop", "error")
        except _BROKEN:
            return False

    def stays_whole(self, head: bytes) -> bool:
        """The last event goes out in one piece."""
        return head.startswith((b"event: error", b"event:error"))

    def _note(self, said: Event) -> bool:
        """The rare events."""
        answer = self._answer
        if said.type == "message_start":
            message = _value(said.message)
            answer.begin(message if isinstance(message, dict) else {})
            self.input_told = answer.input_total() or None
        elif said.type == "content_block_start":
            answer.open(said.index, _value(said.content_block))
        elif said.type == "content_block_stop":
            answer.close(said.index)
        elif said.type == "message_delta":
            told = answer.merge(_value(said.usage))
            if said.delta is not None and said.delta.stop_reason:
                answer.stop_reason = said.delta.stop_reason
                answer.complete = told
        elif said.type == "error":
            answer.fail(_value(said.error))
            answer.ended = True
        elif said.type == "message_stop":
            answer.ended = True
        return answer.ended


def _value(raw: msgspec.Raw) -> Any:
    return _JSON.decode(raw) if raw else None


def _loosely(data: bytes) -> Event:
    """An event with a value of a kind that we don't expect: what can be read of it still counts."""
    try:
        said = _JSON.decode(data)
    except _BROKEN:
        return Event()
    if not isinstance(said, dict):
        return Event()
    index, delta = said.get("index"), said.get("delta")
    event = Event(
        type=said["type"] if isinstance(said.get("type"), str) else "", index=index if isinstance(index, int) else 0
    )
    for name in ("message", "content_block", "usage", "error"):
        if said.get(name) is not None:
            setattr(event, name, msgspec.Raw(msgspec.json.encode(said[name])))
    if isinstance(delta, dict):
        event.delta = msgspec.convert({k: v for k, v in delta.items() if isinstance(v, str)}, Delta)
    return event
