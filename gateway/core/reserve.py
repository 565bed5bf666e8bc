"""Before a call is sent: whose it is, what the rules charge it for, and the ledger's grant for that.

Invariant: nothing is sent before a grant; near a limit the tokenizer's figure replaces the bytes, never beyond them;
all that was learnt of a run counts from the next order on. What never enters: a provider's wire format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import structs

from gateway.core import life, order, price, tokens
from gateway.core.admit import admit as ask_rules
from gateway.core.admit import gates
from gateway.core.identify import identify, named
from gateway.core.ledger import names
from gateway.core.ledger.company import tight_account
from gateway.core.parts import Parts
from gateway.core.quote import PAID_IN, Ask, limit_for, quote
from gateway.core.step import Step
from gateway.core.types import Balance, Call, Charge, Denied, Inbound, Order, Pending, Refusal, Reservation, RunFacts

# A hold outlives the call's own total timeout by this much, then it is presumed (ledger.md section 1, P4).
GRACE_S = 60.0
# Below this share of the grant the input's bound is not worth a trip to the tokenizer.
INPUT_SHARE = 10
# Of a budget that ends with a last call: below one part in so many its size is not worth that trip either. Such a call
# comes once less is left than 2.25 times its floor (core/ledger/limits.py), so that at most 5 % is lost to the bytes.
LAST_SHARE = 45
# Looks for a run and its ancestors: as deep as runs may be nested, and one more that is refused.
MOST_LOOKS = 18
# Orders of one call: the first, two more where the ledger knew more of its run, one for the model to degrade to.
MOST_ORDERS = 4


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


async def admit(p: Parts, step: Step) -> Refusal | None:
    """May it go, and can what it may cost be held? Asked anew where the ledger knows more of its run than this process
    does, and where the budget that refuses it names another model."""
    first: Refusal | None = None  # why the model that was asked for isn't paid
    orders = 0
    while orders < MOST_ORDERS:
        p, step.open.anew = p.in_force(), False
        card = p.prices.card(step.provider, step.call.model, step.inbound.at)
        step.offer, step.counted = quote(step.call, card, p.policy), False
        ask = Ask(step.call, step.run, step.ancestors, step.inbound.labels, step.offer, step.inbound.at)
        verdict = ask_rules(p.rules, ask)
        if isinstance(verdict, Refusal):
            return first or verdict
        if isinstance(verdict, Pending):
            return order.overloaded(step.run.id)
        got = await _reserve(p, step, ask, verdict.charges)
        if not isinstance(got, Denied):
            await _granted(p, step, verdict.charges, got)
            return _unholdable(p, ask, got.balances)
        if step.open.anew and got.reason == "gone":
            continue
        orders += 1
        if got.reason != "stale":
            refusal = _refusal(got, step)
            step.record.limited = order.limited(got)
            if not _degrade(step, got):
                return refusal
            first = refusal
        else:
            await _relearn(p, step)
    return order.overloaded(step.run.id)


async def _reserve(p: Parts, step: Step, ask: Ask, charges: Sequence[Charge]) -> Reservation | Denied:
    """Holds the charges in one step, waiting in line where only other calls' holds are in the way."""
    step.learns = any(charge.expected for charge in charges)
    refinable = _refinable(step.call)
    asked = _order(p, step, ask, charges, 0.0 if refinable else p.wait_s)
    near = refinable and (tight_account(asked) is not None or _may_be_last(asked))
    if near and p.tokenizer.ready(tokens.encoding_of(step.call.model)):
        await _refine(p, step)  # so that more of a burst fit at once, and a last call comes no sooner than it must
        refinable, asked = False, _order(p, step, ask, charges, p.wait_s)
    step.open.on_stop(lambda: p.store.forget(asked.id))
    got = await _ask(p, step, asked)
    if refinable and isinstance(got, Denied) and got.reason == "limit":
        await _refine(p, step)
        got = await _ask(p, step, _order(p, step, ask, charges, p.wait_s))
    return got


def _may_be_last(asked: Order) -> bool:
    """Would a coarse bound make this the last call much too early? What is kept for one more is as coarse."""
    return any(
        charge.last and charge.limit is not None and charge.least * LAST_SHARE > charge.limit
        for charge in asked.charges
    )


async def _ask(p: Parts, step: Step, asked: Order) -> Reservation | Denied:
    """Asks for the hold. Whoever left before could not be taken out of the line again, so he isn't let into it; nor is
    an order by rules that another configuration has replaced meanwhile."""
    call = step.open
    if call.gone or call.refusal is not None:
        return Denied("", "", "gone")
    if p.in_force() is not p:
        call.anew = True
        return Denied("", "", "gone")
    call.waits(lambda: p.store.forget(asked.id))
    since = p.clock.mono()
    try:
        return await p.store.reserve(asked)
    finally:
        call.waits(None)
        step.record.reserve_s += p.clock.mono() - since


def _order(p: Parts, step: Step, ask: Ask, charges: Sequence[Charge], wait_s: float) -> Order:
    offer = step.offer
    step.paid = _expected(p, step, charges) if step.learns else None
    sizes = offer.sizes if step.paid is None else _sizes(step, step.paid)
    return Order(
        id=f"{step.record.call_id}/1",
        call_id=step.record.call_id,
        run=step.run,
        charges=tuple([_sized(charge, sizes) for charge in charges]),
        at=ask.now,
        deadline_at=ask.now + step.provider.total_s + GRACE_S,
        wait_s=wait_s,
        gates=gates(ask),
        about=(step.call.dialect, step.provider.name, step.call.operation, step.record.request_model, step.call.stream),
        sizes=offer.sizes,
    )


def _sized(charge: Charge, sizes: Mapping[str, tuple[int, int]]) -> Charge:
    size = sizes.get(charge.unit)
    if size is None or size == (charge.want, charge.least):
        return charge
    return structs.replace(charge, want=size[0], least=size[1])


# --------------------------------------------------------------------------- what is expected


def _expected(p: Parts, step: Step, charges: Sequence[Charge]) -> int | None:
    """Output per choice to hold for at first, where every limit that output is paid from goes by what is expected.

    Only of an answer that streams: what comes in one piece can't be cut. Nor can thoughts that nobody sees, nor what a
    tool of the provider's own reads meanwhile.
    """
    call = step.call
    if not call.stream or call.size.thinking is not None or call.size.hosted:
        return None
    limited = [c for c in charges if c.unit in PAID_IN and (c.limit is not None or c.lower is not None)]
    if not limited or not all(charge.expected for charge in limited):
        return None
    likely = p.learned.likely(step.run.key, call.model)
    return likely if likely is not None and likely < step.offer.output else None


def _sizes(step: Step, output: int) -> dict[str, tuple[int, int]]:
    """What a call of this output holds; the floor stays, or is lower with it."""
    offer = step.offer
    if offer.terms is None:
        return offer.sizes
    cost, count = price.bounds(offer.terms, output)
    likely = {"nusd": cost, "tokens": count}
    return {
        unit: (min(want, likely[unit]), min(least, likely[unit])) if unit in likely else (want, least)
        for unit, (want, least) in offer.sizes.items()
    }


# --------------------------------------------------------------------------- the ledger's answer


async def _granted(p: Parts, step: Step, charges: Sequence[Charge], got: Reservation) -> None:
    """Takes the grant down: the output limit that it pays for, or what the hold may grow from."""
    step.order_id, step.held, step.last = got.id, dict(got.granted), got.last
    step.record.hold_nusd, step.record.limited = step.hold_nusd, None
    step.record.step = got.step
    step.balances = got.balances
    if step.model is not None:
        step.warn(f"{step.model} is asked instead of {step.record.request_model}: the budget doesn't pay for that")
    if step.last:
        step.warn("this is the last call that the budget pays for: no tool may be called, later calls are refused")
    limited = _limiting(step, got.balances)
    step.metered = bool(limited)
    if step.paid is not None and not await _may_grow(p, step, charges, limited):
        step.paid = None
    if step.metered and step.paid is None:
        if _refinable(step.call) and _input_matters(step):
            await _refine(p, step)
        step.limit = limit_for(step.call, step.offer, step.held)
    elif step.metered and step.offer.must_set:
        step.limit = step.offer.output
    step.record.clamped = step.limit


def _limiting(step: Step, balances: Sequence[Balance]) -> list[str]:
    """The accounts whose limit pays for output: dollars only where the price is known."""
    units = PAID_IN if step.offer.card is not None else ("tokens",)
    return [b.account for b in balances if b.limit is not None and names.read(b.account).unit in units]


async def _may_grow(p: Parts, step: Step, charges: Sequence[Charge], limited: Sequence[str]) -> bool:
    """Was all that is expected granted, from accounts that all go by it? What is short, or a last call, is clamped to
    its grant; where a limit was met that does not go by what is expected, the worst case is held after all."""
    if step.last or not limited or step.paid is None:
        return False
    expected = _sizes(step, step.paid)
    paying = [unit for unit in PAID_IN if unit in step.held]
    if any(step.held[unit] < expected[unit][0] for unit in paying):
        return False
    going = [charge.account for charge in charges if charge.expected]
    if all(any(name == one or name.startswith(f"{one}/") for one in going) for name in limited):
        return True
    for unit in paying:
        most = step.offer.sizes[unit][0]
        if most > step.held[unit] and await p.store.adjust(step.order_id or "", unit, most):
            step.held[unit] = most
    step.record.hold_nusd = step.hold_nusd
    return False


def _unholdable(p: Parts, ask: Ask, balances: Sequence[Balance]) -> Refusal | None:
    """Asks once more where price or bound is missing: only the ledger knows what a caller or an operator limited."""
    offer = ask.quote
    if offer.card is not None and offer.unbounded is None:
        return None
    limited = tuple([balance.account for balance in balances if balance.limit is not None])
    verdict = ask_rules(p.rules, structs.replace(ask, limited=limited))
    return verdict if isinstance(verdict, Refusal) else None


def _refusal(got: Denied, step: Step) -> Refusal:
    if got.reason == "gone" and step.open.refusal is not None:
        return structs.replace(step.open.refusal, run_id=step.run.id)
    if got.reason == "gone" and step.open.gone:
        return Refusal(503, "client_left", "The caller left while its call waited in line.", run_id=step.run.id)
    return order.explain(got, step.run.id, None)


def _degrade(step: Step, got: Denied) -> bool:
    """Turns the call to the model that the refusing budget names. Once; not where the path names the model; and vectors
    of another model would be compared with those at hand."""
    call, model = step.call, got.degrade
    if got.reason != "limit" or model is None or step.model is not None or model == call.model or call.size.embeds:
        return False
    if step.provider.quirks.path_model and "/deployments/" in step.inbound.match:
        return False
    step.model = model
    step.call = structs.replace(call, model=model)
    return True


async def _relearn(p: Parts, step: Step) -> None:
    """Asks the ledger for the run and its ancestors: another process was told their parent, agent or user."""
    key: str | None = step.run.key
    for _ in range(MOST_LOOKS):
        known = await p.store.run(key) if key is not None else None
        if known is None:
            break
        p.kin.learn(known)
        key = known.parent
    step.run = p.kin.merge(step.run)
    step.ancestors = life.ancestors(step.run.key, p.kin.parent_of)
    step.open.belongs((step.run.key, *step.ancestors), step.run.agent, step.run.user)


# --------------------------------------------------------------------------- a finer bound


def _refinable(call: Call) -> bool:
    size = call.size
    return not (size.images or size.other_media or size.unseen)


def _input_matters(step: Step) -> bool:
    """Is the grant short, and the input's bound a good part of it?"""
    offer = step.offer
    short = [unit for unit in PAID_IN if unit in step.held and step.held[unit] < offer.sizes[unit][0]]
    if not short or offer.terms is None:
        return False
    terms = offer.terms
    return any(PAID_IN[unit](terms, 0) * INPUT_SHARE > step.held[unit] for unit in short)


async def _refine(p: Parts, step: Step) -> None:
    """Tier B of ledger.md section 5: the tokenizer's count, once. Until it has loaded, the bytes decide."""
    encoding = tokens.encoding_of(step.call.model)
    if step.counted:
        return
    if not p.tokenizer.ready(encoding):
        return p.tokenizer.warm(encoding)
    step.counted = True
    counted = await p.tokenizer.count(encoding, step.inbound.body.decode("utf-8", "replace"))
    if counted is not None:
        step.offer = quote(step.call, step.offer.card, p.policy, counted)
