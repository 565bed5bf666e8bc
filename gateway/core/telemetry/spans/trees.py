"""The spans above and beside a run's calls: its `invoke_agent` root, and its reconstructed `execute_tool` spans.

Invariant: neither carries usage, cost or a model under the conventions' names (contract, rule 2): a root's totals stand
under `meterbox.run.*`. What never enters: a start or an end that nobody saw without the mark that says so.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from gateway.core.redact import redact
from gateway.core.telemetry import names
from gateway.core.telemetry.spans import ids
from gateway.core.telemetry.spans.notes import Closed, Note
from gateway.core.telemetry.spans.span import (
    NAME_MOST,
    Event,
    Link,
    Place,
    Span,
    Value,
    clipped,
    dollars,
    identity,
    kept,
)
from gateway.core.types import Run

# Outcomes that a person should look at; `abandoned` and `completed` are no errors.
FAILED: Final = {
    "failed": names.OTHER,
    "gave_up": names.OTHER,
    "killed": "run_killed",
    "stopped_by_limit": "budget_exceeded",
}


def tool_span(closed: Closed, place: Place, result: str | None = None) -> Span:
    """One tool call, from the end of the answer that asked for it to the start of the request that brought its
    result: bounds of the real times. `result`: its text, where content is opted in."""
    tool, came = closed.tool, closed.result
    failed = came is not None and came.is_error
    attributes: dict[str, Value | None] = {
        **identity(place, "execute_tool"),
        names.CALL_ID: tool.call_id,
        names.STEP: tool.step,
        names.TOOL_NAME: tool.name or "unknown",
        names.TOOL_CALL_ID: tool.id or None,
        names.TOOL_TYPE: "function",
        names.TOOL_ARGUMENTS: tool.arguments,
        names.TOOL_RESULT: result,
        names.TOOL_RECONSTRUCTED: True,
        names.TOOL_UNCERTAIN: True if tool.siblings > 1 or came is None else None,
        names.TOOL_UNFINISHED: True if came is None else None,
        names.TOOL_REPEATED: True if closed.repeated else None,
        names.TOOL_KNOWN: None if tool.known else False,
        names.TOOL_VALID: tool.valid,
        names.TOOL_BYTES: came.size_bytes if came is not None else None,
        names.ERROR_TYPE: names.TOOL_ERROR if failed else None,
    }
    return Span(
        clipped(f"execute_tool {tool.name or 'unknown'}", NAME_MOST), "internal", place.trace_id,
        ids.tool_id(place.run_key, tool.call_id, tool.position, tool.id), place.root_id,
        tool.asked_at, closed.at, kept(attributes), error="the tool failed" if failed else None,
    )  # fmt: skip


def root_span(run: Run, note: Note, place: Place, end: dict[str, Any], parent: Place | None) -> Span:
    """The run's episode, as it ended. `end`: what the journal's entry says; `parent`: where the run above it stands."""
    error = _error(run, note)
    ended = run.ended_at if run.ended_at is not None else run.last_at
    above = ids.span_of(run.parent_span)
    links = () if parent is None else (Link(parent.trace_id, parent.root_id, {names.RUN_PARENT: parent.run_id}),)
    return Span(
        clipped(f"invoke_agent {run.agent}", NAME_MOST) if run.agent else "invoke_agent",
        "internal",
        place.trace_id,
        place.root_id,
        above if above != place.root_id else None,  # ids can be computed: a root above itself is no tree
        note.episode_at or run.episode_at or run.started_at,
        ended,
        kept({**identity(place, "invoke_agent"), **_totals(run, note, end, parent), names.ERROR_TYPE: error}),
        events=(*(Event(name, at, said) for name, at, said in note.events), *_killed(run, ended)),
        links=links,
        error=None if error is None else clipped(f"{run.outcome}: {run.reason or error}", NAME_MOST),
    )


def judged(data: dict[str, Any]) -> dict[str, Value | None]:
    """Somebody's judgement of a run, under the conventions' names. A score may be a decimal as text."""
    score, comment = data.get("score"), data.get("comment")
    try:
        value = None if score is None else float(score)
    except (TypeError, ValueError):
        value = None
    return {
        names.EVALUATION_NAME: str(data.get("source") or "feedback"),
        names.EVALUATION_SCORE: value if value is not None and isfinite(value) else None,
        names.EVALUATION_WHY: redact(str(comment)) if comment is not None else None,
    }


def feedback_span(event: Event, place: Place, seq: int) -> Span:
    """A judgement that came after its run's root was sent: a sent span can't be changed (contract, rule 12)."""
    return Span(
        "meterbox.feedback", "internal", place.trace_id, ids.feedback_id(place.run_key, seq), place.root_id,
        event.at, event.at, kept(identity(place, None)), events=(event,),
    )  # fmt: skip


def _totals(run: Run, note: Note, end: dict[str, Any], parent: Place | None) -> dict[str, Value | None]:
    """The run's figures as the ledger had them at this end: of the whole run, earlier episodes included."""
    limit, spent = end.get("limit_nusd"), end.get("spent_nusd")
    return {
        names.PROVIDER: note.providers[0] if len(note.providers) == 1 else None,
        names.RUN_OUTCOME: run.outcome,
        names.RUN_REASON: run.reason,
        names.RUN_STATE: run.state,
        names.RUN_SOURCE: run.source,
        names.RUN_PARENT: parent.run_id if parent is not None else None,
        names.RUN_EPISODE: note.episode,
        names.RUN_COST: dollars(run.own_spent_nusd),
        names.RUN_NUSD: run.own_spent_nusd,
        names.RUN_STEPS: run.steps,
        names.RUN_CALLS: run.calls,
        names.RUN_TOOL_CALLS: run.tool_calls,
        names.RUN_ERRORS: run.errors,
        names.RUN_INPUT: run.input_tokens,
        names.RUN_OUTPUT: run.output_tokens,
        names.BUDGET_LIMIT: dollars(limit) if limit is not None else None,
        names.BUDGET_SPENT: dollars(spent) if spent is not None else None,
        names.INPUT: note.first,
        names.INPUT_TYPE: "text/plain" if note.first else None,
        names.OUTPUT: note.last,
        names.OUTPUT_TYPE_MIME: "text/plain" if note.last else None,
    }


def _error(run: Run, note: Note) -> str | None:
    word = FAILED.get(run.outcome or "")
    return note.error or word if word == names.OTHER else word


def _killed(run: Run, at: float) -> tuple[Event, ...]:
    if run.state != "killed":
        return ()
    return (Event(names.KILLED, at, kept({names.RUN_ID: run.id, names.RUN_REASON: run.reason})),)
