"""How a call ended, in money: void, settled at its usage, estimated, or presumed at its hold (ledger.md section 6).

Invariant: an unknown outcome is never cheap: it costs the hold until a later fact says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from gateway.core import price
from gateway.core.ports import Prices
from gateway.core.price import RateCard
from gateway.core.quote import Quote
from gateway.core.step import Step
from gateway.core.types import Call, CostSource, Exchange, Outcome, Refusal, Reply, Usage

Way = Literal["done", "left", "cut", "broken", "unsent", "refused"]

# Refused before any output: nobody bills these (ledger.md section 6; wire-formats.md section 8).
UNBILLED = frozenset({429, 503, 529})


class Ending(Struct):
    """What the wire saw last."""

    way: Way = "done"
    status: int | None = None
    reason: str = ""
    sent: bool = True  # a byte of the request may have left
    own_error: bool = False  # the error body is the provider's own, not some proxy's page
    output_tokens: int = 0  # what was counted while it streamed, for a cut
    chunks: int = 0  # reads of a streamed body


def refused(refusal: Refusal) -> Ending:
    """How a call ended that was never sent."""
    return Ending("left" if refusal.code == "client_left" else "refused", None, refusal.code, sent=False)


def unbilled(ending: Ending) -> bool:
    """Can nothing have been billed?"""
    if ending.way in ("unsent", "refused") or not ending.sent:
        return True
    status = ending.status
    if status is None or status < 400:
        return False
    return status < 500 or status in UNBILLED or (status == 500 and ending.own_error)


def conclude(
    call: Call, offer: Quote, ending: Ending, reply: Reply, card_of: Callable[[str], RateCard | None]
) -> tuple[Outcome, CostSource, int | None]:
    """The call's outcome, where its cost comes from, and the cost in nano-dollars (None: the store charges the hold,
    or nobody knows it)."""
    outcome = _outcome(ending, reply)
    if unbilled(ending):
        return outcome, "refused", 0
    if reply.usage_complete and reply.usage is not None:
        source, cost = _told(call, offer, reply, reply.usage, card_of)
        return outcome, source, cost
    if offer.card is None:
        return outcome, "no_usage" if reply.usage is None else "unknown_model", None
    if ending.way == "cut":
        terms = offer.terms or price.terms_of(offer.card, call.size, offer.input_tokens)
        return outcome, "estimate", price.cost_bound(terms, _each(call, ending))
    return outcome, "presumed", None


def _each(call: Call, ending: Ending) -> int:
    return -(-ending.output_tokens // max(1, call.size.choices))


def _outcome(ending: Ending, reply: Reply) -> Outcome:
    if ending.way == "refused":
        return "refused"
    if ending.way == "left":
        return "client_left"
    if ending.way == "cut":
        return "cut"
    if ending.way in ("broken", "unsent") or (ending.status or 0) >= 400 or reply.error is not None:
        return "upstream_error"
    return "ok" if reply.ended or reply.usage_complete else "unknown"


def _told(
    call: Call, offer: Quote, reply: Reply, usage: Usage, card_of: Callable[[str], RateCard | None]
) -> tuple[CostSource, int | None]:
    """The cost of usage that the provider told: as it states it, else by the card of the model that answered."""
    stated = reply.stated_nusd
    if stated is not None and (stated > 0 or reply.stated_zero_ok or not (usage.input_tokens or usage.output_tokens)):
        return "provider", stated
    card = (card_of(reply.model) if reply.model else None) or offer.card
    if card is None:
        return "unknown_model", None
    tier = reply.tier or call.size.tier
    cost = price.cost(card, usage, tier, geo=reply.geo or call.size.geo, speed=reply.speed or call.size.speed)
    for model, tokens_in, tokens_out in usage.extra:
        part = card_of(model) or card
        cost += price.cost(part, Usage(input_tokens=tokens_in, output_tokens=tokens_out), tier)
    return card.source, cost


def close(step: Step, ending: Ending, reply: Reply, prices: Prices, now: float) -> None:
    """Writes how the call ended into its record, money included."""
    record, at = step.record, step.inbound.at
    record.ended_at = now
    record.outcome, record.cost_source, record.cost_nusd = conclude(
        step.call, step.offer, ending, reply, lambda model: prices.card(step.provider, model, at)
    )
    fill(record, reply, ending)
    if record.cost_source == "estimate" and record.cost_nusd is not None:
        record.cost_nusd = max(record.cost_nusd, step.hold_nusd)
        record.estimated = True
    elif record.cost_source == "presumed":
        record.estimated = True
        record.cost_nusd = step.hold_nusd
        step.warn(f"{_unclear(ending)} doesn't say what this call was billed: its hold is charged")
    for attempt in record.attempts:
        attempt.status, attempt.outcome = ending.status, record.outcome
        attempt.cost_nusd, attempt.ended_at = record.cost_nusd, now


def _unclear(ending: Ending) -> str:
    if ending.status is None:
        return "an answer that never came"
    if ending.way == "broken":
        return "an answer that broke off"
    return f"status {ending.status}" if ending.status >= 400 else "an answer without usage"


def fill(exchange: Exchange, reply: Reply, ending: Ending) -> None:
    """Writes what the answer said into the call's record."""
    exchange.status = ending.status
    exchange.reason = ending.reason or reply.error or ""
    exchange.response_model = reply.model
    exchange.response_id = reply.response_id
    exchange.finish_reason = reply.finish_reason
    exchange.usage = reply.usage
    exchange.tool_calls = reply.tool_calls
    exchange.links = reply.links
    exchange.tier = reply.tier
    exchange.chunks = ending.chunks


def actual(step: Step, ending: Ending, reply: Reply) -> dict[str, int]:
    """What the call used, by unit. A unit that is missing is not known: the ledger charges what is held of it."""
    used = {
        "nusd": step.record.cost_nusd or 0,
        "calls": 1 if ending.sent and ending.way != "refused" else 0,
        "tool_calls": len(reply.tool_calls),
    }
    billed = _billed(step, ending, reply)
    if billed is not None:
        used["tokens"] = billed
    return used


def _billed(step: Step, ending: Ending, reply: Reply) -> int | None:
    usage, terms = reply.usage, step.offer.terms
    if step.record.cost_source == "refused":
        return 0
    if reply.usage_complete and usage is not None:
        beside = sum(tokens_in + tokens_out for _, tokens_in, tokens_out in usage.extra)
        return (usage.input_tokens or 0) + (usage.output_tokens or 0) + beside
    if ending.way == "cut" and terms is not None:
        return max(step.held.get("tokens", 0), price.token_bound(terms, _each(step.call, ending)))
    return None
