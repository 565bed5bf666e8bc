"""The walk: decode, identify, admit, reserve, forward, meter, settle. Knows no provider, rule or store by name.

Invariant: a walk is never cancelled and never raises; a reservation that it took, it ends, once, on one normal path.
"""

from __future__ import annotations

from gateway.core import capture, hold, life, order, relay, reserve, stamps, tokens
from gateway.core.answer import answer
from gateway.core.errors import StoreFailed, Undecodable, UpstreamFailed
from gateway.core.meter import Meter
from gateway.core.outcome import Ending, refused
from gateway.core.parts import Parts
from gateway.core.passing import Passing
from gateway.core.ports import Dialect, Outlet, Stream
from gateway.core.step import Step, Way, begin, now
from gateway.core.types import Attempt, Call, Inbound, Provider, Refusal, Reply


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
                said = {"code": refusal.code, "scope": refusal.scope, "run": step.run.key, "call_id": step.open.call_id}
                self._p.log("refused", said)
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
        run = await reserve.whose(p, inbound, call)
        return begin(way, call, run, life.ancestors(run.key, p.kin.parent_of), p.clock)

    async def _admit(self, step: Step) -> Refusal | None:
        """May it go, and can what it may cost be held?"""
        try:
            return await reserve.admit(self._p, step)
        except StoreFailed as failure:
            return order.unavailable(str(failure), step.run.id)
        except Undecodable as failure:
            return order.turned_away(failure)

    async def _forward(self, step: Step) -> None:
        """Sends it on; whatever comes of it ends in `_settle`."""
        p = self._p
        attempt = Attempt(step.provider.name, step.call.model, None, "ok", started_at=now(step, p.clock))
        hide = step.call.stream and step.provider.quirks.usage_option and not step.call.usage_asked
        try:
            body = step.dialect.rewrite(step.call, step.inbound.body, hold.edits(step, hide))
            if step.open.gone or step.open.refusal is not None:
                raise UpstreamFailed("the call was ended", kind="closed", sent=False)
            step.record.attempts.append(attempt)
            step.sent = True
            stream = await p.upstream.send(step.provider, step.inbound, body, step.open.on_stop, not step.call.stream)
        except Undecodable as failure:
            refusal = hold.unfit(step, failure)
            return await self._fail(step, refusal, refused(refusal))
        except UpstreamFailed as failure:
            refusal = relay.unreachable(failure, step.open, step.run.id)
            return await self._fail(step, refusal, relay.never_came(failure, step.open))
        attempt.status, step.record.first_at = stream.status, now(step, p.clock)
        stream = capture.over(p.capture, step, stream)
        if relay.is_events(stream):
            await self._events(step, stream, hide)
        else:
            await self._whole(step, stream)

    async def _events(self, step: Step, stream: Stream, hide: bool) -> None:
        """A streamed answer: its end goes out only after it has settled."""
        p, outlet = self._p, step.outlet
        model, reader = step.call.model, step.dialect.reader(step.call, hide)
        meter = Meter(hold.metered_output(step), spread=tokens.spread(model), most=hold.most_output(step))
        watch = relay.Watch(meter, p.tokenizer, tokens.encoding_of(model), hold.top_up(p, step))
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
            await outlet.write(reader.cut(hold.why_cut(step, ending)))
        stream.close()
        await outlet.end()

    async def _whole(self, step: Step, stream: Stream) -> None:
        """An answer in one piece: read, settled, then handed on with its cost in the head."""
        if stream.status < 400:
            await hold.cover(self._p, step)
        way = relay.Relay(stream, step.outlet, step.open)
        body, ending = await way.whole(lambda: step.outlet.start(stream.status, stamps.heads(step, stream)))
        stream.close()
        reply = step.dialect.whole(step.call, stream.status, body)
        ending.own_error = stream.status >= 400 and step.dialect.own_error(body)
        await hold.settle(self._p, step, ending, reply)
        if ending.way in ("cut", "broken"):
            refusal = hold.why_cut(step, ending)
            return step.outlet.abort() if way.began else await step.outlet.whole(*stamps.spoken(step, refusal))
        if way.began:
            await step.outlet.write(body)
            return await step.outlet.end()
        heads = [*stamps.heads(step, stream), *stamps.after(step.record, step.balances)]
        await step.outlet.whole(stream.status, heads, body)

    async def _fail(self, step: Step, refusal: Refusal, ending: Ending) -> None:
        """Nothing came back: what was held ends, and the caller reads why; at once where the ledger is in trouble."""
        late = refusal.code == order.UNAVAILABLE
        if not step.settled and not late:
            await hold.settle(self._p, step, ending, Reply())
        await step.outlet.whole(*stamps.spoken(step, refusal))
        if not step.settled:
            await hold.settle(self._p, step, ending, Reply())
