"""The scripted provider's own bill: what each call cost, exact in nano-dollars, at the price list's real prices.

Invariant: a row grows from the first token on and never shrinks, so that whoever leaves early is billed for what was
made by then; nothing is shared with the gateway's ledger, so that the two can be compared. Prompts stay below the price
list's long-context tiers. What never enters: the gateway's own price cards.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct

NUSD = 1_000_000_000
_PROVIDERS = ("openai", "anthropic")


class Rates(Struct, frozen=True):
    """Nano-dollars per million tokens."""

    input: int
    output: int
    cache_read: int


FALLBACK = Rates(1_000_000_000, 4_000_000_000, 1_000_000_000)  # a model without a price in the list still costs


def rates_of(model: str) -> Rates:
    """A model's real prices, from the list itself (not from the gateway's cards): an oracle apart."""
    from genai_prices import Usage, calc_price

    def per_million(provider: str, usage: Usage) -> int:
        price: Decimal = calc_price(usage, model_ref=model, provider_id=provider).total_price
        return int(price * 1_000 * NUSD)

    for provider in _PROVIDERS:
        try:
            return Rates(
                per_million(provider, Usage(input_tokens=1_000)),
                per_million(provider, Usage(output_tokens=1_000)),
                per_million(provider, Usage(input_tokens=1_000, cache_read_tokens=1_000)),
            )
        except LookupError:
            continue
    return FALLBACK


class Row(Struct):
    """One call on the bill. `tag` is the credential that the client showed: who pays."""

    tag: str
    path: str
    model: str
    stream: bool
    rates: Rates
    status: int = 200
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    tools: int = 0  # tool calls that were asked for
    tools_barred: bool = False  # the request let none be called
    state: str = "open"  # open | ended | cut | left | refused

    @property
    def nusd(self) -> int:
        """What this call costs so far, rounded up once (as providers' prices are per million tokens)."""
        rates = self.rates
        plain = (self.input_tokens - self.cached_tokens) * rates.input + self.cached_tokens * rates.cache_read
        return -(-(plain + self.output_tokens * rates.output) // 1_000_000)


class Bill:
    """All calls that reached the provider, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._rates: dict[str, Rates] = {}

    def open(self, tag: str, path: str, model: str, stream: bool) -> Row:
        """A row for a call that has just come in."""
        if model not in self._rates:
            if len(self._rates) >= 1_000:  # a script is trusted, a client's model name isn't
                self._rates.clear()
            self._rates[model] = rates_of(model)
        row = Row(tag, path, model, stream, self._rates[model])
        self.rows.append(row)
        return row

    def nusd(self, tag: str | None = None) -> int:
        """The whole bill, or one payer's part."""
        return sum(row.nusd for row in self.rows if tag in (None, row.tag))

    def calls(self, tag: str | None = None) -> int:
        """How many calls were billed or answered, errors included."""
        return sum(1 for row in self.rows if tag in (None, row.tag))
