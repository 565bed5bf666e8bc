"""The house's values as `/api` shows them: runs, calls, tool spans, budget accounts, journal entries.

Invariant: amounts leave as exact decimal strings and instants as RFC 3339 in UTC; nothing is rounded but durations,
to a microsecond. What never enters: I/O, a secret, content of a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.ledger import names
from gateway.core.ports import OpenCall, Standing
from gateway.core.refusal import rfc3339, usd
from gateway.core.tools import ToolSpan
from gateway.core.types import Attempt, Balance, Entry, Exchange, Run, ToolCall, Usage
from gateway.edge import api_models as m
from gateway.rules.budget import Budget

UNITS: Final = {"usd": "nusd", "calls": "calls", "tool_calls": "tool_calls", "tokens": "tokens", "seconds": "seconds"}


class Ceiling(Struct, frozen=True):
    """What the configuration says of one unit of every run: the limit, and how far an operator may raise it."""

    limit: int
    most: int


Ceilings = Mapping[str, Ceiling]  # by the ledger's unit; a unit that nothing limits is not in it


def ceilings(budgets: Sequence[Budget]) -> dict[str, Ceiling]:
    """Of several budgets of a run the lowest limit is in force, and none may be passed; a shadow only watches."""
    found: dict[str, Ceiling] = {}
    for budget in budgets:
        if budget.scope == "run" and not budget.shadow:
            known = found.get(budget.unit, Ceiling(budget.limit, budget.most))
            found[budget.unit] = Ceiling(min(known.limit, budget.limit), min(known.most, budget.most))
    return found


def accounts_of(run_key: str) -> list[str]:
    """The accounts on which a run, with its descendants, is counted, a unit each."""
    return [names.spell("run", run_key, unit) for unit in UNITS.values()]


def limits_of(run_key: str, found: Mapping[str, Standing], tops: Ceilings) -> m.Limits:
    """What is in force: the lower of the configuration and of what was asked for this run, see `ports.Standing`."""
    said: dict[str, str | int | None] = {}
    for word, unit in UNITS.items():
        standing, top = found.get(names.spell("run", run_key, unit)), tops.get(unit)
        limit = standing.cap if standing is not None else None
        if top is not None:
            limit = top.limit if limit is None else min(limit, top.most)
        said[word] = usd(limit) if unit == "nusd" and limit is not None else limit
    return m.Limits.model_construct(**said)  # type: ignore[arg-type]  # units other than usd are integers


def maybe_instant(at: float | None) -> str | None:
    """RFC 3339; None stays None."""
    return None if at is None else rfc3339(at)


def maybe_usd(nusd: int | None) -> str | None:
    """As `usd`; None (unknown) stays None and never becomes 0."""
    return None if nusd is None else usd(nusd)


def milliseconds(begin: float, end: float | None) -> float | None:
    """A duration; None while it lasts. Never negative, also when the wall clock stepped back."""
    return None if end is None else max(0.0, round((end - begin) * 1000, 3))


def id_of(key: str | None, tenant: str) -> str | None:
    """The run id in a run key of this tenant."""
    return key.removeprefix(f"{tenant}~") if key and tenant else key


def run_item(run: Run, balance: Balance, limits: m.Limits) -> m.RunItem:
    """A run with its money from the ledger at this instant."""
    return m.RunItem.model_construct(
        run_id=run.id,
        key=run.tenant or None,
        source=run.source,
        parent=id_of(run.parent, run.tenant),
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
        spent_usd=usd(balance.spent),
        own_spent_usd=usd(run.own_spent_nusd),
        held_usd=usd(balance.held),
        overrun_usd=usd(balance.overrun),
        limits=limits,
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


def held_item(call: OpenCall, tenant: str) -> m.HeldItem:
    """A call that is under way."""
    return m.HeldItem.model_construct(
        call_id=call.call_id,
        run_id=id_of(call.run, tenant) or call.run,
        model=call.model,
        started_at=rfc3339(call.since),
        deadline_at=rfc3339(call.deadline_at),
        held_usd=usd(call.held.get("nusd", 0)),
        held_tokens=call.held.get("tokens"),
    )


def tool_item(span: ToolSpan) -> m.ToolItem:
    """A tool call with what its result told."""
    return m.ToolItem.model_construct(
        id=span.id,
        name=span.name,
        step=span.step,
        started_at=rfc3339(span.started_at),
        ended_at=maybe_instant(span.ended_at),
        duration_ms=span.duration_ms,
        is_error=span.is_error,
        repeated=span.repeated,
    )


def event(entry: Entry) -> tuple[str, str]:
    """A journal entry as (kind, JSON): a call as `/calls` shows it, everything else as a small map."""
    said = msgspec.msgpack.decode(entry.data) if entry.data else {}
    if isinstance(said, dict):
        said.pop("at_end", None)  # the ledger's own note of a run that ended: `/api/runs/{id}` shows it
    whole = isinstance(said, dict) and "call_id" in said and "step" in said  # an amendment may be only what changed
    shown = call_item(msgspec.convert(said, Exchange)).model_dump(mode="json") if whole else spelled(said)
    return entry.kind, json.dumps(
        {"at": rfc3339(entry.at), "call_id": entry.call_id, "data": shown}, separators=(",", ":")
    )


def spelled(data: Any) -> Any:
    """A journal map with amounts (`_nusd`, limits of dollar accounts) and instants (`_at`) as `/api` spells them."""
    if isinstance(data, Mapping):
        dollars = "/nusd" in str(data.get("account", ""))
        return dict(_field(str(name), value, dollars) for name, value in data.items())
    if isinstance(data, list | tuple):
        return [spelled(value) for value in data]
    return data if isinstance(data, str | int | float | bool) or data is None else str(data)


def _field(name: str, value: Any, dollars: bool) -> tuple[str, Any]:
    number = isinstance(value, int) and not isinstance(value, bool)
    if number and name.endswith("_nusd"):
        return name.removesuffix("_nusd") + "_usd", usd(value)
    if number and dollars and name in ("limit", "delta"):
        return name + "_usd", usd(value)
    if name.endswith("_at") and isinstance(value, int | float):
        return name, rfc3339(value)
    return name, spelled(value)
