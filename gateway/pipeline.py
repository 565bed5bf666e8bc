"""The walk: decode, identify, admit, reserve, forward, meter, settle. Knows no provider, rule or store by name.

Invariant: a walk is never cancelled and never raises; a reservation that it took, it ends, once, on one normal path.
"""

from __future__ import annotations

from gateway.core import hold, life, order, relay, stamps, tokens
from gateway.core.admit import admit
from gateway.core.answer import answer
from gateway.core.errors import StoreFailed, Undecodable, UpstreamFailed
from gateway.core.meter import Meter
from gateway.core.outcome import Ending, refused
from gateway.core.parts import Parts
from gateway.core.passing import Passing
from gateway.core.ports import Dialect, Outlet, Stream
from gateway.core.quote import Ask, quote
from gateway.core.step import Step, Way, begin
from gateway.core.types import Attempt, Call, Inbound, Pending, Provider, Refusal, Reply


class Pipeline:
    """One call walks once from the top of this class to its bottom."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts

    async def walk(self, inbound: Inbound, provider: Provider, dialect: Dialect | None, outlet: Outlet) -> None:
        """Serves one call: an answer, or a refusal in the caller's own dialect."""
        try:
            await self._walk(inbound, provider, dialect, outlet)
        except Exception as defect:  # noqa: BLE001  a defect of ours, logged as `defect`; the sweep ends what it held
            self._p.log("defect", {"what": repr(defect)})
            await relay.apologise(outlet, dialect, inbound.labels.client)

    async def _walk(self, inbound: Inbound, provider: Provider, dialect: Dialect | None, outlet: Outlet) -> None:
        if dialect is None:
            return await Passing(self._p, inbound, provider, outlet).go(None, None)
        try:
            call = dialect.decode(inbound, provider)
            if call.kind != "metered":
                return await Passing(self._p, inbound, provider, outlet).go(dialect, call)
            step = await self._begin(Way(inbound, provider, dialect, outlet), call)
        except (Undecodable, StoreFailed) as failure:
            return await outlet.whole(*answer(order.turned_away(failure), dialect, inbound.labels.client))
        outlet.on_gone(step.open.leave)
        self._p.live.enter(step.open)
        try:
            refusal = await self._admit(step)
            if refusal is not None:
                self._p.log("refused", {"code": refusal.code, "run": step.run.key, "call_id": step.open.call_id})
                return await self._fail(step, refusal, refused(refusal))
            await self._forward(step)
        except Exception as defect:  # noqa: BLE001  a defect of ours, logged as `defect`: its hold is presumed, not leaked
            self._p.log("defect", {"call_id": step.record.call_id, "what": repr(defect)})
            step.open.leave()
            await self._fail(step, relay.ours(step.run.id), Ending("broken", None, "internal_error", sent=step.sent))
        finally:
            self._p.live.leave(step.open.call_id)

    async def _begin(self, way: Way, call: Call) -> Step:
        """Whose call is it?"""
        p, inbound = self._p, way.inbound
        run = await hold.whose(p, inbound, call)
        return begin(way, call, run, life.ancestors(run.key, p.kin.parent_of), p.clock.new_id("call"))

    async def _admit(self, step: Step) -> Refusal | None:
        """May it go, and can what it may cost be held?"""
        p, call = self._p, step.call
        card = p.prices.card(step.provider, call.model, step.inbound.at)
        step.offer = quote(call, card, p.policy)
        ask = Ask(call, step.run, step.ancestors, step.inbound.labels, step.offer, step.inbound.at)
        verdict = admit(p.rules, ask)
        if isinstance(verdict, Refusal):
            return verdict
        if isinstance(verdict, Pending):
            return order.overloaded(step.run.id)
        try:
            return await hold.reserve(p, step, ask, verdict.charges)
        except StoreFailed as failure:
            return order.unavailable(str(failure), step.run.id)

    async def _forward(self, step: Step) -> None:
        """Sends it on; whatever comes of it ends in `_settle`."""
        p, attempt = self._p, Attempt(step.provider.name, step.call.model, None, "ok", started_at=self._p.clock.now())
        hide = step.call.stream and step.provider.quirks.usage_option and not step.call.usage_asked
        try:
            body = step.dialect.rewrite(step.call, step.inbound.body, hold.edits(step, hide))
            if step.open.gone or step.open.refusal is not None:
                raise UpstreamFailed("the call was ended", kind="closed", sent=False)
            step.record.attempts.append(attempt)
            step.sent = True
            stream = await p.upstream.send(step.provider, step.inbound, body, step.open.on_stop, not step.call.stream)
        except Undecodable as failure:
            refusal = Refusal(failure.status, failure.code, str(failure), run_id=step.run.id, scope="run")
            return await self._fail(step, refusal, refused(refusal))
        except UpstreamFailed as failure:
            refusal = relay.unreachable(failure, step.open, step.run.id)
            return await self._fail(step, refusal, relay.never_came(failure, step.open))
        attempt.status, step.record.first_at = stream.status, p.clock.now()
        if relay.is_events(stream):
            await self._events(step, stream, hide)
        else:
            await self._whole(step, stream)

    async def _events(self, step: Step, stream: Stream, hide: bool) -> None:
        """A streamed answer: its end goes out only after it has settled."""
        p, outlet = self._p, step.outlet
        granted = hold.metered_output(step)
        model, reader = step.call.model, step.dialect.reader(step.call, hide)
        meter = Meter(granted, spread=tokens.spread(model))
        watch = relay.Watch(meter, p.tokenizer, tokens.encoding_of(model))
        way = relay.Relay(stream, outlet, step.open)
        await outlet.start(stream.status, stamps.heads(step, stream))
        on_input = hold.lower(p, step) if step.order_id else None
        ending = await way.events(reader, watch, on_input)
        ending.output_tokens = meter.estimate(reader.output_bytes)
        await hold.settle(p, step, ending, reader.reply())
        if ending.way == "done":
            await outlet.write(reader.rest())
            if reader.ended:
                await way.drain()
        elif ending.way != "left":
            await outlet.write(reader.cut(relay.why_cut(ending, step.open, step.run.id, granted or 0)))
        stream.close()
        await outlet.end()

    async def _whole(self, step: Step, stream: Stream) -> None:
        """An answer in one piece: read, settled, then handed on with its cost in the head."""
        way = relay.Relay(stream, step.outlet, step.open)
        body, ending = await way.whole(lambda: step.outlet.start(stream.status, stamps.heads(step, stream)))
        stream.close()
        reply = step.dialect.whole(step.call, stream.status, body)
        ending.own_error = stream.status >= 400 and step.dialect.own_error(body)
        await hold.settle(self._p, step, ending, reply)
        if ending.way in ("cut", "broken"):
            refusal = relay.why_cut(ending, step.open, step.run.id, 0)
            return step.outlet.abort() if way.began else await step.outlet.whole(*stamps.spoken(step, refusal))
        if way.began:
            await step.outlet.write(body)
            return await step.outlet.end()
        heads = [*stamps.heads(step, stream), *stamps.after(step.record, step.balances)]
        await step.outlet.whole(stream.status, heads, body)

    async def _fail(self, step: Step, refusal: Refusal, ending: Ending) -> None:
        """Nothing came back: what was held ends, and the caller reads why."""
        if not step.settled:
            await hold.settle(self._p, step, ending, Reply())
        await step.outlet.whole(*stamps.spoken(step, refusal))
