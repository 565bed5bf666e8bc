"""OpenAI-style usage is read as each provider fills it (wire-formats.md section 4)."""

from __future__ import annotations

import pytest

from gateway.core.types import Quirks, Usage
from gateway.core.wire.openai_usage import (
    error_word,
    merge,
    read_usage,
    stated_nusd,
    unaccounted,
    whole_number,
    zero_is_meant,
)

PLAIN = Quirks()


def test_openai_totals_include_their_parts():
    """Cached, written and reasoning are parts; audio is told apart."""
    told = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 2},
    }
    assert Usage(100, 20, 60, 30, None, 8, 5, 2) == read_usage(told, PLAIN)


@pytest.mark.parametrize(
    "told",
    [
        {"num_cached_tokens": 7},
        {"prompt_token_details": {"cached_tokens": 7}},
        {"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 1},
        {"cached_tokens": 7},
        {"cache_read_input_tokens": 7},
    ],
)
def test_cached_tokens_have_many_names(told):
    """Mistral, Writer, DeepSeek, Together, Databricks."""
    assert 7 == read_usage({"prompt_tokens": 8, **told}, PLAIN).cache_read_tokens


def test_reasoning_outside_is_added_once():
    """xAI: on top of completion_tokens; its own total proves it either way, whatever the preset."""
    told = {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}
    outside = Quirks(reasoning_outside=True)
    assert (5, 8) == (read_usage(told, PLAIN).output_tokens, read_usage(told, outside).output_tokens)
    assert (8, 8) == tuple(
        read_usage({**told, "total_tokens": 18}, quirks).output_tokens for quirks in (PLAIN, outside)
    )
    assert (5, 5) == tuple(
        read_usage({**told, "total_tokens": 15}, quirks).output_tokens for quirks in (PLAIN, outside)
    )


def test_only_a_total_means_input_for_embeddings():
    """Voyage tells nothing else (design.md section 2); for a chat it would be no figure."""
    assert 18 == read_usage({"total_tokens": 18}, PLAIN, embeds=True).input_tokens
    assert None is read_usage({"total_tokens": 18}, PLAIN).input_tokens


def test_reports_are_merged_never_added():
    """Each field's last non-null value stays, in details too."""
    known = merge({}, {"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": 2}})
    merge(known, {"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": None}})
    assert {"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}} == known


@pytest.mark.parametrize(
    ("value", "count"), [(3, 3), (3.0, 3), (3.5, None), (True, None), ("3", None), (-1, None), (1e300, None)]
)
def test_only_counts_count(value, count):
    """Garbage in a usage object is passed over."""
    assert count == whole_number(value)


@pytest.mark.parametrize(
    ("told", "nusd"),
    [
        ({"cost": 0.01355025}, 13_550_250),
        ({"cost": 0.0004970133333333333}, 497_014),
        ({"cost": 0}, 0),
        ({"cost_in_usd_ticks": 11}, 2),
        ({"cost": -1}, None),
        ({"cost": {"total_cost": 1}}, None),
        ({"cost": "x"}, None),
        ({"cost": "NaN"}, None),
        ({"cost": "Infinity"}, None),
        ({}, None),
    ],
)
def test_stated_costs_are_rounded_up(told, nusd):
    """OpenRouter states dollars, xAI ticks of 10^-10 USD; garbage states nothing."""
    assert nusd == stated_nusd(told)


def test_a_stated_zero_needs_a_reason():
    """Own keys or a `:free` model (design.md section 2)."""
    assert (True, True, False) == (
        zero_is_meant({"is_byok": True}),
        zero_is_meant({}, None, "x:free"),
        zero_is_meant({"is_byok": False}, "x", None),
    )


def test_searches_are_uses():
    """What a provider ran itself is counted by kind."""
    assert {"web_search": 2} == read_usage({"server_tool_use": {"web_search_requests": 2}}, PLAIN).uses
    assert {"web_search": 3} == read_usage({"num_search_queries": 3}, PLAIN).uses


def test_hidden_tokens_are_the_rest_of_the_total():
    """Total less both parts, never below zero."""
    assert 7 == unaccounted({"total_tokens": 22}, Usage(10, 5))
    assert 0 == unaccounted({"total_tokens": 2}, Usage(10, 5))
    assert 0 == unaccounted({}, Usage(10, 5))


@pytest.mark.parametrize(
    ("error", "word"),
    [({"code": "c", "type": "t"}, "c"), ({"code": None, "type": "t"}, "t"), ({"code": 402}, "402"), ("text", "text"),
     ({"message": "m"}, "error"), (None, None), ("", None)],
)  # fmt: skip
def test_an_error_is_called_by_its_code(error, word):
    """Code, else type, else just that it is one."""
    assert word == error_word(error)
