"""The table of models' greatest output: dated, sourced, exact names only."""

from __future__ import annotations

import pytest

from gateway.core import models


@pytest.mark.parametrize(
    ("model", "output", "context"),
    [
        ("gpt-4o", 16_384, 128_000),
        ("gpt-4o-2024-08-06", 16_384, 128_000),
        ("gpt-4o-2024-05-13", 4096, 128_000),
        ("gpt-4o-mini-2024-07-18", 16_384, 128_000),
        ("gpt-4-0613", 8192, 8192),
        ("gpt-4-turbo-2024-04-09", 4096, 128_000),
        ("gpt-5-chat-latest", 16_384, 128_000),
        ("openai/gpt-6-astra", 128_000, 1_050_000),
        ("ft:gpt-4o-mini-2024-07-18:acme:name:id", 16_384, 128_000),
        ("claude-sonnet-4-5-20250929", 64_000, 1_000_000),
        ("claude-opus-4-20250514", 32_000, 200_000),
        ("claude-opus-4@20250514", 32_000, 200_000),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", 8192, 200_000),
        ("anthropic/claude-sonnet-4.5", 64_000, 1_000_000),
        ("claude-haiku-5-5", 128_000, 1_000_000),
        ("gemini-2.5-flash-preview-05-20", 65_536, 1_048_576),
        ("gemini-2.0-flash-001", 8192, 1_048_576),
        ("llama-3.3-70b-versatile", 32_768, 131_072),
    ],
)
def test_a_model_is_found_by_its_name_date_and_cloud(model, output, context):
    """Dates, versions, vendors, regions and fine-tunes don't change what a model can write."""
    assert (output, context) == (models.greatest_output(model), models.context_of(model))


@pytest.mark.parametrize(
    "model",
    ["", "gpt-4o-realtime-preview", "gpt-4o-foo", "gpt-99", "my-deployment", "claude-opus-99", "gpt-4o2", "x" * 999],
)
def test_a_longer_name_is_another_model(model):
    """Only a date or version may follow: a name that merely begins alike is unknown, and the caller sets 8,192."""
    assert models.greatest_output(model) is None


@pytest.mark.parametrize(
    "model", ["gemini-4-argon", "grok-4.7", "deepseek-chat", "mistral-large-2512", "claude-fable-5-2"]
)
def test_an_output_that_no_source_states_is_unknown(model):
    """No number rather than a wrong one: too high gives 400, too low an unsound bound."""
    assert models.greatest_output(model) is None
    assert models.context_of(model) is not None


def test_every_row_is_dated_sourced_and_plausible():
    """A source per row; the output fits into the window; no name twice."""
    rows = models.rows()
    assert len(rows) == len({models.plain_name(row.name) for row in rows})
    for row in rows:
        assert row.source.startswith("https://"), row.name
        assert models.CHECKED == row.checked
        assert row.context is None or row.max_output is None or row.max_output <= row.context, row.name


def test_image_maxima_take_the_first_family_that_fits():
    """gpt-4o-mini charges 33 times gpt-4o's image; Claude from Opus 4.7 on sees 3 times as much."""
    names = (
        "gpt-4o-mini",
        "gpt-4o",
        "gpt-4.1-mini",
        "gpt-5-nano",
        "claude-opus-4-6",
        "claude-opus-4-7",
        "claude-opus-5",
    )
    assert [48_169, 1445, 2489, 3779, 1800, 5100, 5100] == [models.greatest_image(name) for name in names]
    assert models.greatest_image("llama-4-scout") is None


def test_image_families_shadow_no_later_one():
    """First prefix wins, so a longer prefix must come before the shorter one it begins with."""
    prefixes = [prefix for prefix, _ in models.IMAGES]
    for i, early in enumerate(prefixes):
        assert not any(late.startswith(early) for late in prefixes[i + 1 :]), early
