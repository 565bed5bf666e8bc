"""The answer's way through: chunks -> client, counted as they pass, cut where a provider writes past its grant.

Invariant: bytes leave as they came or not at all; a stream that we end, ends with the dialect's own error event.
What never enters: a provider's name, a price, the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from msgspec import structs

from gateway.core.errors import UpstreamFailed
from gateway.core.live import OpenCall
from gateway.core.meter import Meter
from gateway.core.outcome import Ending
from gateway.core.ports import Outlet, Reader, Stream, Tokenizer
from gateway.core.types import Refusal

# A whole answer is kept in memory up to this; what is larger flows on unread and is presumed.
MOST_WHOLE_BYTES = 64 << 20
# Chunks are read in pieces of this size once the output may reach its grant: about ten events of a chat stream.
NEAR_BYTES = 4096


class Relay:
    """One answer on its way to one client."""

    def __init__(self, stream: Stream, outlet: Outlet, open_call: OpenCall) -> None:
        self._stream = stream
        self._outlet = outlet
        self._open = open_call
        self.began = False  # a whole answer whose head is already out

    async def whole(self, begin: Callable[[], Awaitable[None]]) -> tuple[bytes, Ending]:
        """Reads an answer that is not a stream. Blank lines in front of it are a sign of life: they, and the head
        (`begin`), go out at once (design.md section 1)."""
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in self._stream.chunks():
                if not parts and not chunk.strip():
                    if not self.began:
                        self.began = True
                        await begin()
                    await self._outlet.write(chunk)
                    continue
                parts.append(chunk)
                size += len(chunk)
                if size > MOST_WHOLE_BYTES:
                    return b"".join(parts), self._ending("broken", "answer_too_large")
        except UpstreamFailed as failure:
            return b"".join(parts), self._failed(failure)
        return b"".join(parts), self._ending("done")

    async def events(
        self,
        reader: Reader,
        meter: Meter,
        count: Tokenizer,
        encoding: str,
        on_input: Callable[[int], Awaitable[None]] | None,
    ) -> Ending:
        """Passes a stream of events until its terminal event (held back in the reader) or its end."""
        try:
            async for chunk in self._stream.chunks():
                for piece in _pieces(chunk) if meter.due(reader.output_bytes + len(chunk)) else (chunk,):
                    ready = reader.feed(piece)
                    if meter.due(reader.output_bytes):
                        await self._count(reader, meter, count, encoding)
                        if meter.over:
                            self._stream.close()
                            return self._ending("cut", "output_over_grant")
                    if ready:
                        await self._outlet.write(ready)
                if on_input is not None and reader.input_told is not None:
                    await on_input(reader.input_told)
                    on_input = None
                if reader.ended:
                    return self._ending("done")
        except UpstreamFailed as failure:
            return self._failed(failure)
        return self._ending("done")

    async def drain(self) -> None:
        """What comes after the terminal event, to the end of the body: usually nothing, and it keeps the connection."""
        try:
            async for chunk in self._stream.chunks():
                await self._outlet.write(chunk)
        except UpstreamFailed:
            return

    @staticmethod
    async def _count(reader: Reader, meter: Meter, count: Tokenizer, encoding: str) -> None:
        text = reader.take()
        meter.add(await count.count(encoding, text), len(text.encode("utf-8", "replace")))

    def _failed(self, failure: UpstreamFailed) -> Ending:
        if self._open.refusal is not None:
            return self._ending("cut", self._open.refusal.code)
        if self._open.gone:
            return self._ending("left", "client_left")
        return self._ending("broken", f"upstream_{failure.kind}")

    def _ending(self, way: str, reason: str = "") -> Ending:
        if way == "done" and self._open.refusal is not None:
            way, reason = "cut", self._open.refusal.code
        return Ending(way=way, status=self._stream.status, reason=reason)  # type: ignore[arg-type]  # the four literals


def _pieces(chunk: bytes) -> Iterator[bytes]:
    """A chunk in small pieces: near the grant, what it still pays for goes out and the rest does not."""
    return (chunk[at : at + NEAR_BYTES] for at in range(0, len(chunk), NEAR_BYTES))


def broken(ending: Ending, run_id: str) -> Refusal:
    """What the client is told, in-band, when the provider broke off a stream."""
    return Refusal(
        502,
        ending.reason or "upstream_error",
        "The provider broke off in the middle of this answer; what came so far is incomplete. "
        "The call may have been billed.",
        run_id=run_id,
        retryable=True,
    )


def never_came(failure: UpstreamFailed, opened: OpenCall) -> Ending:
    """How a call ended whose answer never began."""
    if not failure.sent:
        return Ending("left" if opened.gone else "unsent", None, f"upstream_{failure.kind}", sent=False)
    if opened.refusal is not None:
        return Ending("cut", None, opened.refusal.code)
    return Ending("left" if opened.gone else "broken", None, f"upstream_{failure.kind}")


def unreachable(failure: UpstreamFailed, run_id: str | None) -> Refusal:
    """What the client is told when no answer came at all."""
    billed = " It may have been billed." if failure.sent else " Nothing was sent, nothing is billed."
    return Refusal(
        failure.status,
        f"upstream_{failure.kind}",
        f"The provider gave no answer: {failure}.{billed} Retry later, or check the provider's section with "
        "`meterbox check`.",
        run_id=run_id,
        retryable=True,
    )


def why_cut(ending: Ending, opened: OpenCall, run_id: str, granted: int) -> Refusal:
    """The sentence for a stream that doesn't end well."""
    if opened.refusal is not None:
        return structs.replace(opened.refusal, run_id=run_id)
    return over_grant(run_id, granted) if ending.way == "cut" else broken(ending, run_id)


def is_events(stream: Stream) -> bool:
    """A successful answer that comes as server-sent events, whatever was asked for."""
    if stream.status >= 400:
        return False
    return any(
        name == "content-type" and value.lower().startswith("text/event-stream") for name, value in stream.headers
    )


def over_grant(run_id: str, granted: int) -> Refusal:
    """What the client is told when a provider wrote past the limit that was paid for."""
    return Refusal(
        402,
        "insufficient_quota",
        f"The answer was cut: the provider wrote past the {granted} output tokens that this run's budget pays for. "
        "Don't retry; finish with what you have, or have the budget raised.",
        run_id=run_id,
        scope="run",
    )
