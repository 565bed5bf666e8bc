"""Holding what a call may cost, and settling it: the order, the finer bound near a limit, the limit a grant pays for.

Invariant: nothing is sent before a grant; near a limit the tokenizer's figure replaces the bytes, never beyond them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from gateway.core import life, order, outcome, price, tokens
from gateway.core.admit import gates
from gateway.core.errors import StoreFailed
from gateway.core.identify import identify, named
from gateway.core.outcome import Ending
from gateway.core.parts import Parts
from gateway.core.quote import Ask, Quote, limit_for, quote
from gateway.core.step import Step
from gateway.core.types import Call, Charge, Denied, Edits, Inbound, Order, Refusal, Reply, Reservation, RunFacts

# A hold outlives the call's own total timeout by this much, then it is presumed (ledger.md section 1, P4).
GRACE_S = 60.0
# Below this share of the grant the input's bound is not worth a trip to the tokenizer.
INPUT_SHARE = 10
# Looks for a run and its ancestors: as deep as runs may be nested, and one more that is refused.
MOST_LOOKS = 18


async def whose(p: Parts, inbound: Inbound, call: Call) -> RunFacts:
    """The run that a call belongs to; what other processes answered is learnt where only its conversation can tell."""
    if p.catch_up is not None and named(inbound.labels, call)[0] is None:
        await p.catch_up()
    return await recall(p, identify(inbound, call, p.index, p.clock.new_id))


async def recall(p: Parts, run: RunFacts) -> RunFacts:
    """The run's facts with what is known of it; a run that was named is asked for once, and so is each ancestor."""
    key = run.key if run.source != "inferred" else run.parent
    for _ in range(MOST_LOOKS):
        if key is None:
            break
        if not p.kin.seen(key) and (known := await p.store.run(key)) is not None:
            p.kin.learn(known)
        key = p.kin.parent_of(key) or (run.parent if key == run.key else None)
    if run.parent is not None and p.kin.parent_of(run.key) is None:
        # a parent that can't be is refused before it is remembered
        life.ancestors(run.key, lambda key: run.parent if key == run.key else p.kin.parent_of(key))
    return p.kin.merge(run)


async def reserve(p: Parts, step: Step, ask: Ask, charges: Sequence[Charge]) -> Refusal | None:
    """Holds the charges in one step, waiting in line where only other calls' holds are in the way."""
    refinable = step.offer.card is not None and _refinable(step.call)
    asked = _order(step, ask, charges, 0.0 if refinable else p.wait_s)
    step.open.on_stop(lambda: p.store.forget(asked.id))
    got = await _ask(p, step, asked)
    if isinstance(got, Denied) and got.reason == "limit" and refinable:
        await _refine(p, step)
        refinable = False
        got = await _ask(p, step, _order(step, ask, charges, p.wait_s))
    if isinstance(got, Denied):
        return _denied(got, step)
    _granted(step, got)
    held = step.hold_nusd
    if held < step.offer.want and refinable and _input_matters(step.offer, step.call, held):
        await _refine(p, step)
    step.limit = limit_for(step.call, step.offer, held) if step.metered else None
    step.record.clamped = step.limit
    return None


async def _ask(p: Parts, step: Step, asked: Order) -> Reservation | Denied:
    """Asks for the hold. Whoever left before could not be taken out of the line again, so he isn't let into it."""
    if step.open.gone or step.open.refusal is not None:
        return Denied("", "", "gone")
    return await p.store.reserve(asked)


def _denied(got: Denied, step: Step) -> Refusal:
    if got.reason == "gone" and step.open.refusal is not None:
        return structs.replace(step.open.refusal, run_id=step.run.id)
    if got.reason == "gone" and step.open.gone:
        return Refusal(503, "client_left", "The caller left while its call waited in line.", run_id=step.run.id)
    return order.explain(got, step.run.id, None)


def _granted(step: Step, got: Reservation) -> None:
    step.order_id = got.id
    step.hold_nusd = step.record.hold_nusd = got.granted.get("nusd", 0)
    step.record.step = got.step
    step.balances = got.balances
    step.metered = step.offer.card is not None and any(balance.limit is not None for balance in got.balances)


def _order(step: Step, ask: Ask, charges: Sequence[Charge], wait_s: float) -> Order:
    offer = step.offer
    return Order(
        id=f"{step.record.call_id}/1",
        call_id=step.record.call_id,
        run=step.run,
        charges=tuple(
            structs.replace(charge, want=offer.want, least=offer.least) if charge.unit == "nusd" else charge
            for charge in charges
        ),
        at=ask.now,
        deadline_at=ask.now + step.provider.total_s + GRACE_S,
        wait_s=wait_s,
        gates=gates(ask),
        about=(step.call.dialect, step.provider.name, step.call.operation, step.call.model, step.call.stream),
    )


def _refinable(call: Call) -> bool:
    size = call.size
    return not (size.images or size.other_media or size.unseen)


def _input_matters(offer: Quote, call: Call, held: int) -> bool:
    return offer.card is not None and price.bound(offer.card, call.size, offer.input_tokens, 0) * INPUT_SHARE > held


async def _refine(p: Parts, step: Step) -> None:
    """Tier B of ledger.md section 5: the tokenizer's count. Until it has loaded, the bytes decide."""
    encoding = tokens.encoding_of(step.call.model)
    if not p.tokenizer.ready(encoding):
        return p.tokenizer.warm(encoding)
    counted = await p.tokenizer.count(encoding, step.inbound.body.decode("utf-8", "replace"))
    if counted is not None:
        step.offer = quote(step.call, step.offer.card, p.policy, counted)


def metered_output(step: Step) -> int | None:
    """How many output tokens the hold pays for; None where no limit applies and nothing is cut."""
    if not step.metered or step.call.size.embeds:
        return None
    return (step.limit or step.offer.output) * step.call.size.choices


def edits(step: Step, ask_usage: bool) -> Edits:
    """What the body is sent with: what was granted, and caps for provider-run tools that have none of their own."""
    open_ended = any(tool.uses is None and tool.cappable for tool in step.call.size.hosted)
    caps = price.HOSTED_CAP if step.metered and open_ended else None
    return Edits(step.limit, ask_usage, caps)


def lower(p: Parts, step: Step) -> Callable[[int], Awaitable[None]]:
    """Lowers the hold once the stream has told its exact input (ledger.md section 5)."""

    async def adjust(input_told: int) -> None:
        card = step.offer.card
        if card is None or step.order_id is None:
            return
        hold = price.bound(card, step.call.size, input_told, step.limit or step.offer.output)
        if hold < step.hold_nusd:
            try:
                if await p.store.adjust(step.order_id, "nusd", hold):
                    step.hold_nusd = hold
            except StoreFailed:
                return  # the larger hold stands: safe, and settle will say what the store's trouble is

    return adjust


async def settle(p: Parts, step: Step, ending: Ending, reply: Reply) -> None:
    """Money and record in one transaction; registered in its conversation before the answer's last byte leaves."""
    record = step.record
    outcome.close(step, ending, reply, p.prices, p.clock.now())
    p.index.note(record.tenant, record.run, step.call, reply, record.ended_at)
    try:
        settled = await p.store.settle(step.order_id, outcome.actual(record.cost_nusd, reply), record)
    except StoreFailed as failure:
        step.settled = True  # the sweep presumes it
        return p.log("settle_failed", {"call_id": record.call_id, "run": record.run, "why": str(failure)})
    step.settled = True
    step.balances = settled.balances or step.balances
    record.step = settled.step or record.step
    if step.order_id is not None and record.cost_nusd is not None and settled.charged is not None:
        record.cost_nusd = settled.charged
