"""What a call may cost before it is made: the amounts to hold, and the output limit that a grant pays for.

Invariant: all amounts are bounds (ledger.md section 5): a provider that keeps the limit in force bills no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct

from gateway.core import models, price, tokens
from gateway.core.price import RateCard, Rates, Terms
from gateway.core.types import Call, Labels, RunFacts

# Anthropic's manual thinking needs 1024 <= budget_tokens < max_tokens (wire-formats.md section 1).
LEAST_THINKING = 1024
# More than any call can cost: beyond it the ledger's sums would not fit, and no limit is that high.
MOST_NUSD = 1 << 50
# What a call is in the units that need no bound: one call, tool calls that it may or may not emit, a second begun.
COUNTS = {"calls": (1, 1), "tool_calls": (0, 0), "seconds": (1, 1)}
# The units that output is paid in, and what bounds each.
PAID_IN: Mapping[str, Callable[[Terms, int], int]] = MappingProxyType(
    {"nusd": price.cost_bound, "tokens": price.token_bound}
)
NOTHING = Rates(0, 0, 0, 0, 0, 0, 0, 0)


class Policy(Struct, frozen=True):
    """The settings that a quote depends on."""

    min_output: int = 256
    default_max_output: int = 8192
    clamp: bool = True


class Quote(Struct, frozen=True):
    """Bounds of one call. `card` None: the price is unknown, and only what needs no price is bounded.

    sizes: unit -> (want, least), what a charge of that unit holds. `want` and `least` are those of nano-dollars.
    unbounded: why the cost can't be bounded; endless: why the tokens can't be, whatever they cost.
    """

    card: RateCard | None
    input_tokens: int = 0
    output: int = 0  # the limit per choice that `want` pays for
    must_set: bool = False  # no limit was asked and the model's own is not known: one has to be set
    share: bool = False  # no limit was asked: parallel calls share what is free
    want: int = 0
    least: int = 0
    unbounded: str | None = None
    endless: str | None = None
    sizes: dict[str, tuple[int, int]] = {}
    terms: Terms | None = None  # what all bounds of the call begin with
    greatest: int | None = None  # the model's own limit of output, where it is known


class Ask(Struct, frozen=True):
    """All that a rule may look at."""

    call: Call
    run: RunFacts
    ancestors: tuple[str, ...]  # run keys, nearest first
    labels: Labels
    quote: Quote
    now: float
    limited: tuple[str, ...] = ()  # accounts that the ledger holds to a limit, configured or not


def quote(call: Call, card: RateCard | None, policy: Policy, counted: int | None = None) -> Quote:
    """Bounds the call at this card; with `counted` by the tokenizer's figure instead of the bytes."""
    size, known = call.size, card or _unpriced(call)
    bound_in = tokens.input_bound(size, known) if counted is None else tokens.refined(size, counted, known)
    greatest = known.max_output or models.greatest_output(call.model)
    asked = size.asked_output
    output = 0 if size.embeds else asked if asked is not None else greatest or policy.default_max_output
    floor = min(output, policy.min_output + (LEAST_THINKING if size.thinking else 0)) if policy.clamp else output
    terms = price.terms_of(known, size, bound_in)
    cost, want_tokens = price.bounds(terms, output)
    least_cost, least_tokens = price.bounds(terms, floor)
    want = min(MOST_NUSD, cost)
    least = min(want, least_cost)
    why = price.unbounded(size, known, caps_allowed=True)
    return Quote(
        card=card,
        input_tokens=bound_in,
        output=output,
        must_set=asked is None and greatest is None and not size.embeds,
        share=asked is None and not size.embeds,
        want=want,
        least=least,
        unbounded=why if card is not None else None,
        endless=price.endless(size, known, caps_allowed=True) if why is not None else None,
        sizes={
            "nusd": (want, least),
            "tokens": (want_tokens, least_tokens),
            **COUNTS,
        },
        terms=terms,
        greatest=greatest,
    )


def _unpriced(call: Call) -> RateCard:
    """A card that costs nothing and knows what is known without a price: it bounds tokens, never money."""
    name = call.provider.name
    window, exact = models.context_of(call.model), tokens.is_exact(call.model)
    return RateCard(call.model, name, NOTHING, writes_cache=False, context_window=window, openai_tokenizer=exact)


def limit_for(call: Call, offer: Quote, granted: Mapping[str, int]) -> int | None:
    """The output limit to set so that the call can't use more of any unit than was granted; None leaves the body
    alone. granted: unit -> amount."""
    if call.size.embeds or offer.terms is None:
        return None
    short = {unit: granted[unit] for unit in PAID_IN if unit in granted and granted[unit] < offer.sizes[unit][0]}
    if not short:
        return offer.output if offer.must_set else None
    paid = [amount for _, amount in _afforded(offer, short)]
    return min(offer.output, offer.greatest or offer.output, *paid)


def tightest(offer: Quote, granted: Mapping[str, int]) -> str:
    """The unit whose grant pays for the least output."""
    paid = sorted((amount, unit) for unit, amount in _afforded(offer, granted))
    return paid[0][1] if paid else "nusd"


def _afforded(offer: Quote, granted: Mapping[str, int]) -> list[tuple[str, int]]:
    terms = offer.terms
    if terms is None:
        return []
    units = [unit for unit in PAID_IN if unit in granted and (unit != "nusd" or offer.card is not None)]
    return [(unit, price.affords(terms, granted[unit], PAID_IN[unit])) for unit in units]
