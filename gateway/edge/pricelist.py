"""Integer rate cards out of genai-prices: read once, matched once a model, kept in a bounded memory.

Invariant: a price is known or the card is None, never zero by default; what a client sends as a model's name reaches
the list's matching only short and printable, and is forgotten when newer names need the room. genai-prices' own
look-ups are not called: they cost 100-200 us and remember every name for ever (performance.md section 5).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from msgspec import structs

from gateway.core import models, tokens
from gateway.core.price import Override, RateCard, Rates, dearest
from gateway.core.types import NUSD, Provider

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice
    from genai_prices.types import Provider as Lister

KEPT = 4096  # cards, unknown models included: about 6 MB
DAY_S = 86_400

# Price keys that our Usage can express. A model with any other price (images out, hours of audio, pages, citations) is
# unknown to us: its tokens alone would be too cheap.
TOKEN_KEYS = frozenset(
    {
        "input_mtok",
        "output_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "cache_write_1h_mtok",
        "input_audio_mtok",
        "output_audio_mtok",
        "cache_audio_read_mtok",
        "output_reasoning_mtok",
    }
)
FEE_KEYS: Mapping[str, tuple[str, ...]] = {
    "web_searches_kcount": ("web_search",),
    "social_searches_kcount": ("x_search",),
    "storage_searches_kcount": ("file_search",),
    "code_executions_kcount": ("code_execution",),
}
REQUEST_KEY = "requests_kcount"

# OpenRouter's free models: their names say it, and the list has them without any price.
FREE = ":free"
NOTHING = Rates(0, 0, 0, 0, 0, 0, 0, 0)

# OpenAI's older search tool costs 25 USD per 1,000 on models that don't reason (developers.openai.com, pricing).
PREVIEW_SEARCH_NUSD = NUSD * 25 // 1000
NOT_REASONING = ("gpt-4o", "gpt-4.1")

# What the list leaves out of Claude's prices (wire-formats.md section 8): cache writes of 5 minutes and 1 hour, the
# region surcharge of recent models, fast mode where it has no price of its own (Opus 4.6: 6 times the standard one).
CLAUDE_WRITE_PERCENT, CLAUDE_WRITE_1H_PERCENT = 125, 200
CLAUDE_GEOS = {"us": 1100}
CLAUDE_FAST = 6
REGIONAL = re.compile(r"claude-(?:(?:opus|sonnet)-4-[6-9]|[a-z]+-[5-9])")
# Where Claude writes its cache only when the request says so.
ASKS_TO_WRITE = frozenset({"anthropic", "google", "aws", "azure"})


class PriceList:
    """Implements ports.Prices. Made at start: importing the list takes about 0.3 s."""

    def __init__(self, overrides: Sequence[Override] = (), *, kept: int = KEPT) -> None:
        from genai_prices.data import providers

        self._listers = providers
        self._by_id = {lister.id: lister for lister in providers}
        self._overrides = tuple(overrides)
        self._kept = kept
        self._cards: OrderedDict[tuple[object, ...], RateCard | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cards)

    def card(self, provider: Provider, model: str, at: float) -> RateCard | None:
        """The card in force at that instant; None: unknown, never zero."""
        key = (provider.name, provider.price_ids, model, int(at // DAY_S))
        try:
            found = self._cards[key]
        except KeyError:
            if not _speakable(model):
                return None
            found = self._cards[key] = self._find(provider, model, at)
            if len(self._cards) > self._kept:
                self._cards.popitem(last=False)
            return found
        self._cards.move_to_end(key)
        return found

    def listed(self, provider: Provider, at: float) -> list[RateCard]:
        """Every card that the list and the overrides hold for a section, for people to read."""
        found = []
        for lister in [self._by_id[name] for name in provider.price_ids if name in self._by_id] or self._listers:
            found += [compiled(lister, model, model.id, at) for model in lister.models]
        own = [
            _overridden(override, override.model, None) for override in self._overrides if _meant(override, provider)
        ]
        return [*own, *(card for card in found if card is not None)]

    def _find(self, provider: Provider, model: str, at: float) -> RateCard | None:
        names = provider.price_ids
        cards = self._priced(names, model, at) if names else self._alone(model, at)
        listed = next(cards, None)
        for override in self._overrides:
            if _meant(override, provider) and _named(override.model, model):
                return _overridden(override, model, listed)
        return listed

    def _priced(self, names: Sequence[str], model: str, at: float) -> Iterator[RateCard]:
        """Cards by the listers that the section names, in its order."""
        for name in names:
            lister = self._by_id.get(name)
            if lister is None:
                continue
            info = lister.find_model(model, all_providers=self._listers)
            card = compiled(lister, info, model, at) if info is not None else None
            if card is not None:
                yield card

    def _alone(self, model: str, at: float) -> Iterator[RateCard]:
        """Cards by the model's name alone: who makes it, who is named in front of it, else the dearest of all."""
        first = [
            one.id for one in self._listers if one.model_match is not None and one.model_match.is_match(model.lower())
        ]
        yield from self._priced(first, model, at)
        vendor, slash, rest = model.partition("/")
        if slash:
            yield from self._priced([vendor.lower()], rest, at)
        cards = self._priced(list(self._by_id), model, at)
        yield from sorted(cards, key=lambda card: card.rates.input + card.rates.output, reverse=True)[:1]


def _speakable(model: str) -> bool:
    return 0 < len(model) <= models.LONGEST_NAME and model.isascii() and model.isprintable()


# --------------------------------------------------------------------------- the operator's own prices


def _meant(override: Override, provider: Provider) -> bool:
    return override.provider is None or override.provider == provider.name


def _named(pattern: str, model: str) -> bool:
    pattern, model = pattern.lower(), model.lower()
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def _overridden(override: Override, model: str, listed: RateCard | None) -> RateCard:
    """A card at the operator's prices; window, fees and region stay the list's. What it doesn't name costs as input."""
    claude = "claude" in model.lower()
    write = override.cache_write
    if write is None:
        write = _percent(override.input, CLAUDE_WRITE_PERCENT) if claude else override.input
    hour = override.cache_write_1h
    if hour is None:
        hour = max(write, _percent(override.input, CLAUDE_WRITE_1H_PERCENT)) if claude else write
    read = override.input if override.cache_read is None else override.cache_read
    window = override.context_window or (listed.context_window if listed else models.context_of(model))
    return RateCard(
        model=listed.model if listed else model,
        provider=listed.provider if listed else "",
        rates=Rates(
            input=override.input,
            output=override.output,
            cache_read=read,
            cache_write=write,
            cache_write_1h=hour,
            audio_input=override.input,
            audio_output=override.output,
            reasoning=override.output,
        ),
        source="override",
        fees=listed.fees if listed else {},
        request_nusd=listed.request_nusd if listed else 0,
        writes_cache=listed.writes_cache if listed else True,
        context_window=window,
        max_output=override.max_output or models.greatest_output(model),
        encoding=tokens.encoding_of(model),
        openai_tokenizer=tokens.is_exact(model),
    )


# --------------------------------------------------------------------------- the list's prices


def compiled(lister: Lister, info: ModelInfo, model: str, at: float) -> RateCard | None:
    """The integer card of one listed model on the day of `at`; None where our usage can't express its price."""
    moments = _moments(info, at)
    claude = "claude" in info.id.lower()
    standard = [info.get_prices(moment) for moment in moments]
    free = model.endswith(FREE) and not any(_keys(price) for price in standard)
    rates = NOTHING if free else _dearest_of(standard, claude)
    if rates is None:
        return None
    own = any(info is one for one in lister.models)
    tiers, speeds = _variants(info, moments, claude)
    if not own:  # another lister's model (Azure): what is dearer may be sold here too, what is cheaper not for sure
        tiers = {name: dearest(rates, tier) for name, tier in tiers.items()}
    if claude and own and lister.id == "anthropic":
        speeds.setdefault("fast", _times(rates, CLAUDE_FAST))
    priced = [*standard, *(variant.prices for variant in info.price_variants or ())]
    return RateCard(
        model=info.id,
        provider=lister.id,
        rates=rates,
        tiers=tiers,
        speeds=speeds,
        geos=CLAUDE_GEOS if lister.id == "anthropic" and REGIONAL.match(info.id) else {},
        fees=_fees(priced, lister.id, info.id),
        request_nusd=_fee(priced, REQUEST_KEY) or 0,
        writes_cache=not (claude and lister.id in ASKS_TO_WRITE),
        context_window=max(info.context_window or 0, models.context_of(model) or 0) or None,
        max_output=models.greatest_output(model),
        encoding=tokens.encoding_of(model),
        openai_tokenizer=tokens.is_exact(model),
    )


def _moments(info: ModelInfo, at: float) -> list[datetime]:
    """Instants of the day at which every price that it knows is in force: prices by the hour count as the dearest."""
    from genai_prices.types import TimeOfDateConstraint

    noon = datetime.fromtimestamp(at // DAY_S * DAY_S + DAY_S / 2, UTC)
    prices = info.prices if isinstance(info.prices, list) else []
    hours = [one.constraint for one in prices if isinstance(one.constraint, TimeOfDateConstraint)]
    edges = {edge for hour in hours for edge in (hour.start_time, hour.end_time)}
    return [noon, *(datetime.combine(noon.date(), edge.replace(tzinfo=edge.tzinfo or UTC)) for edge in edges)]


def _variants(info: ModelInfo, moments: Sequence[datetime], claude: bool) -> tuple[dict[str, Rates], dict[str, Rates]]:
    tiers: dict[str, Rates] = {}
    speeds: dict[str, Rates] = {}
    for variant in info.price_variants or ():
        if len(variant.when) != 1:
            continue
        ((what, name),) = variant.when.items()
        if what not in ("service_tier", "processing", "speed"):
            continue
        rates = _dearest_of([info.get_prices(moment, variant.when) for moment in moments], claude)
        if rates is not None:
            (speeds if what == "speed" else tiers)[name] = rates
    return tiers, speeds


def _dearest_of(prices: Sequence[ModelPrice], claude: bool) -> Rates | None:
    found = [_rates(price, claude) for price in prices]
    known = [rates for rates in found if rates is not None]
    if len(known) < len(found) or not known:
        return None
    return known[0] if len(known) == 1 else dearest(*known)


def _keys(price: ModelPrice) -> dict[str, object]:
    return {key: value for key, value in price.__dict__.items() if value is not None}


def _rates(price: ModelPrice, claude: bool) -> Rates | None:
    """One listed price as integers, with its long-context steps."""
    keys = _keys(price)
    known = TOKEN_KEYS | FEE_KEYS.keys() | {REQUEST_KEY}
    if keys.get("input_mtok") is None or not keys.keys() <= known:
        return None
    token_keys = {key: value for key, value in keys.items() if key in TOKEN_KEYS}
    starts = sorted({tier.start for value in token_keys.values() for tier in getattr(value, "tiers", ())})
    steps = tuple((start, _level(token_keys, start + 1, claude)) for start in starts)
    return structs.replace(_level(token_keys, 0, claude), steps=steps)


def _level(keys: Mapping[str, object], input_tokens: int, claude: bool) -> Rates:
    """Prices for a request of this size. A class without a price costs what the class around it costs."""
    found = {key: _nusd(_applicable(value, input_tokens)) for key, value in keys.items()}
    plain, output = found["input_mtok"], found.get("output_mtok", 0)
    write = found.get("cache_write_mtok", _percent(plain, CLAUDE_WRITE_PERCENT) if claude else plain)
    hour = found.get("cache_write_1h_mtok", _percent(plain, CLAUDE_WRITE_1H_PERCENT) if claude else write)
    return Rates(
        input=plain,
        output=output,
        cache_read=found.get("cache_read_mtok", plain),
        cache_write=write,
        cache_write_1h=hour,
        audio_input=found.get("input_audio_mtok", plain),
        audio_output=found.get("output_audio_mtok", output),
        reasoning=found.get("output_reasoning_mtok", output),
    )


def _applicable(value: object, input_tokens: int) -> Decimal:
    """A price, or the tier of it whose start the input exceeds (genai_prices.types.calc_unit_price)."""
    if isinstance(value, Decimal):
        return value
    price = getattr(value, "base", Decimal(0))
    for tier in getattr(value, "tiers", ()):
        if input_tokens > tier.start:
            price = tier.price
    return Decimal(price)


def _nusd(dollars: Decimal) -> int:
    return int((dollars * NUSD).to_integral_value(ROUND_CEILING))


def _percent(rate: int, percent: int) -> int:
    return -(-rate * percent // 100)


def _times(rates: Rates, factor: int) -> Rates:
    classes = {name: getattr(rates, name) * factor for name in Rates.__struct_fields__ if name != "steps"}
    return Rates(**classes, steps=tuple((start, _times(step, factor)) for start, step in rates.steps))


def _fee(priced: Sequence[ModelPrice], key: str) -> int | None:
    """The dearest fee of one use: listed in dollars per thousand."""
    found = [_nusd(_applicable(_keys(price)[key], 0) / 1000) for price in priced if key in _keys(price)]
    return max(found, default=None)


def _fees(priced: Sequence[ModelPrice], lister: str, model: str) -> dict[str, int]:
    fees: dict[str, int] = {}
    for key, kinds in FEE_KEYS.items():
        found = _fee(priced, key)
        if found is not None:
            fees |= dict.fromkeys(kinds, found)
    if lister in ("openai", "azure") and "web_search" in fees and model.startswith(NOT_REASONING):
        fees["web_search_preview"] = max(fees["web_search"], PREVIEW_SEARCH_NUSD)
    return fees
