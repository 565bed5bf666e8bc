"""Spells a refusal: its details in exact decimals, and the OpenAI shape that dialects share (http.md section 3).

Invariant: amounts are decimal strings of the integer they come from, never rounded, never through a float; what does
not apply is null. What never enters: deciding anything, another dialect's shape.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.core.types import NUSD, Refusal


def usd(nusd: int) -> str:
    """Nano-dollars as a plain decimal of dollars with at most nine digits after the point."""
    sign = "-" if nusd < 0 else ""
    whole, part = divmod(abs(nusd), NUSD)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".")


def rfc3339(at: float) -> str:
    """An instant as RFC 3339 in UTC, whole seconds where it is whole."""
    return datetime.fromtimestamp(at, tz=UTC).isoformat().replace("+00:00", "Z")


def details(refusal: Refusal) -> dict[str, Any]:
    """The `details` object of a refusal: dollars in the fields that end in _usd, every other unit in its own five."""
    dollars = refusal.unit == "usd"

    def money(amount: int | None) -> str | None:
        return usd(amount) if dollars and amount is not None else None

    def number(amount: int | None) -> int | None:
        return None if dollars else amount

    told = (refusal.limit, refusal.spent, refusal.held, refusal.needed) != (None, None, None, None)
    return {
        "run_id": refusal.run_id,
        "scope": refusal.scope,
        "limit_usd": money(refusal.limit),
        "spent_usd": money(refusal.spent),
        "held_usd": money(refusal.held),
        "needed_usd": money(refusal.needed),
        "resets_at": None if refusal.resets_at is None else rfc3339(refusal.resets_at),
        "retryable": refusal.retryable,
        "url": refusal.url,
        "unit": refusal.unit if told or refusal.code == "rate_limited" or not dollars else None,
        "limit": number(refusal.limit),
        "used": number(refusal.spent),
        "held": number(refusal.held),
        "needed": number(refusal.needed),
    }


def openai_error(refusal: Refusal) -> bytes:
    """The error body as OpenAI spells it; also what is sent inside of a chat stream."""
    error = {
        "message": refusal.message,
        "type": "budget_exceeded" if refusal.code == "insufficient_quota" else refusal.code,
        "code": refusal.code,
        "param": None,
        "details": details(refusal),
    }
    return msgspec.json.encode({"error": error})
