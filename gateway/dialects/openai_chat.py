"""OpenAI chat completions, as OpenAI, Azure and everybody who speaks the same format serve them.

Invariant: the client's own bytes go on, changed only where `rewrite` sets a limit or asks for usage. Paths count by
their end (`/chat/completions`); the bare `/v1/chat` (Writer) is matched only as the whole path, because a shorter rule
would take other providers' native `/chat` (Cohere, Ollama) for this format.
What never enters: I/O, a clock, prices, a provider's credentials.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from gateway.core.ports import Reader
from gateway.core.refusal import openai_error
from gateway.core.types import Call, CallKind, Edits, Hosted, Inbound, Lineage, Provider, Refusal, Reply, Result, Size
from gateway.core.wire import body as bodies
from gateway.core.wire import openai_request
from gateway.core.wire.asked import read_asked
from gateway.core.wire.body import MAX_DEPTH, Fields
from gateway.core.wire.chat_message import Offer, read_message, read_tools, result_at
from gateway.core.wire.chat_stream import Stream, is_own_error, read_whole
from gateway.core.wire.history import Digest, Memo, chain, distinct
from gateway.core.wire.prefix import Growing

_END = "/chat/completions"
_WRITER = "/v1/chat"
# stored completions: read, renamed, deleted; none of it is billed
_STORED = re.compile(r"/chat/completions/[^/]+(/messages)?$")
_MODELS = re.compile(r"/models(/.+)?$")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# fields that make the provider search; chat formats have no field that caps how often (ledger.md section 5)
_SEARCH_FIELDS = ("web_search_options", "search_parameters", "plugins")
_RUNS_TOOLS = re.compile(r"compound|sonar|:online$|-search-")  # a first look; what it finds is read exactly
_SEARCHING = "sonar"  # Perplexity's models search in every call
_COMPOUND = ("groq/compound", "compound-beta")  # Groq's systems run their own tools


class _Asked(Struct):
    """What the messages of one request come to."""

    digests: Sequence[Digest]
    results: tuple[Result, ...]
    lineage: Lineage


class OpenAIChat:
    """ports.Dialect. Remembers digests of messages and tool lists, so that a step reads only what is new in it."""

    name = "openai-chat"

    def __init__(self, most: int = 16384, seed: int = 0) -> None:
        self._messages: Growing[Digest] = Growing(most, seed)
        self._offers: Memo[Offer] = Memo(1024, seed)
        self._growths: Memo[int] = Memo(4096, seed)

    def matches(self, method: str, path: str) -> bool:
        """Chat completions, stored ones, and the list of models."""
        if path.endswith(_END) or path == _WRITER or _STORED.search(path) is not None:
            return True
        return method in ("GET", "HEAD") and _MODELS.search(path) is not None

    def decode(self, inbound: Inbound, provider: Provider) -> Call:
        """Understands a request as far as we act on it. Raises Undecodable."""
        kind, operation = _kind_of(inbound)
        if kind != "metered":
            return Call(dialect=self.name, provider=provider, kind=kind, operation=operation)
        fields = bodies.read_object(inbound.body)
        model = openai_request.read_model(fields, inbound.match)
        extra = openai_request.check_fields(fields, self._growths, ("messages", "tools", "functions"))
        offer = self._read_offer(fields)
        asked = self._read_messages(fields)
        note = openai_request.Note(fields, openai_request.read_limits(fields), _read_thinking(fields))
        return Call(
            dialect=self.name,
            provider=provider,
            kind=kind,
            model=model,
            stream=bodies.boolean(fields, "stream") or False,
            asked=read_asked(fields),
            size=_size(note, provider, model, asked, offer, extra),
            lineage=asked.lineage,
            tools=offer.names,
            results=asked.results,
            usage_asked=openai_request.asks_usage(fields),
            edits=note,
        )

    def _read_offer(self, fields: Fields) -> Offer:
        found = [
            self._offers.look(raw, read_tools, MAX_DEPTH - 1) for raw in map(fields.get, ("tools", "functions")) if raw
        ]
        if len(found) < 2:
            return found[0] if found else Offer()
        one, other = found
        return Offer(one.names + other.names, one.hosted + other.hosted, one.extra_bytes + other.extra_bytes)

    def _read_messages(self, fields: Fields) -> _Asked:
        raw = fields.get("messages")
        if raw is None:
            return _Asked([], (), Lineage(body_session=_session(fields)))
        digests = self._messages.read(raw, "messages", read_message)
        answers: list[int] = []
        ids: list[str] = []
        results: list[Result] = []
        first: Digest | None = None
        for at, digest in enumerate(digests):
            if digest.answer:
                answers.append(at)
            if digest.ids:
                ids += digest.ids
            if digest.results:
                results += [result_at(one, at) for one in digest.results]
            if first is None and not digest.system:
                first = digest
        if first is None and digests:
            first = digests[0]
        lineage = Lineage(
            first=first.hash if first is not None else 0,
            chain=chain([digest.hash for digest in digests]),
            answers=tuple(answers),
            last_answer=digests[answers[-1]].hash if answers else 0,
            ids=distinct(ids),
            body_session=_session(fields),
        )
        return _Asked(digests, tuple(results), lineage)

    def rewrite(self, call: Call, body: bytes, edits: Edits) -> bytes:
        """Sets what is asked for, but caps: no hosted tool of this format has a field for one."""
        return openai_request.rewrite(call, body, edits)

    def reader(self, call: Call, hide_usage: bool) -> Reader:
        """A reader for a streamed answer."""
        return Stream(call, hide_usage)

    def whole(self, call: Call, status: int, body: bytes) -> Reply:
        """Reads an answer that is not streamed."""
        return read_whole(call, status, body)

    def refuse(self, refusal: Refusal) -> bytes:
        """The error body in OpenAI's shape."""
        return openai_error(refusal)

    def own_error(self, body: bytes) -> bool:
        """Is this the provider's own JSON error?"""
        return is_own_error(body)


def _kind_of(inbound: Inbound) -> tuple[CallKind, str]:
    path = inbound.match
    if inbound.method == "POST" and (path.endswith(_END) or path == _WRITER):
        return "metered", "chat"
    if _MODELS.search(path) is not None:
        return "free", "list"
    return "free", "list" if path.endswith((_END, _WRITER)) else "retrieve"


def _session(fields: Fields) -> str | None:
    """prompt_cache_key names a session only where it is a UUID: many programs send a constant (design.md section 3)."""
    raw = fields.get("prompt_cache_key")
    if raw is None or len(raw) != 38:
        return None
    key = raw[1:-1].decode("utf-8", "replace")
    return key if _UUID.fullmatch(key) else None


def _read_thinking(fields: Fields) -> tuple[tuple[str, str, int], ...]:
    """Thinking budgets: Claude behind a chat endpoint (`thinking`), OpenRouter (`reasoning`)."""
    found = []
    for outer, inner in (("thinking", "budget_tokens"), ("reasoning", "max_tokens")):
        raw = fields.get(outer)
        if raw is not None and raw.startswith(b"{") and inner.encode() in raw:
            budget = bodies.integer(bodies.read_object(raw), inner)
            if budget is not None:
                found.append((outer, inner, budget))
    return tuple(found)


def _size(note: openai_request.Note, provider: Provider, model: str, asked: _Asked, offer: Offer, extra: int) -> Size:
    fields = note.fields
    images = media = added = 0
    other = unseen = False
    for digest in asked.digests:
        images += digest.images
        media += digest.media_bytes
        added += digest.extra_bytes
        other |= digest.media
        unseen |= digest.unseen
    extra = 0 if provider.quirks.openai_tokenizer else extra + added + offer.extra_bytes
    prediction = fields.get("prediction")
    return Size(
        text_bytes=len(fields.body) - media + extra,
        images=images,
        other_media=other or _speaks(fields),
        unseen=unseen or "data_sources" in fields.spans,  # Azure "on your data" adds what it finds
        asked_output=min((limit for _, limit in note.limits), default=None),
        choices=bodies.integer(fields, "n", least=1) or 1,
        prediction_bytes=len(prediction) if prediction is not None else 0,
        thinking=max((budget for _, _, budget in note.thinking), default=None),
        hosted=offer.hosted + _searches(fields, model),
        # an answer format is rendered into the prompt as tools are (recorded: 668 tokens billed for 336 bytes)
        tools=bool(offer.names or offer.hosted) or "response_format" in fields.spans,
        tier=bodies.text(fields, "service_tier"),
    )


def _speaks(fields: Fields) -> bool:
    if fields.spans.keys().isdisjoint(("audio", "modalities")):
        return False
    return fields.get("audio") is not None or b'"audio"' in (fields.get("modalities") or b"")


def _searches(fields: Fields, model: str) -> tuple[Hosted, ...]:
    """Searches and tools that the provider runs without being given a tool."""
    if fields.spans.keys().isdisjoint(_SEARCH_FIELDS) and not _RUNS_TOOLS.search(model):
        return ()
    if model.startswith(_COMPOUND):
        return (Hosted("compound"),)
    asked = any(fields.get(name) is not None for name in _SEARCH_FIELDS)
    # OpenRouter: `:online` searches; OpenAI: the *-search-preview models always do
    if asked or model.endswith(":online") or "-search-preview" in model or "-search-api" in model:
        return (Hosted("web_search"),)
    return (Hosted("web_search"),) if model.rpartition("/")[2].startswith(_SEARCHING) else ()
