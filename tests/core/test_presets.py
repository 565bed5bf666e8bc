"""Presets are pure data that the rest of the house can use as it stands."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from genai_prices.data import providers as listers

from gateway.core.presets import PRESETS

NAMES = "openai anthropic gemini vertex bedrock azure groq mistral deepseek openrouter xai together cohere perplexity"
NAMES += " cerebras fireworks ollama vllm scripted"
SPOKEN = {"openai-chat", "openai-responses", "openai-embeddings", "openai-completions", "anthropic-messages"}
NAMED_ONLY = {"gemini", "bedrock-converse"}


def test_every_preset_of_the_design_exists():
    """design.md section 5 names them; each carries its own name."""
    assert set(NAMES.split()) == set(PRESETS)
    assert all(name == preset.name == preset.preset for name, preset in PRESETS.items())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_an_origin_is_an_origin(name):
    """No /v1 and no trailing slash; http only at home; empty where the host is the customer's."""
    preset = PRESETS[name]
    parts = urlsplit(preset.origin)
    assert preset.origin == "" or parts.scheme == ("http" if preset.local else "https")
    assert not preset.origin.endswith(("/v1", "/"))
    assert (preset.origin == "") == (name in {"azure", "bedrock", "scripted"})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_dialects_and_prices_are_known_names(name):
    """What a preset speaks is a dialect of the house, and its prices are in the list; at home nothing is listed."""
    preset = PRESETS[name]
    assert preset.dialects
    assert set(preset.dialects) <= SPOKEN | NAMED_ONLY
    listed = {lister.id for lister in listers}
    assert (("local",) == preset.price_ids) if preset.local else (set(preset.price_ids) <= listed and preset.price_ids)


def test_only_who_states_its_bill_is_believed():
    """A stated price counts only for OpenRouter and xAI (design.md section 2)."""
    assert {"openrouter", "xai"} == {name for name, preset in PRESETS.items() if preset.quirks.states_cost}


def test_fields_that_a_provider_refuses_are_never_its_own():
    """Mistral answers 422 to stream_options and max_completion_tokens; Groq, OpenRouter and xAI tell usage unasked."""
    unasked = {"mistral", "groq", "openrouter", "xai", "perplexity", "anthropic"}
    assert unasked == {name for name, preset in PRESETS.items() if not preset.quirks.usage_option}
    assert "max_tokens" == PRESETS["mistral"].quirks.output_field
    assert "max_completion_tokens" == PRESETS["openai"].quirks.output_field
    chat = [preset for preset in PRESETS.values() if "openai-chat" in preset.dialects]
    assert all(preset.quirks.output_field in ("max_tokens", "max_completion_tokens") for preset in chat)


def test_only_openais_own_tokenizer_needs_no_normalising():
    """Elsewhere text that isn't ASCII may grow before it is tokenized (ledger.md section 5)."""
    assert {"openai", "azure", "scripted"} == {n for n, preset in PRESETS.items() if preset.quirks.openai_tokenizer}


def test_keys_travel_as_each_provider_wants_them():
    """Anthropic reads x-api-key, Azure api-key, everybody else a bearer."""
    odd = {name: preset.quirks.auth for name, preset in PRESETS.items() if preset.quirks.auth != "bearer"}
    assert {"anthropic": "x-api-key", "azure": "api-key"} == odd
