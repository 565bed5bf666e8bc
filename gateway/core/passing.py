"""Calls that cost nothing, or that the operator lets through unmetered: they pass, and leave no record of their own.

A stored response that is fetched again is the exception: where its first answer told no usage, this one settles it.
"""

from __future__ import annotations

from gateway.core import headers, outcome
from gateway.core.answer import answer
from gateway.core.errors import StoreFailed, UpstreamFailed
from gateway.core.live import OpenCall
from gateway.core.outcome import Ending
from gateway.core.parts import Parts
from gateway.core.ports import Dialect, Outlet, Stream
from gateway.core.quote import Quote
from gateway.core.refusal import openai_error
from gateway.core.relay import ours, unreachable
from gateway.core.types import Call, Exchange, Inbound, Provider, Refusal, Reply

# A stored response is kept whole, to read its usage, up to this size.
MOST_KEPT_BYTES = 16 << 20


class Passing:
    """One call on its way through, unmetered."""

    def __init__(self, parts: Parts, inbound: Inbound, provider: Provider, outlet: Outlet) -> None:
        self._p = parts
        self._inbound = inbound
        self._provider = provider
        self._outlet = outlet

    async def go(self, dialect: Dialect | None, call: Call | None) -> None:
        """Passes the request and its answer on, as they are."""
        opened = OpenCall(self._p.clock.new_id("call"), (), None, None)
        self._outlet.on_gone(opened.leave)
        self._p.live.enter(opened)
        try:
            # whether it streams is nobody's to know here: the head may take as long as a whole answer
            stream = await self._p.upstream.send(
                self._provider, self._inbound, self._inbound.body, opened.on_stop, True
            )
            await self._relay(stream, dialect, call if call is not None and call.kind == "retrieve" else None)
        except UpstreamFailed as failure:
            await self._fail(unreachable(failure, opened, None), dialect)
        except Exception as defect:  # noqa: BLE001  a defect of ours, logged as `defect`
            self._p.log("defect", {"call_id": opened.call_id, "what": repr(defect)})
            opened.leave()
            await self._fail(ours(None), dialect)
        finally:
            self._p.live.leave(opened.call_id)

    async def _relay(self, stream: Stream, dialect: Dialect | None, stored: Call | None) -> None:
        kept: list[bytes] = []
        size = 0
        try:
            await self._outlet.start(stream.status, headers.to_client(stream.headers))
            async for chunk in stream.chunks():
                await self._outlet.write(chunk)
                size += len(chunk)
                if stored is not None and size <= MOST_KEPT_BYTES:
                    kept.append(chunk)
        except UpstreamFailed:
            return self._outlet.abort()
        finally:
            stream.close()
        if stored is not None and dialect is not None and size <= MOST_KEPT_BYTES and stream.status < 400:
            await self._true_up(stored, dialect, stream, b"".join(kept))
        await self._outlet.end()

    async def _true_up(self, stored: Call, dialect: Dialect, stream: Stream, body: bytes) -> None:
        """A late fact for a call whose answer told no usage (background responses)."""
        streamed = dict(stream.headers).get("content-type", "").startswith("text/event-stream")
        reply = _read_stream(dialect, stored, body) if streamed else dialect.whole(stored, stream.status, body)
        if not reply.usage_complete or not stored.response_id:
            return
        card = self._p.prices.card(self._provider, reply.model or "", self._inbound.at)
        record = Exchange(
            call_id="",
            run="",
            step=0,
            dialect=stored.dialect,
            provider=self._provider.name,
            operation="retrieve",
            request_model=reply.model or "",
            stream=streamed,
            started_at=self._inbound.at,
            ended_at=self._p.clock.now(),
        )
        ending = Ending(status=stream.status)
        record.outcome, record.cost_source, record.cost_nusd = outcome.conclude(
            stored,
            Quote(card=card),
            ending,
            reply,
            lambda model: self._p.prices.card(self._provider, model, self._inbound.at),
        )
        outcome.fill(record, reply, ending)
        if record.cost_nusd is None:
            return
        # the ledger keeps runs apart by the virtual key's name, not by what the client shows to the provider
        key = self._inbound.key
        try:
            await self._p.store.true_up(stored.response_id, key.name if key is not None else "", record)
        except StoreFailed as failure:
            self._p.log("true_up_failed", {"response_id": stored.response_id, "why": str(failure)})

    async def _fail(self, refusal: Refusal, dialect: Dialect | None) -> None:
        if dialect is not None:
            return await self._outlet.whole(*answer(refusal, dialect, self._inbound.labels.client))
        await self._outlet.whole(refusal.status, [("content-type", "application/json")], openai_error(refusal))


def _read_stream(dialect: Dialect, call: Call, body: bytes) -> Reply:
    reader = dialect.reader(call, False)
    reader.feed(body)
    return reader.reply()
