"""OpenAI embeddings (`/v1/embeddings`), as OpenAI, Azure, Mistral and Voyage serve them: input only, no output at all.

Invariant: the client's own bytes go on unchanged; an answer that tells nothing but total_tokens means input
(design.md section 2). What never enters: I/O, a clock, prices, a stream's rules.
"""

from __future__ import annotations

from gateway.core.ports import Reader
from gateway.core.refusal import openai_error
from gateway.core.types import Call, Edits, Inbound, Provider, Refusal, Reply, Size
from gateway.core.wire import body as bodies
from gateway.core.wire import openai_request
from gateway.core.wire.asked import read_asked
from gateway.core.wire.chat_stream import Stream, is_own_error, read_whole
from gateway.core.wire.history import Memo

_END = "/embeddings"


class OpenAIEmbeddings:
    """ports.Dialect. Nothing is generated, so nothing is clamped and nothing streams."""

    name = "openai-embeddings"

    def __init__(self, most: int = 4096, seed: int = 0) -> None:
        self._growths: Memo[int] = Memo(most, seed)

    def matches(self, method: str, path: str) -> bool:
        """Embeddings."""
        del method
        return path.endswith(_END)

    def decode(self, inbound: Inbound, provider: Provider) -> Call:
        """Understands a request as far as we act on it. Raises Undecodable."""
        if inbound.method != "POST":
            return Call(dialect=self.name, provider=provider, kind="free", operation="list")
        fields = bodies.read_object(inbound.body)
        model = openai_request.read_model(fields, inbound.match)
        extra = openai_request.check_fields(fields, self._growths)
        return Call(
            dialect=self.name,
            provider=provider,
            kind="metered",
            operation="embeddings",
            model=model,
            asked=read_asked(fields),
            size=Size(
                text_bytes=len(fields.body) + (0 if provider.quirks.openai_tokenizer else extra),
                embeds=True,
                tier=bodies.text(fields, "service_tier"),
            ),
        )

    def rewrite(self, call: Call, body: bytes, edits: Edits) -> bytes:
        """Nothing to set: there is no output, and vectors of another model would be compared with those at hand."""
        del call, edits
        return body

    def reader(self, call: Call, hide_usage: bool) -> Reader:
        """A reader for an answer under the content type of a stream; no provider streams embeddings."""
        return Stream(call, hide_usage)

    def whole(self, call: Call, status: int, body: bytes) -> Reply:
        """Reads an answer."""
        return read_whole(call, status, body)

    def refuse(self, refusal: Refusal) -> bytes:
        """The error body in OpenAI's shape."""
        return openai_error(refusal)

    def own_error(self, body: bytes) -> bool:
        """Is this the provider's own JSON error?"""
        return is_own_error(body)
