"""Roots and tools: their names, status and totals."""

from __future__ import annotations

import pytest

from gateway.core.telemetry import names
from gateway.core.telemetry.spans.notes import Closed, Note, OpenTool
from gateway.core.telemetry.spans.span import MOST_BYTES, Place
from gateway.core.telemetry.spans.trees import judged, root_span, tool_span
from tests.core.telemetry.spans.spanning import AT, run_of

PLACE = Place("R", "a" * 32, "b" * 16, 1, run_of())
TOTALS = {"spent_nusd": 3_500_000_000, "limit_nusd": 10_000_000_000}


def test_a_root_has_the_runs_totals_under_our_own_names():
    """Contract 3.4: outcome, cost, steps, budget; no usage, no model."""
    run = run_of(
        outcome="completed", started_at=AT, episode_at=AT + 1, ended_at=AT + 9, steps=4, calls=3, own_spent_nusd=7,
        input_tokens=90, state="ended", source="header",
    )  # fmt: skip
    span = root_span(run, Note(providers=["openai"]), PLACE, TOTALS, None)
    said = span.attributes
    assert ("invoke_agent", "internal", AT + 1, AT + 9, None) == (
        span.name,
        span.kind,
        span.start,
        span.end,
        span.error,
    )
    assert ("completed", 7e-9, 7, 4, 3, 90, 10.0, 3.5, "openai") == tuple(
        said[name]
        for name in (
            names.RUN_OUTCOME, names.RUN_COST, names.RUN_NUSD, names.RUN_STEPS, names.RUN_CALLS, names.RUN_INPUT,
            names.BUDGET_LIMIT, names.BUDGET_SPENT, names.PROVIDER,
        )
    )  # fmt: skip
    assert not [name for name in said if name.startswith(("gen_ai.usage", "gen_ai.request", "gen_ai.response"))]


@pytest.mark.parametrize(
    ("outcome", "error"),
    [("completed", None), ("abandoned", None), ("failed", "_OTHER"), ("gave_up", "_OTHER"), ("killed", "run_killed"),
     ("stopped_by_limit", "budget_exceeded")],
)  # fmt: skip
def test_what_a_person_should_look_at_is_an_error(outcome, error):
    """Status unset on success, ERROR with a message and error.type on failure."""
    span = root_span(run_of(outcome=outcome, reason="why"), Note(), PLACE, {}, None)
    assert error == span.attributes.get(names.ERROR_TYPE)
    assert (None if error is None else f"{outcome}: why") == span.error


@pytest.mark.parametrize(("told", "parent"), [("c" * 16, "c" * 16), (PLACE.root_id, None), ("0" * 16, None)])
def test_a_root_hangs_below_its_callers_span_but_never_below_itself(told, parent):
    """Ids derive from run ids, so that a caller may name the root itself in its traceparent."""
    assert parent == root_span(run_of(parent_span=told), Note(), PLACE, {}, None).parent


def test_a_judgement_says_no_secret():
    """Its comment is a person's text: redacted like any other, and odd scores are left out."""
    said = judged({"score": "nan", "comment": "my key sk-abcdefghijklmnopqrstuvwx failed"})
    assert "sk-abc" not in str(said[names.EVALUATION_WHY]) and "failed" in str(said[names.EVALUATION_WHY])
    assert (None, "feedback") == (said[names.EVALUATION_SCORE], said[names.EVALUATION_NAME])


def test_a_root_without_budget_or_agent_leaves_them_out():
    """Nothing is invented."""
    said = root_span(run_of(), Note(), PLACE, {"spent_nusd": 0, "limit_nusd": None}, None).attributes
    assert not {names.BUDGET_LIMIT, names.AGENT, names.PROVIDER, names.INPUT} & said.keys()
    assert 0.0 == said[names.BUDGET_SPENT]


def test_a_tool_says_what_is_sure_of_it():
    """Unknown and invalid calls say so; long names are cut."""
    tool = OpenTool("c1", 0, "t1", "x" * 5000, 2, AT, known=False, valid=False)
    said = tool_span(Closed(tool, AT + 1, None), PLACE).attributes
    assert (False, False, 2, "c1") == tuple(
        said[name] for name in (names.TOOL_KNOWN, names.TOOL_VALID, names.STEP, names.CALL_ID)
    )
    assert MOST_BYTES == len(str(said[names.TOOL_NAME]))
