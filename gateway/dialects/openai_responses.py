"""OpenAI Responses: `POST /v1/responses` and `/compact`, streamed and not; stored responses that are fetched again.

Invariant: bytes pass as they came, but for a lowered output limit and a cap on the provider's own tools. A stream that
we end, ends with `response.failed`, which no client repeats; no open tool call is closed.
What never enters: a clock, a socket, another dialect.
Source: developers.openai.com/api, "Responses" and "Streaming events"; checked against openai 3.54.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.core.refusal import openai_error
from gateway.core.types import Call, Edits, Inbound, Provider, Refusal, Reply, Size
from gateway.core.wire import body as bodies
from gateway.core.wire import responses_request as request
from gateway.core.wire.asked import read_asked
from gateway.core.wire.body import Fields, read_object, splice
from gateway.core.wire.flow import Flow, looks_streamed
from gateway.core.wire.history import Memo, text_hash
from gateway.core.wire.openai_request import check_fields
from gateway.core.wire.openai_usage import error_word
from gateway.core.wire.prefix import Growing
from gateway.core.wire.responses_answer import RESPONSE, Event, Gathered, Response, decode, failed, gather
from gateway.core.wire.responses_request import Offer
from gateway.core.wire.tally import Tally, model_of, tally

_EVENT = msgspec.json.Decoder(Event)
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_OFFER = Offer()
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"})
_LAST_HEADS = tuple(f"event: {name}".encode() for name in _LAST)
# Audio is no text: its tokens have nothing to do with the length of its base64.
_SILENT = frozenset({"response.audio.delta"})


class OpenAIResponses:
    """The dialect. `seed` keeps outsiders from preparing items whose bytes hash alike."""

    name = "openai-responses"

    def __init__(self, seed: int = 0) -> None:
        self._items: Growing[Offer] = Growing(seed=seed)
        self._prompts: Memo[Offer] = Memo(1024, seed)
        self._tools: Memo[Offer] = Memo(1024, seed)
        self._sound: Memo[int] = Memo(1024, seed)

    def matches(self, method: str, path: str) -> bool:
        """`/responses` and what lies under it, whatever stands in front; of POSTs only those whose cost is known."""
        if method != "POST":
            return "/responses/" in path or (path.endswith("/responses") and method == "GET")
        response_id, deed = _under(path)
        free = (response_id, deed) == ("input_tokens", "") or deed == "cancel"
        return free or path.endswith(("/responses", "/responses/compact"))

    def decode(self, inbound: Inbound, provider: Provider) -> Call:
        """Understands a request as far as we act on it. Raises Undecodable."""
        path = inbound.match
        if inbound.method != "POST" or not path.endswith(("/responses", "/responses/compact")):
            return self._other(inbound, provider)
        fields = read_object(inbound.body)
        raw_tools = fields.get("tools")
        offer = self._tools.look(raw_tools, request.read_tools) if raw_tools is not None else _NO_OFFER
        extra_bytes = check_fields(fields, self._sound, ("input",))
        instructions, previous = fields.get("instructions"), request.previous_of(fields)
        read = self._input(fields)
        system = text_hash(instructions) if instructions is not None else 0
        summed = tally(read, system, request.session_of(fields), previous)
        names = offer.names + tuple(name for item in read for name in item.names)
        pointed = previous is not None or fields.get("prompt") is not None
        return Call(
            dialect=self.name,
            provider=provider,
            kind="metered",
            operation="compact" if path.endswith("/compact") else "chat",
            model=model_of(fields, path, needed=not pointed),
            stream=bodies.boolean(fields, "stream") or False,
            asked=read_asked(fields),
            size=_size(fields, summed, offer, extra_bytes),
            lineage=summed.lineage,
            tools=names,
            results=summed.results,
            background=bodies.boolean(fields, "background") or False,
            # a stored prompt may bring tools of its own, and a former response the tools that it found
            edits=None if pointed else frozenset(names),
        )

    def _input(self, fields: Fields) -> Sequence[Offer]:
        raw = fields.get("input")
        if raw is None:
            return []
        if raw.startswith(b'"'):
            return [self._prompts.look(raw, request.read_prompt)]
        return self._items.read(raw, "input", request.read_item)

    def _other(self, inbound: Inbound, provider: Provider) -> Call:
        """What lies beside: stored responses, counts, lists."""
        method, path = inbound.method, inbound.match
        response_id, deed = _under(path)
        if method == "POST" and response_id == "input_tokens":
            return Call(dialect=self.name, provider=provider, kind="free", operation="count")
        if (method, deed) in (("GET", ""), ("POST", "cancel")) and response_id:
            return Call(
                dialect=self.name,
                provider=provider,
                kind="retrieve",
                operation="retrieve",
                stream="stream=true" in inbound.query.split("&"),
                response_id=response_id,
                background=True,
            )
        operation = "list" if method == "GET" else "other"
        return Call(dialect=self.name, provider=provider, kind="free", operation=operation)

    def rewrite(self, call: Call, body: bytes, edits: Edits) -> bytes:
        """Usage needs no asking here. Raises Undecodable (402) where the limit is below what the API takes."""
        if edits.max_output is None and edits.caps is None and not edits.last and edits.model is None:
            return body
        fields, limit = read_object(body), edits.max_output
        # compaction knows no limit
        changes = request.limited(fields, limit) if limit is not None and call.operation == "chat" else []
        if edits.caps is not None and any(tool.cappable for tool in call.size.hosted):
            changes += request.capped(fields, edits.caps, more=any(start == fields.end for start, _, _ in changes))
        if edits.last and bodies.is_filled(fields, "tools"):
            bodies.put(fields, "tool_choice", b'"none"', changes)
        if edits.model is not None:
            bodies.put(fields, "model", msgspec.json.encode(edits.model), changes)
        return splice(body, changes)

    def reader(self, call: Call, hide_usage: bool) -> ResponsesReader:
        """A reader for a streamed answer; there is no usage event of its own to hide."""
        del hide_usage
        return ResponsesReader(call)

    def whole(self, call: Call, status: int, body: bytes) -> Reply:
        """Reads an answer that is not streamed. Never raises."""
        if looks_streamed(body):
            reader = self.reader(call, False)
            reader.feed(body)
            return reader.reply()
        reply = gather(call, body).reply()
        if status >= 400 and reply.error is None:
            reply.error = f"http_{status}"
        return reply

    def refuse(self, refusal: Refusal) -> bytes:
        """The error body in OpenAI's shape."""
        return openai_error(refusal)

    def own_error(self, body: bytes) -> bool:
        """Is this the provider's own JSON error?"""
        said = decode(body)
        return isinstance(said, dict) and isinstance(said.get("error"), dict | str)


def _under(path: str) -> tuple[str, str]:
    """A stored response's id and what is asked of it; empty where the path says neither."""
    response_id, _, deed = path.partition("/responses/")[2].partition("/")
    return response_id, deed


def _size(fields: Fields, summed: Tally, offer: Offer, extra_bytes: int) -> Size:
    extra = summed.extra_bytes + extra_bytes
    hosted = (*request.hosted_of(offer, bodies.integer(fields, "max_tool_calls")), *request.beside(fields))
    return Size(
        text_bytes=len(fields.body) - summed.media_bytes + extra,
        images=summed.images,
        other_media=summed.media,
        unseen=summed.unseen or summed.lineage.previous is not None or fields.get("prompt") is not None,
        asked_output=bodies.integer(fields, "max_output_tokens"),
        hosted=hosted,
        tools=bool(offer.names or hosted),
        tier=bodies.text(fields, "service_tier"),
    )


class ResponsesReader(Flow):
    """Reads a stream while it passes; the event that carries the whole response (or `error`) ends it, and waits."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._answer = Gathered(call)
        self._sequence = -1
        self.input_told: int | None = None  # this API tells usage at the end only

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of text, thoughts and tool arguments so far."""
        return self._answer.output_bytes

    def take(self) -> str:
        """Visible output since the last `take`."""
        return self._answer.take()

    def cut(self, refusal: Refusal) -> bytes:
        """`response.failed` under the response's own id and model."""
        data = failed(self._answer.response, self._sequence + 1, refusal)
        return self.broken_off() + b"event: response.failed\ndata: " + data + b"\n\n"

    def reply(self) -> Reply:
        """What the answer said so far."""
        return self._answer.reply()

    def see(self, data: bytes) -> bool:
        """Takes note of an event. True: it is the last."""
        try:
            said = _EVENT.decode(data)
        except _BROKEN:
            said = _loosely(data)
        self._sequence = said.sequence_number or self._sequence + 1
        if said.delta is not None:
            if said.delta and said.type.endswith(".delta") and said.type not in _SILENT:
                self._answer.say(said.output_index, said.delta)
            return False
        return self._note(said)

    def is_last(self, data: bytes) -> bool:
        """Would `see` call it the last?"""
        try:
            return _EVENT.decode(data).type in _LAST
        except _BROKEN:
            return _loosely(data).type in _LAST

    def stays_whole(self, head: bytes) -> bool:
        """The last event goes out in one piece."""
        return head.startswith(_LAST_HEADS)

    def _note(self, said: Event) -> bool:
        """The rare events."""
        answer = self._answer
        if said.type == "response.output_item.added":
            answer.open(said.output_index, decode(said.item))
        elif said.type == "response.output_item.done":
            answer.close(said.output_index, decode(said.item))
        elif said.type in _LAST or (said.response and answer.response.id is None):
            answer.know(_response(said))
            if said.type == "error":
                answer.error = said.code or error_word(decode(said.error)) or "error"
            answer.ended = said.type in _LAST
        return answer.ended


def _response(said: Event) -> Response:
    try:
        return RESPONSE.decode(said.response) if said.response else Response()
    except _BROKEN:
        return Response()


def _loosely(data: bytes) -> Event:
    """An event with a value of a kind that we don't expect: what can be read of it still counts."""
    said = decode(data)
    if not isinstance(said, dict):
        return Event()
    event = Event()
    for name, kind in (("type", str), ("delta", str), ("output_index", int), ("sequence_number", int), ("code", str)):
        if isinstance(said.get(name), kind):
            setattr(event, name, said[name])
    for name in ("item", "response", "error"):
        if said.get(name) is not None:
            setattr(event, name, msgspec.Raw(msgspec.json.encode(said[name])))
    return event
