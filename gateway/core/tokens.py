"""How many tokens a request's input can be: a bound by its bytes, refined where the count is the model's own.

Invariant: a byte-level tokenizer emits at most one token per byte, so the bound holds whatever the text; an estimate
never lowers it where the model's tokenizer isn't public. What never enters: a tokenizer, a request body.
"""

from __future__ import annotations

import math

from gateway.core import models
from gateway.core.price import WIDEST_WINDOW, RateCard
from gateway.core.types import Size

# What a provider adds to every request: reply priming, and the preamble of chat templates. The largest found in the
# recorded traffic is the harmony preamble of gpt-oss (about 70 tokens).
FRAMING = 128
# Hidden prompt when client tools are offered: 159-530 on Claude 3 and 4 (platform.claude.com, tool-use pricing table),
# newer tokenizers yield 30 % more; a one-tool example counts 403 against 14 without (wire-formats.md section 9).
TOOLS_PROMPT = 1024
# Hidden prompt of each tool that the provider runs itself: computer use 1,234 and text editor 700 are the largest
# documented ones (same table).
HOSTED_PROMPT = 2048
# ledger.md section 5: a local count, 5 % more, and framing.
COUNT_MARGIN_PERCENT = 105

CL100K = ("gpt-4", "gpt-3.5", "text-embedding", "davinci-002", "babbage-002")
O200K = (
    "gpt-4o",
    "gpt-4.1",
    "gpt-4.5",
    "chatgpt-4o",
    "gpt-5",
    "gpt-6",
    "gpt-oss",
    "gpt-audio",
    "o1",
    "o3",
    "o4",
    "codex",
)


def encoding_of(model: str) -> str:
    """The encoding that counts for a model; o200k_base stands in where its own is not public (design.md section 2)."""
    name = models.plain_name(model)
    if name.startswith(O200K) or not name.startswith(CL100K):
        return "o200k_base"
    return "cl100k_base"


def is_exact(model: str) -> bool:
    """Is `encoding_of` the model's own tokenizer?"""
    return models.plain_name(model).startswith(O200K + CL100K)


def spread(model: str) -> tuple[int, int]:
    """Percent of our count that the model's own count can be, low and high: for what must err on one side.

    Claude's tokenizers yield more tokens than o200k_base (the newer ones 30 % more again, wire-formats.md section 9);
    for others the direction is unknown: vocabularies of 128 k to 256 k differ by up to a third on CJK and Indic text.
    """
    if is_exact(model):
        return 100, 100
    if models.plain_name(model).startswith("claude"):
        return 100, 200
    return 60, 200


def input_bound(size: Size, card: RateCard) -> int:
    """Tokens of the request's input at most (ledger.md section 5, A)."""
    return _bound(size, card, size.text_bytes)


def refined(size: Size, counted_tokens: int, card: RateCard) -> int:
    """The bound by a tokenizer's count of the text (ledger.md section 5, B); never above A.

    Where the encoding is only a stand-in for the model's own tokenizer, the bytes stay in force.
    """
    bound = input_bound(size, card)
    if not card.openai_tokenizer:
        return bound
    return min(bound, _bound(size, card, math.ceil(counted_tokens * COUNT_MARGIN_PERCENT / 100)))


def _bound(size: Size, card: RateCard, text_tokens: int) -> int:
    tokens = text_tokens + FRAMING + HOSTED_PROMPT * len(size.hosted) + (TOOLS_PROMPT if size.tools else 0)
    window = card.context_window or WIDEST_WINDOW
    if size.images:
        # The window is a true ceiling of what the images can add: the provider refuses what doesn't fit.
        tokens += min(window, size.images * (models.greatest_image(card.model) or window))
    if size.other_media or size.unseen:
        tokens = max(tokens, window)
    return tokens
