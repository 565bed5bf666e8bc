"""The house's values as `/api` shows them: runs, calls, tool spans, budget accounts, journal entries.

Invariant: amounts leave as exact decimal strings and instants as RFC 3339 in UTC; nothing is rounded but durations,
to a microsecond. What never enters: I/O, a secret, content of a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.core.refusal import rfc3339, usd
from gateway.core.types import Attempt, Balance, Entry, Exchange, Run, ToolCall, Usage
from gateway.edge import api_models as m
from gateway.rules.budget import Budget


class Ceiling(Struct, frozen=True):
    """What the configuration says of every run's dollars: the limit, and how far an operator may raise it."""

    limit_nusd: int | None = None
    most_nusd: int | None = None


def ceiling(budgets: Sequence[Budget]) -> Ceiling:
    """The lowest of several budgets is the one in force (rules/budget.py)."""
    lowest = min(budgets, key=lambda budget: budget.limit, default=None)
    return Ceiling() if lowest is None else Ceiling(lowest.limit, lowest.most)


def account_of(run_key: str) -> str:
    """The account that a run's dollars, and its descendants', are held on."""
    return f"run/{run_key}/nusd"


def maybe_instant(at: float | None) -> str | None:
    """RFC 3339; None stays None."""
    return None if at is None else rfc3339(at)


def maybe_usd(nusd: int | None) -> str | None:
    """As `usd`; None (unknown) stays None and never becomes 0."""
    return None if nusd is None else usd(nusd)


def milliseconds(begin: float, end: float | None) -> float | None:
    """A duration; None while it lasts. Never negative, also when the wall clock stepped back."""
    return None if end is None else max(0.0, round((end - begin) * 1000, 3))


def run_item(run: Run, parent_id: str | None, balance: Balance | None, top: Ceiling) -> m.RunItem:
    """A run with its money from the ledger at this instant; no account yet means nothing spent."""
    limit = top.limit_nusd if balance is None else balance.limit
    return m.RunItem.model_construct(
        run_id=run.id,
        key=run.tenant or None,
        source=run.source,
        parent=parent_id,
        agent=run.agent,
        user=run.user,
        session=run.session,
        state=run.state,
        outcome=run.outcome,
        reason=run.reason,
        started_at=rfc3339(run.started_at),
        last_at=rfc3339(run.last_at),
        ended_at=maybe_instant(run.ended_at),
        calls=run.calls,
        tool_calls=run.tool_calls,
        errors=run.errors,
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        cache_read_tokens=run.cache_read_tokens,
        cache_write_tokens=run.cache_write_tokens,
        reasoning_tokens=run.reasoning_tokens,
        spent_usd=usd(balance.spent if balance else 0),
        own_spent_usd=usd(run.own_spent_nusd),
        held_usd=usd(balance.held if balance else 0),
        overrun_usd=usd(balance.overrun if balance else 0),
        limits=m.Limits.model_construct(usd=maybe_usd(limit)),
        trace_id=run.trace_id,
    )


def call_item(exchange: Exchange) -> m.CallItem:
    """A call whose answer has ended."""
    return m.CallItem.model_construct(
        call_id=exchange.call_id,
        step=exchange.step,
        dialect=exchange.dialect,
        provider=exchange.provider,
        request_model=exchange.request_model,
        response_model=exchange.response_model,
        stream=exchange.stream,
        started_at=rfc3339(exchange.started_at),
        duration_ms=milliseconds(exchange.started_at, exchange.ended_at),
        ttft_ms=milliseconds(exchange.started_at, exchange.first_at),
        status=exchange.status,
        outcome=exchange.outcome,
        reason=exchange.reason or None,
        finish_reason=exchange.finish_reason,
        usage=_usage(exchange.usage or Usage(), exchange.estimated),
        cost_usd=maybe_usd(exchange.cost_nusd),
        cost_source=exchange.cost_source,
        hold_usd=usd(exchange.hold_nusd),
        clamped=exchange.clamped,
        tool_calls=[_tool_call(call) for call in exchange.tool_calls],
        findings=exchange.findings,
        attempts=[_attempt(attempt) for attempt in exchange.attempts],
    )


def _usage(usage: Usage, estimated: bool) -> m.UsageItem:
    return m.UsageItem.model_construct(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=estimated,
    )


def _tool_call(call: ToolCall) -> m.ToolCallItem:
    return m.ToolCallItem.model_construct(id=call.id, name=call.name, known=call.known, valid=call.valid)


def _attempt(attempt: Attempt) -> m.AttemptItem:
    return m.AttemptItem.model_construct(
        provider=attempt.provider,
        model=attempt.model,
        status=attempt.status,
        outcome=attempt.outcome,
        cost_usd=maybe_usd(attempt.cost_nusd),
    )


def budget_item(budget: Budget, run: Run, balance: Balance | None, now: float) -> m.BudgetItem:
    """A run's account as one account of a budget."""
    known = balance or Balance(account_of(run.key), budget.limit, 0, 0)
    return m.BudgetItem.model_construct(
        name=budget.name,
        scope="run",
        account=known.account,
        unit="usd",
        per="run",
        mode="strict",
        limit=maybe_usd(known.limit),
        spent=usd(known.spent),
        held=usd(known.held),
        overrun=usd(known.overrun),
        window_started_at=rfc3339(run.started_at),
        resets_at=None,
        exhausted_at=maybe_instant(_exhausted_at(run, known, now)),
    )


def _exhausted_at(run: Run, balance: Balance, now: float) -> float | None:
    """When the account runs dry if the run goes on as it did so far."""
    limit, spent = balance.limit, balance.spent
    if limit is None or run.state != "active" or spent <= 0:
        return None
    if spent >= limit:
        return run.last_at
    lasted = now - run.started_at
    ahead = lasted * (limit - spent) / spent
    # a pace that needs more than ten years is no pace
    return now + ahead if lasted > 0 and ahead < 3.2e8 else None


def event(entry: Entry) -> tuple[str, str]:
    """A journal entry as (kind, JSON): a call as `/calls` shows it, everything else as a small map."""
    if entry.kind in ("call", "amend"):
        shown: Any = call_item(msgspec.msgpack.decode(entry.data, type=Exchange)).model_dump(mode="json")
    else:
        shown = spelled(msgspec.msgpack.decode(entry.data) if entry.data else {})
    return entry.kind, json.dumps({"at": rfc3339(entry.at), "data": shown}, separators=(",", ":"))


def spelled(data: Any) -> Any:
    """Amounts (`_nusd`) and instants (`_at`) in a journal map as `/api` spells them, by their names."""
    if isinstance(data, Mapping):
        return dict(_field(str(name), value) for name, value in data.items())
    if isinstance(data, list | tuple):
        return [spelled(value) for value in data]
    return data if isinstance(data, str | int | float | bool) or data is None else str(data)


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_nusd") and isinstance(value, int):
        return name.removesuffix("_nusd") + "_usd", usd(value)
    if name.endswith("_at") and isinstance(value, int | float):
        return name, rfc3339(value)
    return name, spelled(value)
