"""What a call may cost before it is made: the amounts to hold, and the output limit that a grant pays for.

Invariant: `want` and `least` are bounds (ledger.md section 5): a provider that keeps the limit in force bills no more.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.core import models, price, tokens
from gateway.core.price import RateCard
from gateway.core.types import Call, Labels, RunFacts

# Anthropic's manual thinking needs 1024 <= budget_tokens < max_tokens (wire-formats.md section 1).
LEAST_THINKING = 1024
# More than any call can cost: beyond it the ledger's sums would not fit, and no limit is that high.
MOST_NUSD = 1 << 50


class Policy(Struct, frozen=True):
    """The settings that a quote depends on."""

    min_output: int = 256
    default_max_output: int = 8192
    clamp: bool = True


class Quote(Struct, frozen=True):
    """Bounds of one call. `card` None: the price is unknown and nothing can be held."""

    card: RateCard | None
    input_tokens: int = 0
    output: int = 0  # the limit per choice that `want` pays for
    must_set: bool = False  # no limit was asked and the model's own is not known: one has to be set
    share: bool = False  # no limit was asked: parallel calls share what is free
    want: int = 0
    least: int = 0
    unbounded: str | None = None


class Ask(Struct, frozen=True):
    """All that a rule may look at."""

    call: Call
    run: RunFacts
    ancestors: tuple[str, ...]  # run keys, nearest first
    labels: Labels
    quote: Quote
    now: float


def quote(call: Call, card: RateCard | None, policy: Policy, counted: int | None = None) -> Quote:
    """Bounds the call at this card; with `counted` by the tokenizer's figure instead of the bytes."""
    if card is None:
        return Quote(card=None)
    size = call.size
    why = price.unbounded(size, card, caps_allowed=True)
    bound_in = tokens.input_bound(size, card) if counted is None else tokens.refined(size, counted, card)
    greatest = card.max_output or models.greatest_output(call.model)
    asked = size.asked_output
    output = 0 if size.embeds else asked if asked is not None else greatest or policy.default_max_output
    floor = min(output, policy.min_output + (LEAST_THINKING if size.thinking else 0))
    want = min(MOST_NUSD, price.bound(card, size, bound_in, output))
    return Quote(
        card=card,
        input_tokens=bound_in,
        output=output,
        must_set=asked is None and greatest is None and not size.embeds,
        share=asked is None and not size.embeds,
        want=want,
        least=min(want, price.bound(card, size, bound_in, floor)) if policy.clamp else want,
        unbounded=why,
    )


def limit_for(call: Call, offer: Quote, granted: int) -> int | None:
    """The output limit to set so that the call can't cost more than was granted; None leaves the body alone."""
    if offer.card is None or call.size.embeds:
        return None
    if granted >= offer.want:
        return offer.output if offer.must_set else None
    greatest = offer.card.max_output or models.greatest_output(call.model) or offer.output
    return min(offer.output, greatest, price.affords(offer.card, call.size, offer.input_tokens, granted))
