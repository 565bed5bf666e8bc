"""Integer rate cards: usage -> nano-dollars, a request -> the most it can cost, a purse -> the output it pays for.

Invariant: what a call is charged (`cost`) never exceeds what was held for it (`bound`), as long as its input stays
within the bound of core/tokens.py and its output within the limit; both round up once, at the end. Prices are integer
nano-dollars per million tokens ($2.5/M = 2_500_000_000). What never enters: floats, a price list, a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import force_setattr

from gateway.core.types import Size, Usage

MTOK = 1_000_000
# Multipliers are per mille (1.1x = 1100), so that the sum of tokens * rate * multiplier stays an integer.
PER = MTOK * 1000
# The greatest output that `affords` answers; far above any model's (the largest in core/models.py is 384,000).
MOST_OUTPUT = 1 << 24
# Stands for an unknown context window where one is multiplied; `unbounded` refuses such calls before it matters.
WIDEST_WINDOW = 2_000_000
# Uses that a hosted tool without a cap of its own is bounded at, if the gateway writes this cap into the request.
HOSTED_CAP = 5

# Named tiers that cost the standard price: OpenAI default, Anthropic standard / standard_only / priority (capacity paid
# apart), Groq on_demand / performance, OpenAI scale (prepaid). `auto` may be anything that the account is set to.
STANDARD = frozenset({"default", "standard", "standard_only", "on_demand", "performance", "scale", "priority", "flex"})
# Served only by batch endpoints: a synchronous call can't land there.
ASIDE = frozenset({"batch"})
# Provider-run tools without a fee of their own: they cost the tokens that they bring in (Anthropic's web fetch).
FREE_TOOLS = frozenset({"web_fetch", "tool_search", "mcp", "memory"})
# Tokens that one result of a hosted tool adds to the context at most, where it is smaller than the window: the recorded
# web searches in ../shared/traffic stay below 20,000 a use. What is missing here may fill the whole window.
RESULT_TOKENS = {
    "web_search": 32_768,
    "web_search_preview": 32_768,
    "x_search": 32_768,
    "tool_search": 4_096,  # names the tools that it found; their definitions stand in the request and are counted there
}


class Rates(Struct, frozen=True):
    """What a million tokens of each class costs, in nano-dollars; long-context steps replace all of them at once."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    audio_input: int
    audio_output: int
    reasoning: int
    steps: tuple[tuple[int, Rates], ...] = ()  # ascending; applies to every token once the total input is above start


class Override(Struct, frozen=True):
    """The operator's own price (`[[prices.overrides]]`), in nano-dollars per million tokens."""

    model: str  # as the request names it; a trailing `*` matches any rest
    input: int
    output: int = 0
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    provider: str | None = None  # section name; None: all sections
    context_window: int | None = None
    max_output: int | None = None


class RateCard(Struct, frozen=True):
    """Everything that prices one model at one provider on one day."""

    model: str
    provider: str
    rates: Rates
    source: Literal["price_list", "override"] = "price_list"
    tiers: dict[str, Rates] = field(default_factory=dict)  # service tiers and `batch`
    speeds: dict[str, Rates] = field(default_factory=dict)  # Anthropic fast mode
    geos: dict[str, int] = field(default_factory=dict)  # inference region -> multiplier per mille
    fees: dict[str, int] = field(default_factory=dict)  # provider-run tool -> nano-dollars a use
    request_nusd: int = 0  # fee of each request
    writes_cache: bool = True  # may bill cache writes that the request did not ask for (OpenAI from gpt-5.6 on)
    context_window: int | None = None
    max_output: int | None = None
    encoding: str = "o200k_base"
    openai_tokenizer: bool = False  # `encoding` is the model's own, not a stand-in
    ceiling: Rates | None = None  # dearest of the standard price and every tier that an unnamed tier may reach

    def __post_init__(self) -> None:
        reachable = [rates for tier, rates in self.tiers.items() if tier not in ASIDE]
        force_setattr(self, "ceiling", dearest(self.rates, *reachable))


CLASSES = tuple(name for name in Rates.__struct_fields__ if name != "steps")


def at(rates: Rates, input_tokens: int) -> Rates:
    """The rates for a request of this total input: the last step that it exceeds (genai-prices: count > start)."""
    found = rates
    for start, step in rates.steps:
        if input_tokens <= start:
            break
        found = step
    return found


def dearest(*cards: Rates) -> Rates:
    """Class by class the highest of several rates; never falls where a step begins, so that it bounds what is below."""
    starts = sorted({start for rates in cards for start, _ in rates.steps})
    levels = [_highest(cards)]
    for start in starts:
        levels.append(_highest((levels[-1], *(at(rates, start + 1) for rates in cards))))
    return Rates(**_classes(levels[0]), steps=tuple(zip(starts, levels[1:], strict=True)))


def _classes(rates: Rates) -> dict[str, int]:
    return {name: getattr(rates, name) for name in CLASSES}


def _highest(cards: Iterable[Rates]) -> Rates:
    many = tuple(cards)
    return Rates(**{name: max(getattr(rates, name) for rates in many) for name in CLASSES})


def fee(card: RateCard, kind: str) -> int | None:
    """Nano-dollars for one use of a provider-run tool; None: unknown. A dated kind counts as its plain one."""
    fees = card.fees
    if kind in fees:
        return fees[kind]
    if kind in FREE_TOOLS:
        return 0
    known = [name for name in fees if kind.startswith(name)]
    return fees[max(known, key=len)] if known else None


# --------------------------------------------------------------------------- what it cost


def cost(
    card: RateCard, usage: Usage, tier: str | None = None, geo: str | None = None, speed: str | None = None
) -> int:
    """Nano-dollars for usage as the provider told it, rounded up once. `usage.extra` is priced by its own cards."""
    tokens_in = _count(usage.input_tokens)
    rates = at(_served(card, tier, speed), tokens_in)
    total = _input_cost(rates, usage, tokens_in) + _output_cost(rates, usage)
    charged = _up(total, card.geos.get(geo or "", 1000)) + card.request_nusd
    for kind, times in usage.uses.items():
        charged += (fee(card, kind) or 0) * _count(times)
    return charged


def _count(value: int | None) -> int:
    return value if value is not None and value > 0 else 0


def _up(total: int, permille: int) -> int:
    return -(-total * permille // PER)


def _input_cost(rates: Rates, usage: Usage, tokens_in: int) -> int:
    """Parts are taken out of the total, the dearest kind first: a provider may count one token as written and read
    (OpenRouter's Gemini does), and no usage may cost more than all of its input at the dearest class."""
    written = min(tokens_in, max(_count(usage.cache_write_tokens), _count(usage.cache_write_1h_tokens)))
    hour = min(written, _count(usage.cache_write_1h_tokens))
    audio = min(tokens_in - written, _count(usage.audio_input_tokens))
    read = min(tokens_in - written - audio, _count(usage.cache_read_tokens))
    return (
        (tokens_in - read - written - audio) * rates.input
        + read * rates.cache_read
        + (written - hour) * rates.cache_write
        + hour * rates.cache_write_1h
        + audio * rates.audio_input
    )


def _output_cost(rates: Rates, usage: Usage) -> int:
    total = _count(usage.output_tokens)
    audio = min(total, _count(usage.audio_output_tokens))
    thought = min(total - audio, _count(usage.reasoning_tokens))
    return (total - thought - audio) * rates.output + thought * rates.reasoning + audio * rates.audio_output


def _served(card: RateCard, tier: str | None, speed: str | None) -> Rates:
    """The rates of the tier that served the call. A tier that nobody knows costs the dearest, never the standard."""
    if speed is not None and speed in card.speeds:
        return card.speeds[speed]
    if tier is None or tier == "auto":
        return card.rates
    if tier in card.tiers:
        return card.tiers[tier]
    return card.rates if tier in STANDARD or tier in ASIDE else card.ceiling or card.rates


# --------------------------------------------------------------------------- what it may cost


class Terms(Struct, frozen=True):
    """A request's part of the bounds, without its output limit: the same for every limit that is tried."""

    ceiling: Rates
    input_tokens: int
    uses: int
    result_tokens: int
    window: int
    choices: int
    prediction: int
    written: str
    media: bool
    permille: int
    fees_nusd: int


def bound(card: RateCard, size: Size, input_tokens: int, output_tokens: int) -> int:
    """The most that a request can cost: dearest class it may be billed at, every hosted use, every choice."""
    return cost_bound(terms_of(card, size, input_tokens), 0 if size.embeds else output_tokens)


def affords(terms: Terms, purse: int, bound_of: Callable[[Terms, int], int]) -> int:
    """The largest output limit per choice whose bound (`cost_bound` or `token_bound`) fits the purse; 0: none does."""
    if bound_of(terms, 1) > purse:
        return 0
    low, high = 1, MOST_OUTPUT
    while low < high:
        middle = (low + high + 1) // 2
        if bound_of(terms, middle) <= purse:
            low = middle
        else:
            high = middle - 1
    return low


def unbounded(size: Size, card: RateCard, caps_allowed: bool = False) -> str | None:
    """Why the cost of a request can't be bounded; None if it can.

    caps_allowed: the caller writes HOSTED_CAP into the request for tools that have no cap of their own.
    """
    why = endless(size, card, caps_allowed)
    if why is not None:
        return why
    for tool in size.hosted:
        if fee(card, tool.kind) is None:
            return f"the price of the provider's own tool {tool.kind[:64]!r} is unknown"
    if size.tier is not None and not _tier_known(card, size.tier):
        return f"the price of service tier {size.tier[:32]!r} is unknown for {card.model}"
    return None


def endless(size: Size, card: RateCard, caps_allowed: bool = False) -> str | None:
    """Why the tokens of a request can't be bounded, whatever they cost; None if they can."""
    if card.context_window is None and (size.other_media or size.unseen):
        what = "media of unknown length" if size.other_media else "input that is not in the request"
        return f"it holds {what}, and the context window of {card.model} is unknown"
    for tool in size.hosted:
        if tool.uses is None and not (tool.cappable and caps_allowed):
            return f"the provider's own tool {tool.kind[:64]!r} has no cap on its uses"
    if "deep-research" in card.model and not size.hosted:
        return f"{card.model} searches as often as it likes"
    return None


def _tier_known(card: RateCard, tier: str) -> bool:
    return tier == "auto" or tier in card.tiers or tier in STANDARD or tier in ASIDE


def terms_of(card: RateCard, size: Size, input_tokens: int) -> Terms:
    """What every bound of this request begins with."""
    uses = results = fees = 0
    window = card.context_window or WIDEST_WINDOW
    for tool in size.hosted:
        times = HOSTED_CAP if tool.uses is None else max(0, tool.uses)
        uses += times
        results += times * RESULT_TOKENS.get(tool.kind, window)
        fees += times * (fee(card, tool.kind) or 0)
    return Terms(
        ceiling=_reachable(card, size),
        input_tokens=input_tokens,
        uses=uses,
        result_tokens=results,
        window=max(window, input_tokens),
        choices=max(1, size.choices),
        prediction=size.prediction_bytes,
        written="1h" if card.writes_cache else size.cache_write,
        media=size.other_media or size.unseen,
        permille=_region(card.geos, size.geo),
        fees_nusd=fees + card.request_nusd,
    )


def _reachable(card: RateCard, size: Size) -> Rates:
    """The dearest rates that the request may be served at. Absent and `auto` are whatever the account is set to
    (OpenAI projects have a default tier); a named tier may be downgraded to the standard one."""
    ceiling = card.ceiling or card.rates
    standard = card.tiers.get("default", card.rates)
    tier = size.tier
    if tier in card.tiers:
        ceiling = dearest(card.rates, standard, card.tiers[tier])
    elif tier in STANDARD:
        ceiling = dearest(card.rates, standard)
    if size.speed is not None and size.speed in card.speeds:
        ceiling = dearest(ceiling, card.speeds[size.speed])
    return ceiling


def _region(geos: Mapping[str, int], geo: str | None) -> int:
    """Absent: the workspace's own default region, so the dearest; `global` costs the plain price."""
    if geo == "global" or not geos:
        return 1000
    return max(1000, geos.get(geo or "", max(geos.values())))


def _most(terms: Terms, output_tokens: int) -> tuple[int, int]:
    """Tokens of input and of output that may be billed, at this limit per choice."""
    out = max(0, output_tokens) * terms.choices + terms.prediction
    billed = terms.input_tokens
    if terms.uses:
        # Each internal turn reads the context again, with the results and the text that came before it.
        billed = (terms.uses + 1) * min(terms.window, billed + terms.result_tokens + out)
    return billed, out


def token_bound(terms: Terms, output_tokens: int) -> int:
    """The most tokens that a request can be billed, input and output together."""
    return sum(_most(terms, output_tokens))


def cost_bound(terms: Terms, output_tokens: int) -> int:
    """The most nano-dollars that a request can cost."""
    return bounds(terms, output_tokens)[0]


def bounds(terms: Terms, output_tokens: int) -> tuple[int, int]:
    """The most nano-dollars, and the most tokens, that a request can be billed."""
    billed, out = _most(terms, output_tokens)
    rates = at(terms.ceiling, billed)
    dear_in = max(rates.input, rates.cache_read)
    if terms.written:
        dear_in = max(dear_in, rates.cache_write)
    if terms.written == "1h":
        dear_in = max(dear_in, rates.cache_write_1h)
    if terms.media:
        dear_in = max(dear_in, rates.audio_input)
    dear_out = max(rates.output, rates.reasoning, rates.audio_output)
    return _up(billed * dear_in + out * dear_out, terms.permille) + terms.fees_nusd, billed + out
