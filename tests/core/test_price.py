"""The arithmetic of money: exact, rounded up once, and never above what was held for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import price
from gateway.core.price import CLASSES, MOST_OUTPUT, RateCard, Rates, at, dearest
from gateway.core.types import Hosted, Size, Usage

MTOK = 1_000_000
TIERS = ("default", "flex", "priority", "fast", "batch")


def flat(rate: int = 1_000_000_000, **named: Any) -> Rates:
    """Rates that are the same for each class unless named."""
    every: dict[str, Any] = dict.fromkeys(CLASSES, rate)
    return Rates(**(every | named))


def stepped(base: Rates, *steps: tuple[int, Rates]) -> Rates:
    """Rates with long-context steps."""
    return Rates(**{name: getattr(base, name) for name in CLASSES}, steps=steps)


def card(rates: Rates, **named: Any) -> RateCard:
    """A card with nothing but what the test is about."""
    return RateCard("m", "p", rates, **{"context_window": 200_000, **named})


# --------------------------------------------------------------------------- any card, any request, any bill

plain = st.builds(Rates, **dict.fromkeys(CLASSES, st.integers(0, 200_000_000_000)))
any_rates = st.builds(
    lambda base, one, two, start: stepped(base, (start, one), (start * 2, two)),
    plain,
    plain,
    plain,
    st.integers(1, 3000),
) | plain.map(lambda base: base)
any_card = st.builds(
    RateCard,
    model=st.just("m"),
    provider=st.just("p"),
    rates=any_rates,
    tiers=st.dictionaries(st.sampled_from(TIERS), any_rates, max_size=3),
    speeds=st.dictionaries(st.just("fast"), any_rates, max_size=1),
    geos=st.sampled_from([{}, {"us": 1100}, {"us": 1100, "eu": 1250}]),
    fees=st.just({"web_search": 10_000_000, "file_search": 2_500_000}),
    request_nusd=st.sampled_from([0, 12_000_000]),
    writes_cache=st.booleans(),
    context_window=st.sampled_from([None, 500, 8192, 1_000_000]),
)
any_size = st.builds(
    Size,
    choices=st.integers(1, 4),
    prediction_bytes=st.sampled_from([0, 37]),
    hosted=st.lists(
        st.builds(Hosted, st.sampled_from(["web_search", "file_search"]), st.integers(0, 3), st.just(True)), max_size=2
    ).map(tuple),
    tier=st.sampled_from([None, "auto", "default", "flex", "priority", "fast", "standard_only"]),
    cache_write=st.sampled_from(["", "5m", "1h"]),
    speed=st.sampled_from([None, "fast", "standard"]),
    geo=st.sampled_from([None, "us", "eu", "global"]),
    other_media=st.booleans(),
    embeds=st.booleans(),
)


@settings(max_examples=120, deadline=None)
@given(any_card, any_size, st.integers(0, 5000), st.integers(0, 3000), st.data())
def test_no_bill_within_the_limits_exceeds_the_bound(priced, size, tokens_in, limit, data):
    """Whatever the provider reports within the bound of input and the limit of output, the hold pays for it (P2)."""
    uses = {tool.kind: 0 for tool in size.hosted}
    for tool in size.hosted:
        uses[tool.kind] += data.draw(st.integers(0, tool.uses or 0))
    turns = 1 + sum(uses.values())
    window = max(priced.context_window or price.WIDEST_WINDOW, tokens_in)
    out = 0 if size.embeds else data.draw(st.integers(0, limit * size.choices + size.prediction_bytes))
    whole = tokens_in if turns == 1 else turns * min(window, tokens_in + out)
    total = data.draw(st.integers(0, whole))
    may_write = priced.writes_cache or bool(size.cache_write)
    written = data.draw(st.integers(0, total)) if may_write else 0
    hour = data.draw(st.integers(0, written)) if priced.writes_cache or size.cache_write == "1h" else 0
    usage = Usage(
        input_tokens=total,
        output_tokens=out,
        cache_read_tokens=data.draw(st.integers(0, total)),
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
        reasoning_tokens=data.draw(st.integers(0, out)),
        audio_input_tokens=data.draw(st.integers(0, total)) if size.other_media else 0,
        audio_output_tokens=data.draw(st.integers(0, out)),
        uses=uses,
    )
    reachable: list[str | None] = [size.tier, "default", None]
    if size.tier in (None, "auto"):
        reachable += TIERS[:4]
    tier = data.draw(st.sampled_from(reachable))
    geo = data.draw(st.sampled_from(["us", "eu", "global", None])) if size.geo is None else size.geo
    speed = data.draw(st.sampled_from(["standard", size.speed or "standard"]))
    billed = price.cost(priced, usage, tier, geo, speed)
    assert billed <= price.bound(priced, size, tokens_in, limit)


@settings(max_examples=120, deadline=None)
@given(any_card, any_size, st.integers(0, 5000), st.integers(0, 10**9))
def test_affords_is_the_last_limit_that_fits(priced, size, tokens_in, purse):
    """bound(affords) <= purse < bound(affords + 1): not a token wasted, not a nano-dollar overdrawn."""
    limit = price.affords(price.terms_of(priced, size, tokens_in), purse, price.cost_bound)
    if limit:
        assert price.bound(priced, size, tokens_in, limit) <= purse
    if limit < MOST_OUTPUT:
        assert size.embeds or purse < price.bound(priced, size, tokens_in, limit + 1)


@settings(max_examples=80, deadline=None)
@given(any_card, any_size, st.integers(0, 5000), st.integers(0, 3000))
def test_bounds_grow_with_input_and_output(priced, size, tokens_in, limit):
    """More of anything is never cheaper, so that a lower bound of tokens is a lower bound of dollars."""
    here = price.bound(priced, size, tokens_in, limit)
    assert here <= price.bound(priced, size, tokens_in, limit + 1)
    assert here <= price.bound(priced, size, tokens_in + 1, limit)


@settings(max_examples=80, deadline=None)
@given(st.lists(any_rates, min_size=1, max_size=3), st.integers(0, 8000))
def test_the_dearest_of_rates_covers_each_of_them_at_every_length(cards, tokens_in):
    """Class by class, at each length, and at each shorter one: what is below a step is covered above it too."""
    top = at(dearest(*cards), tokens_in)
    for rates in cards:
        for length in {tokens_in, tokens_in // 2, 0}:
            assert all(getattr(at(rates, length), name) <= getattr(top, name) for name in CLASSES)


# --------------------------------------------------------------------------- cost


def test_cost_rounds_up_once_at_the_end():
    """Two parts of 0.4 nano-dollars are 1 nano-dollar, not 2 (ledger.md section 2)."""
    rates = flat(0, input=400_000, output=400_000)
    assert 1 == price.cost(card(rates), Usage(input_tokens=1, output_tokens=1))
    assert 2_500 == price.cost(card(flat(2_500_000_000)), Usage(input_tokens=1, output_tokens=0))


def test_input_is_split_into_its_parts():
    """Cached, written (5 minutes, 1 hour) and audio tokens are parts of the input, each at its own price."""
    rates = flat(
        0, input=10 * MTOK, cache_read=MTOK, cache_write=12 * MTOK, cache_write_1h=20 * MTOK, audio_input=99 * MTOK
    )
    usage = Usage(
        input_tokens=100, cache_read_tokens=50, cache_write_tokens=30, cache_write_1h_tokens=10, audio_input_tokens=5
    )
    assert 15 * 10 + 50 * 1 + 20 * 12 + 10 * 20 + 5 * 99 == price.cost(card(rates), usage)


def test_reasoning_is_output_at_its_own_price():
    """Reasoning and audio are parts of the output."""
    rates = flat(0, output=2 * MTOK, reasoning=3 * MTOK, audio_output=50 * MTOK)
    assert 5 * 2 + 4 * 3 + 50 == price.cost(
        card(rates), Usage(output_tokens=10, reasoning_tokens=4, audio_output_tokens=1)
    )


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=10, cache_read_tokens=10, cache_write_tokens=10, cache_write_1h_tokens=99),
        Usage(input_tokens=10, audio_input_tokens=500, output_tokens=0),
        Usage(input_tokens=-5, output_tokens=-5, cache_read_tokens=-1, uses={"web_search": -3}),
    ],
)
def test_parts_that_exceed_their_whole_cost_no_more_than_the_whole(usage):
    """A token counted twice (recorded: OpenRouter's Gemini) or below zero can't break the bound."""
    rates = flat(1 * MTOK, cache_read=2 * MTOK, cache_write=2 * MTOK, cache_write_1h=3 * MTOK, audio_input=3 * MTOK)
    assert 0 <= price.cost(card(rates, fees={"web_search": 7}), usage) <= 30


def test_long_context_begins_above_its_start_and_takes_every_token():
    """At the threshold the base price holds; one token more, and all tokens cost the step's price (section 8)."""
    rates = stepped(flat(MTOK), (200, flat(2 * MTOK)))
    assert 201 == price.cost(card(rates), Usage(input_tokens=200, output_tokens=1))
    assert 404 == price.cost(card(rates), Usage(input_tokens=201, output_tokens=1))


def test_the_tier_that_served_decides():
    """The response's tier sets the price; the standard names are the base, an unknown name is the dearest."""
    tiers = {"priority": flat(2 * MTOK), "flex": flat(MTOK // 2)}
    priced = card(flat(MTOK), tiers=tiers)
    usage = Usage(input_tokens=10)
    costs: Mapping[str | None, int] = {None: 10, "auto": 10, "default": 10, "priority": 20, "flex": 5, "ultrafast": 20}
    assert costs == {tier: price.cost(priced, usage, tier) for tier in costs}


def test_region_and_speed_multiply_token_prices():
    """inference_geo us is 1.1 times, fast mode has its own rates; both together multiply, rounded up once."""
    priced = card(flat(MTOK), geos={"us": 1100}, speeds={"fast": flat(6 * MTOK)})
    usage = Usage(input_tokens=11)
    assert (11, 13, 66, 73) == (
        price.cost(priced, usage),
        price.cost(priced, usage, geo="us"),
        price.cost(priced, usage, speed="fast"),
        price.cost(priced, usage, geo="us", speed="fast"),
    )


def test_uses_and_requests_have_fees():
    """Each use of a provider's tool and each request cost their fee on top; a dated kind is its plain one."""
    priced = card(flat(0), fees={"web_search": 10}, request_nusd=3)
    assert 3 + 20 + 10 == price.cost(priced, Usage(uses={"web_search": 2, "web_search_20260101": 1, "mcp": 9}))


# --------------------------------------------------------------------------- bound


def test_bound_takes_the_dearest_class_the_request_can_reach():
    """No write asked and none by itself: input's price; asked: the write's; by itself: every write's."""
    rates = flat(MTOK, cache_write=2 * MTOK, cache_write_1h=3 * MTOK, audio_input=9 * MTOK)
    asks = card(rates, writes_cache=False)
    assert (10, 20, 30, 30) == (
        price.bound(asks, Size(), 10, 0),
        price.bound(asks, Size(cache_write="5m"), 10, 0),
        price.bound(asks, Size(cache_write="1h"), 10, 0),
        price.bound(card(rates), Size(), 10, 0),
    )
    assert 90 == price.bound(asks, Size(other_media=True), 10, 0)


def test_an_unnamed_tier_counts_as_the_dearest_reachable():
    """Absent and auto may be priority by the project's setting; batch can't be reached; flex can be downgraded."""
    tiers = {"priority": flat(2 * MTOK), "flex": flat(MTOK // 2), "batch": flat(9 * MTOK)}
    priced = card(flat(MTOK), tiers=tiers)
    tokens: Mapping[str | None, int] = {None: 20, "auto": 20, "priority": 20, "flex": 10, "default": 10, "scale": 10}
    assert tokens == {tier: price.bound(priced, Size(tier=tier), 10, 0) for tier in tokens}


def test_an_unnamed_region_counts_as_the_dearest():
    """A workspace may have a default region; only `global` is surely the plain price."""
    priced = card(flat(MTOK), geos={"us": 1100})
    tokens: Mapping[str | None, int] = {None: 11, "us": 11, "mars": 11, "global": 10}
    assert tokens == {geo: price.bound(priced, Size(geo=geo), 10, 0) for geo in tokens}


def test_a_step_that_is_cheaper_never_lowers_a_bound():
    """The real input may stay below the step that the bound reaches."""
    priced = card(stepped(flat(3 * MTOK), (5, flat(MTOK))))
    assert 30 == price.bound(priced, Size(), 10, 0)


def test_hosted_tools_cost_fees_and_read_the_context_again():
    """Two uses: two fees, and three turns of at most the window, or of input, results and output (section 5)."""
    size = Size(hosted=(Hosted("web_search", 2, True),))
    wide = card(flat(MTOK), fees={"web_search": 1000}, context_window=1_000_000)
    narrow = card(flat(MTOK), fees={"web_search": 1000}, context_window=500)
    result = price.RESULT_TOKENS["web_search"]
    assert 2 * 1000 + 3 * (100 + 2 * result + 50) + 50 == price.bound(wide, size, 100, 50)
    assert 2 * 1000 + 3 * 500 + 50 == price.bound(narrow, size, 100, 50)
    uncapped = Size(hosted=(Hosted("web_search", None, True),))
    assert price.HOSTED_CAP * 1000 + (price.HOSTED_CAP + 1) * 500 + 50 == price.bound(narrow, uncapped, 100, 50)


def test_every_choice_and_the_prediction_count_as_output():
    """n choices each reach the limit; rejected predictions are billed as output; embeddings have none."""
    priced = card(flat(MTOK))
    assert 10 + 3 * 50 + 7 == price.bound(priced, Size(choices=3, prediction_bytes=7), 10, 50)
    assert 10 == price.bound(priced, Size(embeds=True), 10, 50)


def test_a_purse_below_the_input_affords_nothing():
    """0 means that not even one token fits; free output is bounded all the same."""
    assert 0 == price.affords(price.terms_of(card(flat(MTOK)), Size(), 100), 100, price.cost_bound)
    assert 1 == price.affords(price.terms_of(card(flat(MTOK)), Size(), 100), 101, price.cost_bound)
    assert MOST_OUTPUT == price.affords(price.terms_of(card(flat(0)), Size(), 100), 0, price.cost_bound)


@settings(max_examples=80, deadline=None)
@given(any_card, any_size, st.integers(0, 5000), st.integers(0, 3000))
def test_tokens_are_bounded_as_dollars_are(priced, size, tokens_in, limit):
    """At one nano-dollar a token the two bounds are one, but for fees and what the call asks to be billed dearer."""
    plain = card(flat(MTOK), context_window=priced.context_window)
    terms = price.terms_of(plain, size, tokens_in)
    assert price.token_bound(terms, limit) == price.cost_bound(terms, limit)


@pytest.mark.parametrize(("purse", "limit"), [(100, 0), (101, 0), (102, 1), (151, 25)])
def test_a_purse_of_tokens_pays_for_every_choice(purse, limit):
    """(granted - input) / choices, and none where not one token is left."""
    terms = price.terms_of(card(flat(MTOK)), Size(choices=2), 100)
    assert limit == price.affords(terms, purse, price.token_bound)


# --------------------------------------------------------------------------- unbounded


@pytest.mark.parametrize(
    ("size", "caps", "said"),
    [
        (Size(hosted=(Hosted("web_search", 3, True),)), False, None),
        (Size(hosted=(Hosted("web_search", None, True),)), False, "no cap"),
        (Size(hosted=(Hosted("web_search", None, True),)), True, None),
        (Size(hosted=(Hosted("mcp", None, False),)), True, "no cap"),
        (Size(hosted=(Hosted("code_interpreter", 3, True),)), True, "price"),
        (Size(hosted=(Hosted("image_generation", 3, True),)), True, "price"),
        (Size(tier="ultrafast"), False, "service tier"),
        (Size(tier="priority"), False, None),
        (Size(other_media=True, unseen=True), False, None),
    ],
)
def test_what_cannot_be_bounded_is_said(size, caps, said):
    """Tools without a cap or a price, and tiers without a price; media and unseen input are bounded by the window."""
    why = price.unbounded(size, card(flat(), fees={"web_search": 1}), caps)
    assert (why is None) if said is None else (why is not None and said in why)


@pytest.mark.parametrize("size", [Size(other_media=True), Size(unseen=True)])
def test_without_a_window_media_and_unseen_input_have_no_bound(size):
    """The window is their only ceiling."""
    assert price.unbounded(size, card(flat(), context_window=None)) is not None


def test_deep_research_searches_as_it_likes():
    """Such a model is bounded only where its searches are capped in the request."""
    model = RateCard("o3-deep-research", "openai", flat(), fees={"web_search": 1}, context_window=1000)
    assert price.unbounded(Size(), model) is not None
    assert price.unbounded(Size(hosted=(Hosted("web_search", 2, True),)), model) is None
