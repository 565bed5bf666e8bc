"""What one call adds to the histograms that other products' dashboards already ask for, and how they are labelled.

Invariant: the standard names mean what the conventions say, the gateway being the client of a provider (`client`) and
the server of its callers (`server`); a call that nobody settled has no durations. What never enters: a name of a metric
(`families`), money other than what was charged when the call ended.

  arrival ──admit──> first try ─ ─ ─> the try that answers ──> first chunk ──> end of the answer
     └────────────────────────── server.request.duration ───────────────────────────┘
                         └────────────── client.operation.duration ─────────────────┘
     └────────────── server.time_to_first_token ──────────────────┘ (streams)
                                             └─ client.time_to_first_chunk ─┘ (streams)
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from gateway.core.ledger.book import AMOUNT_MOST
from gateway.core.telemetry import names
from gateway.core.telemetry.metrics import families
from gateway.core.telemetry.metrics.families import Family
from gateway.core.telemetry.metrics.series import Board, Exemplar, scaled
from gateway.core.telemetry.spans.span import Section
from gateway.core.types import Exchange

UNSETTLED: Final = frozenset({"deadline", "lost"})
Whose = tuple[str, str]  # trace id, run id
Seen = tuple[Family, tuple[str, ...], float]  # what is observed in seconds


class Where(Struct, frozen=True):
    """The labels of a call. operation: operation, provider, request model."""

    operation: tuple[str, str, str]
    rest: tuple[str, str, str]  # response model, address, port
    error: str

    @property
    def call(self) -> tuple[str, ...]:
        """Without the error."""
        return (*self.operation, *self.rest)


def labels(call: Exchange, section: Section, request_model: str, response_model: str) -> Where | None:
    """The labels of a call; None where no model was asked."""
    operation = names.operation_name(call.operation, call.dialect)
    if operation is None or call.operation == "retrieve":
        return None
    system = names.provider_name(call.provider, section.preset, call.dialect)
    error = names.error_type(call.outcome, call.reason, call.status, call.first_at is not None)
    answered = response_model if call.response_model else ""
    return Where(
        (operation, system, request_model),
        (answered, section.host, "" if section.port is None else str(section.port)),
        error or "",
    )


def observe(board: Board, call: Exchange, where: Where, whose: Whose) -> None:
    """Durations, and what the call was charged, when it ended."""
    if call.cost_nusd is not None and call.cost_source != "refused":
        cost = min(AMOUNT_MOST, max(0, call.cost_nusd))
        board.observe(families.USAGE_COST, where.operation, cost, Exemplar(*whose, cost, call.ended_at))
    if call.cost_source == "presumed" and call.reason in UNSETTLED:
        return
    failing = (*where.call, where.error)
    seen: list[Seen] = [(families.SERVER_DURATION, failing, call.ended_at - call.started_at)]
    tries = [attempt for attempt in call.attempts if attempt.started_at > 0]
    if tries:
        seen.append((families.CLIENT_DURATION, failing, call.ended_at - tries[0].started_at))
        for phase, seconds in overhead(call).items():
            board.observe(families.OVERHEAD, (phase,), scaled(seconds, families.OVERHEAD.scale))
        if call.stream and call.first_at is not None and (call.status or 0) < 400:
            seen += _flow(call, where, tries[-1].started_at, call.first_at)
    for family, values, seconds in seen:
        amount = scaled(max(0.0, seconds), family.scale)
        board.observe(family, values, amount, Exemplar(*whose, amount, call.ended_at))


def _flow(call: Exchange, where: Where, tried_at: float, first_at: float) -> list[Seen]:
    """How a streamed answer came."""
    failing = (*where.call, where.error)
    seen: list[Seen] = [(families.FIRST_CHUNK, failing, first_at - tried_at)]
    flowed = call.ended_at - first_at
    if call.chunks > 1:
        seen.append((families.EACH_CHUNK, failing, flowed / (call.chunks - 1)))
    if call.outcome == "ok":
        seen.append((families.SERVER_FIRST, where.call, first_at - call.started_at))
        output = call.usage.output_tokens if call.usage is not None else None
        if output is not None and output > 1:
            seen.append((families.SERVER_EACH, where.call, flowed / (output - 1)))
    return seen


def overhead(call: Exchange) -> dict[str, float]:
    """Seconds of a call that were not spent in a try at a provider, by phase: until the first try; until the answer's
    beginning; in all. What comes after the record is closed (its settling) is in none of them."""
    tries = [attempt for attempt in call.attempts if attempt.started_at > 0]
    found = {"admit": tries[0].started_at - call.started_at}
    for phase, until in (("first_byte", call.first_at), ("total", call.ended_at)):
        if until is not None:
            spent = sum(max(0.0, min(one.ended_at or until, until) - one.started_at) for one in tries)
            found[phase] = until - call.started_at - spent
    return {phase: max(0.0, seconds) for phase, seconds in found.items()}


def observe_tokens(board: Board, call: Exchange, where: Where, whose: Whose) -> None:
    """Tokens of a call, when they are told: once, also where that is after its end."""
    if call.usage is None:
        return
    for kind, count in (("input", call.usage.input_tokens), ("output", call.usage.output_tokens)):
        if count is not None:
            amount = min(AMOUNT_MOST, max(0, count))
            exemplar = Exemplar(*whose, amount, call.ended_at)
            board.observe(families.TOKEN_USAGE, (*where.call, kind), amount, exemplar)
