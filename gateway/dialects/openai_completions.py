"""OpenAI's completions of old (`/v1/completions`): a prompt, not a conversation; also Mistral's fill-in-the-middle.

Invariant: the client's own bytes go on, changed only where `rewrite` sets a limit. Usage is never asked for here
(http.md section 2: only on chat streams), so a stream without usage is presumed.
What never enters: I/O, a clock, prices, messages.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from gateway.core.ports import Reader
from gateway.core.refusal import openai_error
from gateway.core.types import Call, Edits, Inbound, Lineage, Provider, Refusal, Reply, Size
from gateway.core.wire import body as bodies
from gateway.core.wire import openai_request
from gateway.core.wire.asked import read_asked
from gateway.core.wire.body import MAX_DEPTH
from gateway.core.wire.chat_stream import Stream, is_own_error, read_whole
from gateway.core.wire.history import Memo, chain, growth, message_hash

_END = "/completions"
_CHAT_END = "/chat/completions"


class _Prompt(Struct, frozen=True):
    """What a prompt comes to."""

    hash: int = 0
    count: int = 1  # a list of prompts is answered n times each
    text_bytes: int = 0  # what `echo` sends back
    extra_bytes: int = 0


class _Note(openai_request.Note, frozen=True):
    echoed_bytes: int = 0


class OpenAICompletions:
    """ports.Dialect. Output comes `max(n, best_of)` times for each prompt of a list."""

    name = "openai-completions"

    def __init__(self, most: int = 4096, seed: int = 0) -> None:
        self._prompts: Memo[_Prompt] = Memo(most, seed)
        self._growths: Memo[int] = Memo(most, seed)

    def matches(self, method: str, path: str) -> bool:
        """Completions, but not those of a chat."""
        del method
        return path.endswith(_END) and not path.endswith(_CHAT_END)

    def decode(self, inbound: Inbound, provider: Provider) -> Call:
        """Understands a request as far as we act on it. Raises Undecodable."""
        if inbound.method != "POST":
            return Call(dialect=self.name, provider=provider, kind="free", operation="list")
        fields = bodies.read_object(inbound.body)
        model = openai_request.read_model(fields, inbound.match)
        extra = openai_request.check_fields(fields, self._growths, ("prompt",))
        raw = fields.get("prompt")
        prompt = self._prompts.look(raw, _read_prompt, MAX_DEPTH - 1) if raw is not None else _Prompt()
        limits = openai_request.read_limits(fields)
        choices = max(bodies.integer(fields, name, least=1) or 1 for name in ("n", "best_of")) * prompt.count
        echoed = prompt.text_bytes * choices if bodies.boolean(fields, "echo") else 0
        return Call(
            dialect=self.name,
            provider=provider,
            kind="metered",
            operation="text_completion",
            model=model,
            stream=bodies.boolean(fields, "stream") or False,
            asked=read_asked(fields),
            size=Size(
                text_bytes=len(fields.body) + (0 if provider.quirks.openai_tokenizer else extra + prompt.extra_bytes),
                asked_output=min((limit for _, limit in limits), default=None),
                choices=choices,
                tier=bodies.text(fields, "service_tier"),
            ),
            lineage=Lineage(first=prompt.hash, chain=chain([prompt.hash])),
            usage_asked=openai_request.asks_usage(fields),
            edits=_Note(fields, limits, echoed_bytes=echoed),
        )

    def rewrite(self, call: Call, body: bytes, edits: Edits) -> bytes:
        """Sets the output limit (`max_tokens` is its only name here) and the model; there are no tools."""
        wanted = Edits(max_output=edits.max_output, model=edits.model)
        return openai_request.rewrite(call, body, wanted, "max_tokens")

    def reader(self, call: Call, hide_usage: bool) -> Reader:
        """A reader for a streamed answer."""
        return Stream(call, hide_usage, _echoed(call))

    def whole(self, call: Call, status: int, body: bytes) -> Reply:
        """Reads an answer that is not streamed."""
        return read_whole(call, status, body, _echoed(call))

    def refuse(self, refusal: Refusal) -> bytes:
        """The error body in OpenAI's shape."""
        return openai_error(refusal)

    def own_error(self, body: bytes) -> bool:
        """Is this the provider's own JSON error?"""
        return is_own_error(body)


def _echoed(call: Call) -> int:
    return call.edits.echoed_bytes if isinstance(call.edits, _Note) else 0


def _read_prompt(raw: bytes) -> _Prompt:
    """A prompt is a string, a list of strings, a list of token ids, or a list of such lists."""
    prompt: Any = bodies.decode_strict(raw)
    many = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    texts = [prompt] if isinstance(prompt, str) else [text for text in prompt if isinstance(text, str)] if many else []
    return _Prompt(
        hash=message_hash("prompt", prompt),
        count=len(prompt) if many else 1,
        # the shortest one, so that an echo is never taken for more than it was
        text_bytes=min((len(text.encode("utf-8", "surrogatepass")) for text in texts), default=0),
        extra_bytes=growth(raw),
    )
