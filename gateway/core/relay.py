"""The answer's way through: chunks -> client, counted as they pass, cut where a provider writes past its grant.

Invariant: bytes leave as they came or not at all; a stream that we end, ends with the dialect's own error event.
What never enters: a provider's name, a price, the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import structs

from gateway.core import order
from gateway.core.answer import answer
from gateway.core.errors import UpstreamFailed
from gateway.core.live import OpenCall
from gateway.core.meter import Meter
from gateway.core.outcome import Ending
from gateway.core.ports import Dialect, Outlet, Reader, Stream, Tokenizer
from gateway.core.types import Refusal

# A whole answer is kept in memory up to this; what is larger is broken off, and presumed.
MOST_WHOLE_BYTES = 64 << 20
# Chunks are read in pieces of this size once the output may reach its grant: a few events of a chat stream.
NEAR_BYTES = 512
# After a cut what the provider had already written is read for so long: it will be on the bill, so it is on ours.
LINGER_S = 0.1
LINGER_BYTES = 256 << 10
# Why an answer was cut whose hold could grow no further.
BUDGET_ENDED = "budget_ended"


class Watch:
    """Counts one streamed answer against what was granted.

    top_up(tokens): asks the ledger for so much more output; gives all that is paid for by then.
    """

    def __init__(
        self,
        meter: Meter,
        tokenizer: Tokenizer,
        encoding: str,
        top_up: Callable[[int], Awaitable[int]] | None = None,
    ) -> None:
        self.meter = meter
        self._top_up = top_up
        self.over = False  # the provider wrote past its grant: nothing more goes out
        self.left_bytes = LINGER_BYTES  # how much of what came after a cut is still read
        self._tokenizer = tokenizer
        self._encoding = encoding

    async def count(self, reader: Reader) -> None:
        """Counts what was not counted yet."""
        text = reader.take()
        if text:
            counted = await self._tokenizer.count(self._encoding, text)
            self.meter.add(counted, len(text.encode("utf-8", "replace")))
        if self._top_up is not None and not self.over and (short := self.meter.short):
            self.meter.grow(await self._top_up(short))


class Relay:
    """One answer on its way to one client."""

    def __init__(self, stream: Stream, outlet: Outlet, open_call: OpenCall) -> None:
        self._stream = stream
        self._outlet = outlet
        self._open = open_call
        self._chunks = 0
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

    async def events(self, reader: Reader, watch: Watch, on_input: Callable[[int], Awaitable[None]] | None) -> Ending:
        """Passes a stream of events until its terminal event (held back in the reader) or its end."""
        try:
            async for chunk in self._stream.chunks():
                self._chunks += 1
                if watch.over or watch.meter.due(reader.output_bytes + len(chunk)):
                    await self._near(chunk, reader, watch)
                elif ready := reader.feed(chunk):
                    await self._outlet.write(ready)
                if on_input is not None and reader.input_told is not None:
                    await on_input(reader.input_told)
                    on_input = None
                if reader.ended:
                    break
            ending = self._ending("done")
        except UpstreamFailed as failure:
            ending = self._failed(failure)
        if watch.over:
            await watch.count(reader)
            return self._ending("cut", BUDGET_ENDED if watch.meter.grows else "output_over_grant")
        return ending

    async def _near(self, chunk: bytes, reader: Reader, watch: Watch) -> None:
        """A chunk that may reach the grant: in small pieces, counted before they go out. Beyond it only reading goes
        on, for a moment: what the provider had written by then is billed, so it is counted."""
        for at in range(0, len(chunk), NEAR_BYTES):
            piece = chunk[at : at + NEAR_BYTES]
            ready = reader.feed(piece)
            if watch.over:
                watch.left_bytes -= len(piece)
                continue
            if watch.meter.due(reader.output_bytes):
                await watch.count(reader)
                if watch.meter.over:
                    watch.over = True
                    self._stream.close(LINGER_S)
                    continue
            if ready:
                await self._outlet.write(ready)
        if watch.left_bytes <= 0:
            self._stream.close()  # a flood: reading on would only have more of it made

    async def drain(self) -> None:
        """What comes after the terminal event, to the end of the body: usually nothing, and it keeps the connection."""
        try:
            async for chunk in self._stream.chunks():
                await self._outlet.write(chunk)
        except UpstreamFailed:
            return

    def _failed(self, failure: UpstreamFailed) -> Ending:
        if self._open.refusal is not None:
            return self._ending("cut", self._open.refusal.code)
        if self._open.gone:
            return self._ending("left", "client_left")
        return self._ending("broken", f"upstream_{failure.kind}")

    def _ending(self, way: str, reason: str = "") -> Ending:
        if way == "done" and self._open.refusal is not None:
            way, reason = "cut", self._open.refusal.code
        return Ending(way=way, status=self._stream.status, reason=reason, chunks=self._chunks)  # type: ignore[arg-type]  # the four literals


def ours(run_id: str | None) -> Refusal:
    """What the client is told when the gateway itself failed."""
    why = "Meterbox failed here; its log says where. Don't retry; report it to the operator."
    return Refusal(500, "internal_error", why, run_id=run_id)


async def apologise(outlet: Outlet, dialect: Dialect | None, client: str) -> None:
    """The answer to a call that a defect of ours ended; where one had begun, or none can be given, the line breaks."""
    try:
        if dialect is not None:
            return await outlet.whole(*answer(ours(None), dialect, client))
    except Exception:  # noqa: BLE001  counted by the log line `defect` that brought us here
        outlet.abort()
    else:
        outlet.abort()


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
    if opened.refusal is not None:
        return Ending("cut", None, opened.refusal.code, sent=failure.sent)
    if not failure.sent:
        return Ending("left" if opened.gone else "unsent", None, f"upstream_{failure.kind}", sent=False)
    return Ending("left" if opened.gone else "broken", None, f"upstream_{failure.kind}")


def unreachable(failure: UpstreamFailed, opened: OpenCall, run_id: str | None) -> Refusal:
    """What the client is told when no answer came at all: that it was stopped, or why there is none."""
    if opened.refusal is not None:
        return structs.replace(opened.refusal, run_id=run_id)
    billed = " It may have been billed." if failure.sent else " Nothing was sent, nothing is billed."
    return Refusal(
        failure.status,
        f"upstream_{failure.kind}",
        f"The provider gave no answer: {failure}.{billed} Retry later, or check the provider's section with "
        "`meterbox check`.",
        run_id=run_id,
        retryable=True,
    )


def why_cut(ending: Ending, opened: OpenCall, run_id: str, granted: int, unit: str = "nusd") -> Refusal:
    """The sentence for a stream that doesn't end well. unit: what the budget that ended it counts."""
    if opened.refusal is not None:
        return structs.replace(opened.refusal, run_id=run_id)
    return over_grant(ending, run_id, granted, unit) if ending.way == "cut" else broken(ending, run_id)


def is_events(stream: Stream) -> bool:
    """A successful answer that comes as server-sent events, whatever was asked for."""
    if stream.status >= 400:
        return False
    return any(
        name == "content-type" and value.lower().startswith("text/event-stream") for name, value in stream.headers
    )


def over_grant(ending: Ending, run_id: str, granted: int, unit: str) -> Refusal:
    """What the client is told when an answer is longer than what was paid for."""
    if ending.reason == BUDGET_ENDED:
        fact = f"its budget pays for no more than the {granted} output tokens that this answer has had"
    else:
        fact = f"the provider wrote past the {granted} output tokens that this run's budget pays for"
    return Refusal(
        402,
        order.code_of(unit),
        f"The answer was cut: {fact}. Don't retry; finish with what you have, or have the budget raised.",
        run_id=run_id,
        scope="run",
        unit="usd" if unit == "nusd" else unit,
    )
