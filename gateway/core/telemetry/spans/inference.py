"""A call as its span: `chat`, `text_completion`, `embeddings`; in the role `proxy` a plain HTTP span instead.

Invariant: usage and cost stand on this span and on no other (contract, rule 2), summed over its attempts; a figure
that nobody knows is left out, a zero that is known is said. What never enters: another span's totals.
"""

from __future__ import annotations

from typing import Final

from gateway.core.telemetry import names
from gateway.core.telemetry.spans import ids, messages
from gateway.core.telemetry.spans.span import (
    NAME_MOST,
    Event,
    Link,
    Place,
    Span,
    Value,
    Wishes,
    clipped,
    dollars,
    identity,
    kept,
)
from gateway.core.types import Asked, Attempt, Exchange, Usage

WAIT_TOLD_S: Final = 0.1  # a shorter wait for a hold is no event
ATTEMPTS_MOST: Final = 16  # upstream tries that get a span of their own
FINDINGS_MOST: Final = 16


def call_spans(call: Exchange, place: Place, wishes: Wishes) -> list[Span]:
    """The span of a call, and one for each upstream try where there was more than one."""
    operation = names.operation_name(call.operation, call.dialect)
    proxy = wishes.role == "proxy" or operation is None
    error = names.error_type(call.outcome, call.reason, call.status, call.first_at is not None)
    attributes = _proxied(call, place, error) if proxy else _inferred(call, place, wishes, str(operation), error)
    name = "POST" if proxy else clipped(f"{operation} {call.request_model}".strip(), NAME_MOST)
    span = Span(
        name,
        "client",
        place.trace_id,
        ids.call_id(call.call_id),
        _parent(call, place),
        call.started_at,
        call.ended_at,
        kept(attributes),
        events=tuple(events(call, error)),
        links=_links(call, place),
        error=None if error is None else _message(call, error),
    )
    if len(call.attempts) < 2:
        return [span]
    return [span, *(_attempt(call, one, n, place, wishes) for n, one in enumerate(call.attempts[:ATTEMPTS_MOST], 1))]


def _parent(call: Exchange, place: Place) -> str:
    """The caller's own span where it lies in the run's trace, else the run's root."""
    own = ids.span_of(call.parent_span)
    if own is None or _foreign_trace(call, place) is not None:
        return place.root_id
    return own


def _links(call: Exchange, place: Place) -> tuple[Link, ...]:
    own, trace = ids.span_of(call.parent_span), _foreign_trace(call, place)
    return (Link(trace, own),) if own is not None and trace is not None else ()


def _foreign_trace(call: Exchange, place: Place) -> str | None:
    """The trace of the caller's span, if it is not the run's: a run may last over many traces of its caller."""
    return call.trace_id if call.trace_id not in (None, place.trace_id) else None


def _message(call: Exchange, error: str) -> str:
    return clipped(f"{call.outcome}: {call.reason or error}", NAME_MOST)


# --------------------------------------------------------------------------- attributes


def _inferred(
    call: Exchange, place: Place, wishes: Wishes, operation: str, error: str | None
) -> dict[str, Value | None]:
    section = wishes.section(call.provider)
    provider = names.provider_name(call.provider, section.preset, call.dialect)
    openai = provider == "openai"
    return {
        **identity(place, operation),
        names.CALL_ID: call.call_id,
        names.STEP: call.step,
        names.PROVIDER: provider,
        names.REQUEST_MODEL: call.request_model or None,
        names.RESPONSE_MODEL: call.response_model,
        names.RESPONSE_ID: call.response_id,
        names.FINISH_REASONS: (call.finish_reason,) if call.finish_reason else None,
        names.STREAM: True if call.stream else None,
        names.FIRST_CHUNK: _first(call),
        **_asked(call.asked),
        **_used(call.usage, wishes.cache_write_key),
        **cost(call),
        names.PRICE_VERSION: (wishes.price_version or None) if call.cost_source == "price_list" else None,
        names.SERVER: section.host or None,
        names.PORT: section.port if section.host else None,
        names.ERROR_TYPE: error,
        names.API_TYPE: names.API_TYPES.get(call.dialect) if openai else None,
        names.TIER_ASKED: call.asked.tier if openai and call.asked is not None else None,
        names.TIER_USED: call.tier if openai else None,
        names.SECTION: call.provider,
        **_own(call),
        **(messages.attributes(call) if wishes.in_spans else {}),
    }


def _own(call: Exchange) -> dict[str, Value | None]:
    """What only this gateway knows of a call."""
    return {
        names.CALL_OUTCOME: call.outcome,
        names.CALL_REASON: call.reason or None,
        names.ESTIMATED: True if call.estimated else None,
        names.CLAMPED: call.clamped,
        names.HOLD_NUSD: call.hold_nusd,
        names.RESERVE_S: call.reserve_s,
        names.ATTEMPTS: len(call.attempts),
    }


def _first(call: Exchange) -> float | None:
    return max(0.0, call.first_at - call.started_at) if call.stream and call.first_at is not None else None


def _asked(asked: Asked | None) -> dict[str, Value | None]:
    if asked is None:
        return {}
    return {
        names.MAX_TOKENS: asked.max_tokens,
        names.TEMPERATURE: _double(asked.temperature),
        names.TOP_P: _double(asked.top_p),
        names.TOP_K: _double(asked.top_k),
        names.FREQUENCY_PENALTY: _double(asked.frequency_penalty),
        names.PRESENCE_PENALTY: _double(asked.presence_penalty),
        names.SEED: asked.seed,
        names.STOP_SEQUENCES: asked.stop or None,
        names.CHOICES: asked.choices if asked.choices != 1 else None,
        names.OUTPUT_TYPE: asked.output_type,
        names.DIMENSIONS: asked.dimensions,
        names.ENCODINGS: asked.encodings or None,
    }


def _double(value: float | None) -> float | None:
    return None if value is None else float(value)


def _used(usage: Usage | None, cache_write_key: str) -> dict[str, Value | None]:
    """Tokens as the conventions count them: input with its cached parts, output with reasoning (rule 3)."""
    if usage is None:
        return {}
    written = names.CACHE_WRITE if cache_write_key == "cache_write" else names.CACHE_CREATION
    return {
        names.INPUT_TOKENS: usage.input_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
        names.CACHE_READ: usage.cache_read_tokens,
        written: usage.cache_write_tokens,
        names.REASONING: usage.reasoning_tokens,
    }


def cost(call: Exchange) -> dict[str, Value | None]:
    """What the ledger charged for the call: exact, and as the doubles that backends read; nothing where unknown."""
    nusd = call.cost_nusd
    if nusd is None:
        return {names.COST_SOURCE: call.cost_source}
    usd = dollars(nusd)
    return {
        names.COST: usd,
        names.COST_TOTAL: usd,
        names.COST_USD: usd,
        names.COST_NUSD: nusd,
        names.COST_SOURCE: call.cost_source,
    }


def _proxied(call: Exchange, place: Place, error: str | None) -> dict[str, Value | None]:
    """Only http.* and meterbox.* names: the agent's own span of this call is the generation (contract, rule 10)."""
    usage, run = call.usage, place.run
    told = {name: value for name, value in cost(call).items() if name.startswith("meterbox.")}
    return {
        names.HTTP_METHOD: "POST",
        names.HTTP_STATUS: call.status,
        names.RUN_ID: place.run_id,
        names.CALL_ID: call.call_id,
        names.STEP: call.step,
        names.KEY_NAME: identity(place, None)[names.KEY_NAME],
        names.PROXY_AGENT: run.agent if run is not None else None,
        names.PROXY_USER: run.user if run is not None else None,
        names.PROXY_SESSION: identity(place, None)[names.SESSION],
        names.SECTION: call.provider,
        names.PROXY_MODEL: call.request_model or None,
        names.PROXY_ANSWERED: call.response_model,
        names.PROXY_INPUT: usage.input_tokens if usage is not None else None,
        names.PROXY_OUTPUT: usage.output_tokens if usage is not None else None,
        names.PROXY_ERROR: error,
        **told,
        **_own(call),
    }


def _attempt(call: Exchange, one: Attempt, number: int, place: Place, wishes: Wishes) -> Span:
    """One upstream try: a plain HTTP span without any gen_ai.* name (contract, rule 9)."""
    section = wishes.section(one.provider)
    error = names.error_type(one.outcome, call.reason, one.status, call.first_at is not None)
    proxy = wishes.role == "proxy"
    base = identity(place, None)
    own = {name: base[name] for name in (names.RUN_ID, names.KEY_NAME)} if proxy else base
    attributes: dict[str, Value | None] = {
        **own,
        names.CALL_ID: call.call_id,
        names.STEP: call.step,
        names.HTTP_METHOD: "POST",
        names.HTTP_STATUS: one.status,
        names.HTTP_RESENT: number - 1 if number > 1 else None,
        names.SERVER: None if proxy else section.host or None,
        names.PORT: None if proxy or not section.host else section.port,
        names.PROXY_ERROR if proxy else names.ERROR_TYPE: error,
        names.ATTEMPT_SECTION: one.provider,
        names.ATTEMPT_MODEL: one.model or None,
        names.ATTEMPT_OUTCOME: one.outcome,
        names.ATTEMPT_NUSD: one.cost_nusd,
    }
    return Span(
        "POST", "client", place.trace_id, ids.attempt_id(call.call_id, number), ids.call_id(call.call_id),
        one.started_at or call.started_at, one.ended_at or call.ended_at, kept(attributes),
        error=None if error is None else f"{one.outcome}: {error}",
    )  # fmt: skip


# --------------------------------------------------------------------------- events


def events(call: Exchange, error: str | None) -> list[Event]:
    """What happened in this call beside its answer, in order of time."""
    found: list[Event] = []
    if call.reserve_s >= WAIT_TOLD_S:
        found.append(Event(names.WAITED, call.started_at + call.reserve_s, {names.SECONDS: call.reserve_s}))
    if call.outcome == "refused" and call.status is None:
        found.append(Event(names.refusal_event(call.reason), call.ended_at, kept(_refusal(call))))
    elif call.outcome == "cut":
        found.append(Event(names.CUT, call.ended_at, kept({names.CODE: call.reason, names.COST_NUSD: call.cost_nusd})))
    elif call.outcome == "upstream_error":
        told: dict[str, Value | None] = {names.EXCEPTION_TYPE: error, names.EXCEPTION_MESSAGE: call.reason or None}
        found.append(Event(names.EXCEPTION, call.ended_at, kept(told)))
    for finding in call.findings[:FINDINGS_MOST]:
        found.append(Event(names.FINDING, call.ended_at, kept(_finding(finding))))
    return found


def _refusal(call: Exchange) -> dict[str, Value | None]:
    told: dict[str, Value | None] = {names.CODE: call.reason}
    limited = call.limited
    if limited is not None:
        told |= {
            names.SCOPE_REFUSED: limited.scope,
            names.ACCOUNT: limited.account,
            names.UNIT: limited.unit,
            names.LIMIT: limited.limit,
            names.SPENT: limited.spent,
            names.HELD: limited.held,
            names.NEEDED: limited.needed,
        }
    return told


def _finding(finding: dict[str, object]) -> dict[str, Value | None]:
    named = {
        names.FINDING_ID: "finding_id", names.FINDING_KIND: "kind", names.FINDING_SEVERITY: "severity",
        names.FINDING_ACTION: "action", names.FINDING_WOULD: "would", names.FINDING_REASON: "reason",
    }  # fmt: skip
    return {name: str(finding[key]) for name, key in named.items() if finding.get(key) is not None}
