"""OpenAI-style usage objects, as OpenAI and those who speak its chat format fill them (wire-formats.md section 4).

Invariant: totals include their parts; a field that the wire left out stays None; two reports of one answer are merged,
never added. What never enters: prices, a stream, a request.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

from gateway.core.types import NUSD, Quirks, Usage

_TICKS_PER_NUSD = 10  # xAI: 10^10 ticks = 1 USD
_TELL_USES = frozenset({"server_tool_use", "server_tool_use_details", "num_search_queries"})
_SEARCHES = ("web_search_requests", "web_fetch_requests")


def merge(known: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Keeps each field's last non-null value, in nested details too; reports in a stream are cumulative."""
    for name, value in told.items():
        if isinstance(value, dict):
            have = known.get(name)
            known[name] = merge(have if isinstance(have, dict) else {}, value)
        elif value is not None:
            known[name] = value
    return known


def whole_number(value: Any) -> int | None:
    """A count as the wire told it; None for anything that is no count (some providers write 12.0)."""
    if type(value) is int and 0 <= value <= 2**53:  # what nearly all write; a bool is no int here
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2**53:
        return None
    return int(value) if value == int(value) else None


def _first(told: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = told.get(name)
        if value is not None and (count := whole_number(value)) is not None:
            return count
    return None


def _part(told: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = told.get(name)
        if isinstance(value, dict):
            return value
    return {}


def read_usage(told: dict[str, Any], quirks: Quirks, embeds: bool = False) -> Usage:
    """A usage object in our words. `embeds`: an answer with only total_tokens means input (design.md section 2)."""
    # Mistral spells it `prompt_token_details` in some answers, Writer always
    details_in = _part(told, "prompt_tokens_details", "prompt_token_details", "input_tokens_details")
    details_out = _part(told, "completion_tokens_details", "output_tokens_details")
    total = _first(told, "total_tokens")
    came_in = _first(told, "prompt_tokens", "input_tokens")
    if came_in is None and embeds:
        came_in = total
    reasoning = _first(details_out, "reasoning_tokens")
    if reasoning is None:
        reasoning = _first(told, "reasoning_tokens")
    cached = _first(details_in, "cached_tokens")
    if cached is None:
        cached = _first(told, "num_cached_tokens", "prompt_cache_hit_tokens", "cached_tokens")  # Mistral, DeepSeek
    if cached is None:
        cached = _first(told, "cache_read_input_tokens") or None  # Databricks writes a 0 that tells nothing
    written = _first(details_in, "cache_write_tokens")
    return Usage(
        input_tokens=came_in,
        output_tokens=_output(told, total, came_in, reasoning, quirks),
        cache_read_tokens=cached,
        cache_write_tokens=_first(told, "cache_creation_input_tokens") if written is None else written,
        reasoning_tokens=reasoning,
        audio_input_tokens=_first(details_in, "audio_tokens"),
        audio_output_tokens=_first(details_out, "audio_tokens"),
        uses=_uses(told),
    )


def _output(
    told: dict[str, Any], total: int | None, came_in: int | None, reasoning: int | None, quirks: Quirks
) -> int | None:
    """xAI counts reasoning outside of completion_tokens. Its own total proves it either way, whatever the preset."""
    out = _first(told, "completion_tokens", "output_tokens")
    if out is None or not reasoning:
        return out
    if total is not None and came_in is not None and total in (came_in + out, came_in + out + reasoning):
        return total - came_in
    return out + reasoning if quirks.reasoning_outside else out


def told_input(told: dict[str, Any]) -> int | None:
    """Total input as far as it is told; a 0 in an early chunk is no figure."""
    return _first(told, "prompt_tokens", "input_tokens") or None


def unaccounted(told: dict[str, Any], usage: Usage) -> int:
    """Tokens in the stated total that are in neither part: Google's hidden thoughts, Mistral's audio."""
    total = _first(told, "total_tokens")
    if total is None or usage.input_tokens is None or usage.output_tokens is None:
        return 0
    return max(0, total - usage.input_tokens - usage.output_tokens)


def _uses(told: dict[str, Any]) -> dict[str, int]:
    """Searches that the provider ran: OpenRouter and Perplexity tell them in the usage."""
    uses: dict[str, int] = {}
    if told.keys().isdisjoint(_TELL_USES):
        return uses
    for name in ("server_tool_use", "server_tool_use_details"):
        for kind in _SEARCHES:
            if times := _first(_part(told, name), kind):
                uses[kind.removesuffix("_requests")] = times
    if times := _first(told, "num_search_queries"):
        uses["web_search"] = times
    return uses


def stated_nusd(told: dict[str, Any]) -> int | None:
    """What the provider says it billed, in nano-dollars, rounded up. None where it says nothing."""
    ticks = whole_number(told.get("cost_in_usd_ticks"))
    if ticks is not None:
        return -(-ticks // _TICKS_PER_NUSD)
    cost = told.get("cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float | str):
        return None
    try:
        # repr of a float is the shortest text that reads back the same: what the provider wrote
        amount = Decimal(str(cost)) * NUSD
        return int(amount.to_integral_value(ROUND_CEILING)) if 0 <= amount < 10**18 else None
    except InvalidOperation:
        return None


def zero_is_meant(told: dict[str, Any], *models: str | None) -> bool:
    """Is a stated cost of 0 beside used tokens believable? For own keys and `:free` models only (OpenRouter)."""
    return told.get("is_byok") is True or any(model is not None and model.endswith(":free") for model in models)


def error_word(error: Any) -> str | None:
    """The code of an error object, else its type: what an in-band error or an error body is called."""
    if isinstance(error, str):
        return error[:200] or None
    if not isinstance(error, dict):
        return None
    for name in ("code", "type", "status"):
        value = error.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)[:200]
    return "error"
