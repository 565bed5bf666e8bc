"""Reads OpenAI-style answers, streamed (`Stream`, a ports.Reader) and whole: chat completions and legacy completions.

Invariant: what `feed` and `rest` give is byte for byte what came, less the usage chunks that only we asked for; any cut
of the bytes gives the same Reply. What never enters: a request's body, a decision about money.
"""

from __future__ import annotations

from gateway.core.refusal import openai_error
from gateway.core.sse import Splitter, data_of, lone_data
from gateway.core.types import Call, Refusal, Reply
from gateway.core.wire.chat_answer import Answer, Chunk, decode_chunk
from gateway.core.wire.openai_usage import error_word

HOLD_BYTES = 64 * 1024  # an unfinished event beyond it flows on, so that the client isn't kept waiting
_DONE = b"[DONE]"
_BRACE = ord("{")
_PASS, _HIDE, _END = 0, 1, 2


class Stream:
    """A streamed answer. The terminal event is `data: [DONE]`; a stream that ends without it after finish_reason and
    usage (Writer) is complete too: `usage_complete`, though not `ended`."""

    __slots__ = (
        "_answer",
        "_clean",
        "_early",
        "_flowed",
        "_hide_usage",
        "_rest",
        "_splitter",
        "ended",
        "input_told",
        "output_bytes",
    )

    def __init__(self, call: Call, hide_usage: bool, echoed_bytes: int = 0) -> None:
        self.ended = False
        self.output_bytes = 0
        self.input_told: int | None = None
        self._answer = Answer(call, echoed_bytes)
        self._splitter = Splitter()
        self._hide_usage = hide_usage
        self._rest = b""
        self._clean = True  # nothing is held, so a chunk that is one plain event needs no splitter
        self._flowed = 0  # bytes of the unfinished event that have gone out already
        self._early = b""  # data of the unfinished event, where `reply` has read it before its end came

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as they came; gives back those that may go to the client now."""
        if self._clean and (data := lone_data(chunk)):
            verdict = self._read(data)
            if verdict == _PASS:
                return chunk
            return self._feed_many([chunk], verdict)
        if self.ended:
            self._rest += chunk
            return b""
        ready = self._feed_many(self._splitter.feed(chunk), None)
        self._clean = not self.ended and not self._splitter.pending
        return ready

    def _feed_many(self, events: list[bytes], verdict: int | None) -> bytes:
        """Several events, or a lone one that isn't simply passed on (`verdict`: it has been read already)."""
        out: list[bytes] = []
        for at, event in enumerate(events):
            if verdict is None:
                verdict = self._read(data_of(event))
            if verdict == _END:
                self._rest = b"".join(events[at:])[self._flowed :] + self._splitter.tail()
                self._flowed = 0
                self._clean = False
                return b"".join(out)
            # what has begun to flow can't be hidden any more
            if verdict == _PASS or self._flowed:
                out.append(event[self._flowed :])
            self._flowed = max(0, self._flowed - len(event))
            verdict = None
        out.append(self._flow())
        return b"".join(out)

    def _flow(self) -> bytes:
        if self._splitter.pending <= HOLD_BYTES:
            return b""
        ready = self._splitter.peek(self._flowed)
        self._flowed += len(ready)
        return ready

    def _read(self, data: bytes) -> int:
        if not data:
            return _PASS
        if data[0] != _BRACE and data.strip() == _DONE:
            self.ended = True
            return _END
        chunk = decode_chunk(data)
        if chunk is None:
            return _PASS
        if self._early and data.strip() == self._early:
            self._early = b""
        else:
            self._take(chunk)
        if chunk.usage is None or not self._hide_usage:
            return _PASS
        return _HIDE if _only_usage(chunk) else _PASS

    def _take(self, chunk: Chunk) -> None:
        answer = self._answer
        answer.take(chunk)
        self.output_bytes = answer.output_bytes
        self.input_told = answer.input_told

    def take(self) -> str:
        """Visible output since the last `take`."""
        said = "".join(self._answer.said)
        self._answer.said.clear()
        return said

    def rest(self) -> bytes:
        """What was held back; empty afterwards."""
        rest = self._rest + self._splitter.tail()[self._flowed :]
        self._rest, self._flowed = b"", 0
        return rest

    def cut(self, refusal: Refusal) -> bytes:
        """The error event that ends the stream instead of the rest; first ends an event that is half out."""
        return (b"\n\n" if self._flowed else b"") + b"data: " + openai_error(refusal) + b"\n\n"

    def reply(self) -> Reply:
        """What the answer said so far, an event included whose blank line is missing at the end of the body."""
        ended = self.ended or self._peek()
        return self._answer.reply(ended)

    def _peek(self) -> bool:
        """Reads the unfinished event if it is complete but for its end; true for [DONE]."""
        if not self._splitter.pending:
            return False
        event = self._splitter.peek(0)
        data = data_of(event).strip()
        if data == _DONE:
            return True
        whole = not data and event.lstrip().startswith(b"{")  # a plain JSON body under the content type of a stream
        if whole:
            data = event.strip()
        if data.startswith(b"{") and data != self._early and (chunk := decode_chunk(data)) is not None:
            self._take(chunk)
            self._early = data
        return whole and self._early == data


def _only_usage(chunk: Chunk) -> bool:
    """The extra chunk of stream_options.include_usage: no choices, but usage. Azure's first chunk has neither."""
    return chunk.choices is not None and not chunk.choices and isinstance(chunk.usage, dict) and chunk.error is None


def read_whole(call: Call, status: int, body: bytes, echoed_bytes: int = 0) -> Reply:
    """Reads an answer that is not streamed; blank lines may stand in front (DeepSeek). Garbage: ended False."""
    body = body.strip(b"\xef\xbb\xbf \t\r\n")
    # Google's compatible endpoint wraps its errors in an array
    chunk = decode_chunk(body[1:-1] if body.startswith(b"[") else body)
    if chunk is None:
        return Reply(error=f"http_{status}" if status >= 400 else None)
    answer = Answer(call, echoed_bytes)
    answer.take(chunk)
    reply = answer.reply(ended=True, whole=True)
    if status >= 400:
        reply.error = error_word(chunk.error) or reply.error or f"http_{status}"
        reply.links = ()
    return reply


def is_own_error(body: bytes) -> bool:
    """Is this the provider's own JSON error, not some proxy's page?

    OpenAI and most others write `error`; Mistral and Cohere `message`, FastAPI servers (vLLM) `detail`, Cloudflare
    `errors`.
    """
    body = body.strip()
    if not body.startswith((b"{", b"[{")) or decode_chunk(body if body[0] == 123 else body[1:-1]) is None:
        return False
    return any(name in body for name in (b'"error"', b'"message"', b'"detail"', b'"errors"'))
