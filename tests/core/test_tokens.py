"""The input's bound holds on everything that was recorded, and an estimate never undercuts what it can't know."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import tokens
from gateway.core.price import CLASSES, WIDEST_WINDOW, RateCard, Rates
from gateway.core.types import Hosted, Size

SHARED = Path(__file__).resolve().parents[2] / "../shared/traffic"
LISTED: dict[str, Any] = dict.fromkeys(CLASSES, 1)
# Input that is not in the body as text: bounded by other means than its bytes.
UNREAD = ("image_url", "input_image", '"image"', "input_audio", "input_file", '"file"', '"document"', "file_id")


def card(model: str = "gpt-4o", window: int | None = 128_000, exact: bool = True) -> RateCard:
    """A card whose prices don't matter here."""
    return RateCard(model, "p", Rates(**LISTED), context_window=window, openai_tokenizer=exact)


def recorded(dialect: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Request bodies and what was really billed."""
    with gzip.open(SHARED / f"{dialect}.jsonl.gz", "rt") as lines:
        exchanges = [json.loads(line) for line in lines]
    return [
        (one["request_body"], one["expected"])
        for one in exchanges
        if isinstance(one.get("request_body"), dict) and one["expected"] and one["expected"]["input_tokens"]
    ]


def in_body(body: dict[str, Any], text: str, expected: dict[str, Any]) -> bool:
    """Is all input in the body, as text, read once?"""
    kinds = {tool.get("type") for tool in body.get("tools") or [] if isinstance(tool, dict)}
    several = isinstance(body.get("reasoning"), dict) and body["reasoning"].get("mode") == "pro"  # reads it many times
    stored = any(body.get(name) for name in ("previous_response_id", "conversation")) or isinstance(
        body.get("prompt"), dict
    )
    hosted = kinds - {"function", "custom", None} or expected.get("server_tool_calls")
    return not (stored or several or hosted or any(mark in text for mark in UNREAD))


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages", "openai-completions"])
def test_recorded_inputs_stay_within_the_bound(dialect):
    """No recorded call was billed for more input than its bytes and the constants allow, whoever the provider (I6)."""
    if not SHARED.exists():
        pytest.skip("../shared is missing: the recorded traffic is not part of this repository")
    checked = 0
    for body, expected in recorded(dialect):
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        if not in_body(body, text, expected):
            continue
        # a schema for the answer is a tool to some providers (Snowflake's Claude: 668 tokens for 336 bytes)
        size = Size(text_bytes=len(text.encode()), tools=bool(body.get("tools") or body.get("response_format")))
        assert expected["input_tokens"] <= tokens.input_bound(size, card(expected["model"] or "")), expected["model"]
        checked += 1
    assert checked > 5


def test_the_bound_is_the_bytes_and_what_is_added():
    """Framing always; a hidden prompt for tools, and one for each tool that the provider runs."""
    assert 1000 + tokens.FRAMING == tokens.input_bound(Size(text_bytes=1000), card())
    size = Size(text_bytes=1000, tools=True, hosted=(Hosted("web_search", 1, True),) * 2)
    added = tokens.FRAMING + tokens.TOOLS_PROMPT + 2 * tokens.HOSTED_PROMPT
    assert 1000 + added == tokens.input_bound(size, card())


def test_images_count_their_models_maximum():
    """1,445 tokens for each image on gpt-4o; where the model is unknown each may fill the window, all of them once."""
    base = 10 + tokens.FRAMING
    assert base + 3 * 1445 == tokens.input_bound(Size(text_bytes=10, images=3), card())
    assert base + 4096 == tokens.input_bound(Size(text_bytes=10, images=3), card("unheard-of", 4096))
    assert base + WIDEST_WINDOW == tokens.input_bound(Size(text_bytes=10, images=1), card("unheard-of", None))


@pytest.mark.parametrize("size", [Size(text_bytes=10, unseen=True), Size(text_bytes=10, other_media=True)])
def test_what_is_not_in_the_body_may_fill_the_window(size):
    """Stored input, documents, sound and film are bounded by the context window, a true ceiling."""
    assert 128_000 == tokens.input_bound(size, card())


def test_a_count_refines_the_bound_of_models_whose_tokenizer_it_is():
    """5 % more than the count, and the same constants; media and unseen input stay at the window."""
    assert 210 + tokens.FRAMING == tokens.refined(Size(text_bytes=1000), 200, card())
    assert 128_000 == tokens.refined(Size(text_bytes=1000, unseen=True), 200, card())


def test_a_stand_in_tokenizer_never_lowers_the_bound():
    """Claude's tokenizer isn't public and yields more tokens than ours: the bytes stay in force."""
    claude = card("claude-opus-5", 1_000_000, exact=False)
    assert 1000 + tokens.FRAMING == tokens.refined(Size(text_bytes=1000), 200, claude)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 3), st.booleans())
def test_a_refined_bound_is_never_above_the_plain_one(text_bytes, counted, images, exact):
    """Tier B can only help (ledger.md section 5)."""
    size = Size(text_bytes=text_bytes, images=images)
    assert tokens.refined(size, counted, card(exact=exact)) <= tokens.input_bound(size, card(exact=exact))


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-4o-mini-2024-07-18", "o200k_base", True),
        ("gpt-6.1-sol", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("openai/gpt-oss-120b", "o200k_base", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-4-0613", "cl100k_base", True),
        ("ft:gpt-3.5-turbo-0613:acme::1", "cl100k_base", True),
        ("text-embedding-3-small", "cl100k_base", True),
        ("claude-opus-5", "o200k_base", False),
        ("gemini-2.5-pro", "o200k_base", False),
    ],
)
def test_each_model_has_its_encoding(model, encoding, exact):
    """cl100k_base for gpt-4, 3.5 and embeddings, else o200k_base, which also stands in (wire-formats.md section 9)."""
    assert (encoding, exact) == (tokens.encoding_of(model), tokens.is_exact(model))


def test_counts_of_stand_ins_are_spread_to_the_safe_side():
    """Exact counts stand as they are; a stand-in's may be too high or too low."""
    assert [(100, 100), (100, 200), (60, 200)] == [tokens.spread(m) for m in ("gpt-5", "claude-opus-5", "qwen3-32b")]
