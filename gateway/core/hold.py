"""A call's hold while it is under way: what it makes of the body, how it shrinks, how it grows, how it ends.

Invariant: a hold never falls below what the answer may still cost; it grows only by what the ledger grants.
What never enters: admission (`reserve`), a provider's wire format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import structs

from gateway.core import order, outcome, price, relay
from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.outcome import Ending
from gateway.core.parts import Parts
from gateway.core.quote import PAID_IN, tightest
from gateway.core.step import Step, now
from gateway.core.types import Edits, Refusal, Reply


def edits(step: Step, ask_usage: bool) -> Edits:
    """What the body is sent with: what was granted, and caps for provider-run tools that have none of their own."""
    open_ended = any(tool.uses is None and tool.cappable for tool in step.call.size.hosted)
    caps = price.HOSTED_CAP if step.metered and open_ended else None
    return Edits(step.limit, ask_usage, caps, bool(step.last), step.model)


def unfit(step: Step, failure: Undecodable) -> Refusal:
    """A format that takes no limit as low as what was granted pays for; the code is that of the unit that is short."""
    code = order.code_of(tightest(step.offer, step.held)) if failure.status == 402 else failure.code
    return Refusal(failure.status, code, str(failure), run_id=step.run.id, scope="run")


def metered_output(step: Step) -> int | None:
    """How many output tokens the hold pays for; None where no limit applies and nothing is cut."""
    if not step.metered or step.call.size.embeds:
        return None
    return step.output * step.call.size.choices


def lower(p: Parts, step: Step) -> Callable[[int], Awaitable[None]]:
    """Lowers the hold once the stream has told its exact input (ledger.md section 5)."""

    async def adjust(input_told: int) -> None:
        terms = step.offer.terms
        if terms is None or step.order_id is None:
            return
        if input_told < terms.input_tokens:  # what grows from now on grows from here
            step.offer = structs.replace(step.offer, terms=structs.replace(terms, input_tokens=input_told))
        for unit, amount in _bounds(step, step.output):
            if amount < step.held[unit]:
                await _set(p, step, unit, amount)

    return adjust


def top_up(p: Parts, step: Step) -> Callable[[int], Awaitable[int]] | None:
    """Lets the hold grow with the answer, where it began with what was expected (design.md section 2); else None."""
    if step.paid is None or not step.metered:
        return None
    choices = max(1, step.call.size.choices)

    async def grow(output_tokens: int) -> int:
        """Pays for so many more tokens of all choices together, as far as any may come; gives what is paid for then."""
        output = min(step.offer.output, step.output + -(-output_tokens // choices))
        for unit, amount in _bounds(step, output):
            if amount > step.held[unit] and not await _set(p, step, unit, amount):
                return step.output * choices
        step.paid = output
        return output * choices

    return grow


async def cover(p: Parts, step: Step) -> None:
    """An answer that was to stream and comes in one piece can't be cut: the worst case is held, if it fits."""
    grow = top_up(p, step)
    if grow is not None:
        await grow(most_output(step) or 0)


def _bounds(step: Step, output: int) -> list[tuple[str, int]]:
    terms = step.offer.terms
    if terms is None:
        return []
    return [(unit, bound(terms, output)) for unit, bound in PAID_IN.items() if unit in step.held]


async def _set(p: Parts, step: Step, unit: str, amount: int) -> bool:
    try:
        done = await p.store.adjust(step.order_id or "", unit, amount)
    except StoreFailed:
        return False  # what is held stands: safe, and settle will say what the store's trouble is
    if done:
        step.held[unit] = amount
    return done


def most_output(step: Step) -> int | None:
    """How many output tokens the hold may grow to pay for; None where it stays as it is."""
    return None if step.paid is None else step.offer.output * step.call.size.choices


def why_cut(step: Step, ending: Ending) -> Refusal:
    """What the client of an answer is told that doesn't end well."""
    unit = tightest(step.offer, step.held)
    return relay.why_cut(ending, step.open, step.run.id, metered_output(step) or 0, unit)


async def settle(p: Parts, step: Step, ending: Ending, reply: Reply) -> None:
    """Money and record in one transaction; registered in its conversation before the answer's last byte leaves."""
    record = step.record
    try:
        outcome.close(step, ending, reply, p.prices, now(step, p.clock))
        p.index.note(record.tenant, record.run, step.call, reply, record.ended_at)
        if step.learns and record.outcome == "ok" and reply.usage_complete:
            _learn(p, step, reply)
        settled = await p.store.settle(step.order_id, outcome.actual(step, ending, reply), record)
    except StoreFailed as failure:
        step.settled = True  # the sweep presumes it
        return p.log("settle_failed", {"call_id": record.call_id, "run": record.run, "why": str(failure)})
    finally:
        if step.heard is not None:
            step.heard.end()
    step.settled = True
    step.balances = settled.balances or step.balances
    record.step = settled.step or record.step
    if step.order_id is not None and record.cost_nusd is not None and settled.charged is not None:
        record.cost_nusd = settled.charged


def _learn(p: Parts, step: Step, reply: Reply) -> None:
    usage = reply.usage
    if usage is None or usage.output_tokens is None:
        return
    each = -(-usage.output_tokens // max(1, step.call.size.choices))
    p.learned.note(step.run.key, step.call.model, each, reply.output_bytes, usage.reasoning_tokens or 0)
