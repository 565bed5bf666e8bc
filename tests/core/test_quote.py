"""Tests of core/quote.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.presets import PRESETS
from gateway.core.price import CLASSES, RESULT_TOKENS, RateCard, Rates, bound
from gateway.core.quote import LEAST_THINKING, MOST_NUSD, PAID_IN, Policy, Quote, limit_for, quote, tightest
from gateway.core.tokens import FRAMING
from gateway.core.types import Call, Hosted, Size

SAME: dict[str, Any] = dict.fromkeys(CLASSES, 1_000_000_000)
FLAT = Rates(**SAME)
CARD = RateCard("m", "p", FLAT, max_output=4000, context_window=100_000, openai_tokenizer=True)
WINDOWED = RateCard("m", "p", FLAT, context_window=200_000)
UNKNOWN = RateCard("m", "p", FLAT, context_window=100_000)
POLICY = Policy()


def call(**more: Any) -> Call:
    return Call("d", PRESETS["openai"], "metered", model="nobody", size=Size(**{"text_bytes": 1000, **more}))


def test_an_unknown_price_holds_no_money_and_bounds_tokens():
    """No card, no dollars: the rules decide, not a guess; tokens are bounded by the bytes all the same."""
    got = quote(call(asked_output=3000), None, POLICY)
    assert (None, 0, 0, None, None) == (got.card, got.want, got.least, got.unbounded, got.endless)
    assert ((0, 0), (1000 + FRAMING + 3000, 1000 + FRAMING + 256)) == (got.sizes["nusd"], got.sizes["tokens"])


def test_every_unit_has_its_size():
    """Dollars and tokens by their bounds; one call, no tool call held, one second begun."""
    size = {"asked_output": 3000, "choices": 2, "prediction_bytes": 7}
    got = quote(call(**size), CARD, POLICY)
    assert (got.want, got.least) == got.sizes["nusd"]
    assert (1000 + FRAMING + 2 * 3000 + 7, 1000 + FRAMING + 2 * 256 + 7) == got.sizes["tokens"]
    assert ((1, 1), (0, 0), (1, 1)) == (got.sizes["calls"], got.sizes["tool_calls"], got.sizes["seconds"])
    assert (1000 + FRAMING, 1000 + FRAMING) == quote(call(embeds=True), CARD, POLICY).sizes["tokens"]


def test_a_hosted_tool_reads_the_context_again_in_tokens_too():
    """(uses + 1) times what the context can be by then, and the output once (ledger.md section 5)."""
    tool = Hosted("web_search", 2, True)
    got = quote(call(asked_output=300, hosted=(tool,)), CARD, POLICY)
    context = got.input_tokens + 2 * RESULT_TOKENS["web_search"] + 300
    assert 3 * context + 300 == got.sizes["tokens"][0]
    assert got.sizes["tokens"] == quote(call(asked_output=300, hosted=(tool,)), WINDOWED, POLICY).sizes["tokens"]


def test_what_has_no_end_in_tokens_is_told_apart_from_what_has_no_price():
    """An unknown fee stops a dollar budget only; an uncapped tool, or unseen input without a window, stops both."""
    fee = quote(call(hosted=(Hosted("odd", 1, True),)), CARD, POLICY)
    assert fee.unbounded is not None and fee.endless is None
    for size in ({"hosted": (Hosted("odd"),)}, {"unseen": True}):
        got = quote(call(**size), None, POLICY)
        assert got.unbounded is None and got.endless is not None
    assert quote(call(hosted=(Hosted("odd"),)), CARD, POLICY).endless is not None


def test_want_and_least_are_bounds_at_the_asked_limit_and_at_the_floor():
    """`want` pays for what is asked, `least` for min(asked, 256) (ledger.md section 5)."""
    got = quote(call(asked_output=3000), CARD, POLICY)
    size = call(asked_output=3000).size
    assert (1000 + FRAMING, 3000, False, False) == (got.input_tokens, got.output, got.must_set, got.share)
    assert (bound(CARD, size, 1000 + FRAMING, 3000), bound(CARD, size, 1000 + FRAMING, 256)) == (got.want, got.least)
    small = quote(call(asked_output=20), CARD, POLICY)
    assert small.want == small.least


def test_an_absent_limit_is_the_models_greatest_and_is_shared():
    """By the card, then by our table, then the policy's; only the last has to be set."""
    got = quote(call(), CARD, POLICY)
    assert (4000, False, True) == (got.output, got.must_set, got.share)
    got = quote(call(), UNKNOWN, POLICY)
    assert (8192, True, True) == (got.output, got.must_set, got.share)
    known = Call("d", PRESETS["openai"], "metered", model="gpt-4o-mini", size=Size(text_bytes=9))
    got = quote(known, UNKNOWN, POLICY)
    assert (16_384, False) == (got.output, got.must_set)


def test_without_the_clamp_there_is_no_least():
    """Clamping switched off: all of it or nothing (ledger.md section 5)."""
    got = quote(call(asked_output=3000), CARD, Policy(clamp=False))
    assert got.want == got.least


def test_thinking_needs_its_minimum_below_the_floor():
    """A thinking budget below 1024 is refused by the API, so the floor makes room for it."""
    size = {"asked_output": 3000, "thinking": 2000}
    want = bound(CARD, call(**size).size, 1000 + FRAMING, 256 + LEAST_THINKING)
    assert want == quote(call(**size), CARD, POLICY).least


def test_embeddings_have_no_output():
    """Input only, nothing to set, nothing to share."""
    got = quote(call(embeds=True), UNKNOWN, POLICY)
    assert (0, False, False, True) == (got.output, got.must_set, got.share, got.want == got.least)
    assert None is limit_for(call(embeds=True), got, {"nusd": 0})


def test_a_count_replaces_the_bytes_and_never_exceeds_them():
    """Tier B, 5 % and framing on top; the bytes stay a ceiling (ledger.md section 5)."""
    assert 105 + FRAMING == quote(call(), CARD, POLICY, counted=100).input_tokens
    assert 1000 + FRAMING == quote(call(), CARD, POLICY, counted=5000).input_tokens
    assert 1000 + FRAMING == quote(call(), UNKNOWN, POLICY, counted=100).input_tokens  # only a stand-in's count


def test_what_cannot_be_bounded_says_why():
    """A tool of unknown price: the reason is for the refusal."""
    assert "tool" in (quote(call(hosted=(Hosted("odd"),)), CARD, POLICY).unbounded or "")


def test_the_body_is_left_alone_while_all_of_it_is_paid():
    """No limit is set where want was granted, unless the model's own is unknown."""
    asked = call(asked_output=3000)
    got = quote(asked, CARD, POLICY)
    assert None is limit_for(asked, got, {"nusd": got.want})
    free = quote(call(), UNKNOWN, POLICY)
    assert 8192 == limit_for(call(), free, {"nusd": free.want})
    assert None is limit_for(call(), Quote(card=None), {})


@given(st.integers(0, 10**6), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 5000)))
def test_a_granted_limit_costs_no_more_than_the_grant(above: int, choices: int, asked: int | None):
    """Any grant between least and want buys a limit between floor and want whose bound it covers (ledger.md I6)."""
    one = call(asked_output=asked, choices=choices)
    got = quote(one, CARD, POLICY)
    granted = min(got.want, got.least + above)
    limit = limit_for(one, got, {"nusd": granted})
    if granted >= got.want:
        assert limit is None
    else:
        assert limit is not None and min(got.output, 256) <= limit <= got.output
        assert bound(CARD, one.size, got.input_tokens, limit) <= granted


@pytest.mark.parametrize("field", ["min_output", "default_max_output", "clamp"])
def test_policies_have_the_defaults_of_the_page(field: str):
    """256, 8192, clamping (design.md sections 2 and 5)."""
    assert {"min_output": 256, "default_max_output": 8192, "clamp": True}[field] == getattr(POLICY, field)


@given(
    st.integers(0, 10**5),
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 5000)),
    st.sampled_from([CARD, None]),
    st.sampled_from([(), (Hosted("web_search", 2, True),)]),
)
def test_a_granted_limit_fits_both_units(
    above: int, money: int, choices: int, asked: int | None, card: Any, tools: Any
):
    """Whatever is granted of dollars and of tokens, with a price or without: the limit costs no more of either, and
    where one is set, not one token less is let through than the shorter of the two pays for."""
    one = call(asked_output=asked, choices=choices, hosted=tools)
    got = quote(one, card, POLICY)
    extra = {"tokens": above, "nusd": money}
    granted = {unit: min(want, least + extra.get(unit, 0)) for unit, (want, least) in got.sizes.items()}
    limit = limit_for(one, got, granted)
    assert got.terms is not None
    output = got.output if limit is None else limit
    assert min(got.output, 256) <= output <= got.output
    for unit, bound_of in PAID_IN.items():
        assert min(MOST_NUSD, bound_of(got.terms, output)) <= granted[unit]
    if limit is not None and limit < got.output:
        unit = tightest(got, granted)
        assert PAID_IN[unit](got.terms, limit + 1) > granted[unit]
