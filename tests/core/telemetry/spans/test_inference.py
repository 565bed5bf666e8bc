"""A call as its span: names, usage, cost, errors, events, and what must never stand there."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.telemetry import names
from gateway.core.telemetry.spans import ids
from gateway.core.telemetry.spans.inference import call_spans
from gateway.core.telemetry.spans.span import MOST_ATTRIBUTES, MOST_BYTES, Place, Section, Span, Wishes
from gateway.core.types import Attempt, Usage
from tests.core.telemetry.spans.spanning import AT, FULL, OVER, SECTIONS, WISHES, run_of
from tests.ledgers import exchange

PLACE = Place("R", "a" * 32, "b" * 16, 1, run_of(agent="research", user="u1", session="s1", tenant="team"))


def span_of(wishes: Wishes = WISHES, place: Place = PLACE, **more: Any) -> Span:
    """The span of a call."""
    told = exchange(
        "c1", more.pop("cost", 40), more.pop("source", "price_list"), started_at=AT, ended_at=AT + 2, **more
    )
    return call_spans(told, place, wishes)[0]


def test_a_full_call_says_all_that_the_contract_lists():
    """R-099: model, tokens with cache, cost, latency, first token, finish reason, parameters; all on one span."""
    span = span_of(**FULL)
    said = span.attributes
    assert ("chat gpt-4o", "client", "b" * 16) == (span.name, span.kind, span.parent)
    expected = {
        names.OPERATION: "chat", names.CONVERSATION: "s1", names.SESSION: "s1", names.USER: "u1",
        names.AGENT: "research", names.RUN_ID: "R", names.CALL_ID: "c1", names.KEY_NAME: "team", names.STEP: 0,
        names.PROVIDER: "openai", names.REQUEST_MODEL: "gpt-4o", names.RESPONSE_MODEL: "gpt-4o-2024",
        names.RESPONSE_ID: "resp_1", names.FINISH_REASONS: ("stop",), names.STREAM: True, names.FIRST_CHUNK: 0.25,
        names.MAX_TOKENS: 512, names.TEMPERATURE: 0.2, names.TOP_P: 0.9, names.TOP_K: 40.0,
        names.FREQUENCY_PENALTY: 0.1, names.PRESENCE_PENALTY: 0.1, names.SEED: 7, names.STOP_SEQUENCES: ("END",),
        names.CHOICES: 2, names.OUTPUT_TYPE: "json", names.INPUT_TOKENS: 1000, names.OUTPUT_TOKENS: 50,
        names.CACHE_READ: 600, names.CACHE_CREATION: 100, names.REASONING: 20, names.COST: 4e-8,
        names.COST_TOTAL: 4e-8, names.COST_USD: 4e-8, names.COST_NUSD: 40, names.COST_SOURCE: "price_list",
        names.SERVER: "api.openai.com", names.PORT: 443, names.API_TYPE: "chat_completions",
        names.TIER_ASKED: "auto", names.TIER_USED: "default", names.SECTION: "openai", names.CALL_OUTCOME: "ok",
        names.CLAMPED: 4096, names.HOLD_NUSD: 1000, names.RESERVE_S: 0.5, names.ATTEMPTS: 2,
    }  # fmt: skip
    assert expected == said
    assert len(said) <= MOST_ATTRIBUTES
    assert (AT, AT + 2, None) == (span.start, span.end, span.error)


def test_exactly_one_name_for_cache_writes():
    """Rule 4: both would be counted twice."""
    assert names.CACHE_WRITE not in span_of(**FULL).attributes
    other = span_of(Wishes(cache_write_key="cache_write", sections=SECTIONS), **FULL).attributes
    assert (100, False) == (other[names.CACHE_WRITE], names.CACHE_CREATION in other)


@pytest.mark.parametrize("operation", ["text_completion", "embeddings"])
def test_other_operations_have_their_own_name(operation):
    """One span a logical request, named by what was asked."""
    span = span_of(operation=operation, request_model="m1", usage=Usage(input_tokens=3))
    assert (f"{operation} m1", operation) == (span.name, span.attributes[names.OPERATION])
    assert names.OUTPUT_TOKENS not in span.attributes


def test_a_cost_that_nobody_knows_is_left_out_and_a_known_zero_is_said():
    """0.0 is a valid value; unknown is not zero."""
    unknown = span_of(cost=None, source="unknown_model").attributes
    assert not {names.COST, names.COST_TOTAL, names.COST_NUSD, names.COST_USD} & unknown.keys()
    assert "unknown_model" == unknown[names.COST_SOURCE]
    free = span_of(cost=0).attributes
    assert (0.0, 0) == (free[names.COST], free[names.COST_NUSD])


def test_an_exact_cost_stays_exact():
    """The integer is exact where the double no longer is."""
    said = span_of(cost=123_456_789_012_345_678).attributes
    assert 123_456_789_012_345_678 == said[names.COST_NUSD]


def test_a_refused_call_is_an_error_with_its_event():
    """R-106, contract 3.4: ERROR, error.type, the event with the amounts."""
    told: dict[str, Any] = {"outcome": "refused", "reason": "insufficient_quota", "limited": OVER, "attempts": []}
    span = span_of(cost=0, source="refused", **told)
    assert ("refused: insufficient_quota", "budget_exceeded") == (span.error, span.attributes[names.ERROR_TYPE])
    (event,) = span.events
    assert names.DENIED == event.name
    assert {
        names.CODE: "insufficient_quota", names.SCOPE_REFUSED: "run", names.ACCOUNT: "run/R/nusd", names.UNIT: "nusd",
        names.LIMIT: 5, names.SPENT: 5, names.HELD: 0, names.NEEDED: 9,
    } == event.attributes  # fmt: skip
    assert names.INPUT_TOKENS not in span.attributes


def test_cuts_waits_findings_and_failures_are_events():
    """In order: the wait for the hold, the end, what was odd."""
    cut = span_of(outcome="cut", reason="run_killed", status=200)
    assert ("run_killed", [names.CUT]) == (cut.attributes[names.ERROR_TYPE], [one.name for one in cut.events])
    span = span_of(**FULL)
    assert [names.WAITED, names.FINDING] == [one.name for one in span.events]
    assert (AT + 0.5, 0.5) == (span.events[0].at, span.events[0].attributes[names.SECONDS])
    assert "loop" == span.events[1].attributes[names.FINDING_KIND]
    broken = span_of(outcome="upstream_error", reason="upstream_timeout", source="presumed")
    assert {names.EXCEPTION_TYPE: "timeout", names.EXCEPTION_MESSAGE: "upstream_timeout"} == broken.events[0].attributes


def test_attempts_are_plain_http_spans_only_where_there_was_more_than_one():
    """Rule 9: children without a gen_ai name, a usage or a cost that a backend would add up."""
    assert 1 == len(call_spans(exchange("c1", 40), PLACE, WISHES))
    told = exchange("c1", 40, started_at=AT, ended_at=AT + 2, **FULL)
    whole, first, second = call_spans(told, PLACE, WISHES)
    assert [whole.span_id] * 2 == [first.parent, second.parent]
    assert [ids.attempt_id("c1", 1), ids.attempt_id("c1", 2)] == [first.span_id, second.span_id]
    assert ("429", 429, 1) == (
        first.attributes[names.ERROR_TYPE], first.attributes[names.HTTP_STATUS], second.attributes[names.HTTP_RESENT]
    )  # fmt: skip
    assert (AT, AT + 0.1, AT + 1) == (first.start, first.end, second.end)
    for one in (first, second):
        assert not [name for name in one.attributes if name.startswith("gen_ai.") or name == names.COST_NUSD]
        assert ("s1", "u1") == (one.attributes[names.SESSION], one.attributes[names.USER])  # rule 7: every span


def test_attempts_are_bounded():
    """A call that was tried a hundred times has sixteen spans of tries."""
    many = [Attempt("openai", "m", 500, "upstream_error")] * 100
    assert 17 == len(call_spans(exchange("c1", 40, attempts=many), PLACE, WISHES))


def test_in_the_role_proxy_only_http_and_our_own_names_remain():
    """Rule 10: the agent's own span is the generation; ours would be counted twice."""
    proxy = Wishes(role="proxy", sections=SECTIONS)
    for span in call_spans(exchange("c1", 40, started_at=AT, ended_at=AT + 2, **FULL), PLACE, proxy):
        assert "POST" == span.name
        assert [] == [name for name in span.attributes if not name.startswith(("http.", "meterbox."))]
    whole = call_spans(exchange("c1", 40, **FULL), PLACE, proxy)[0].attributes
    assert (40, 1000, "gpt-4o", "s1") == (
        whole[names.COST_NUSD], whole[names.PROXY_INPUT], whole[names.PROXY_MODEL], whole[names.PROXY_SESSION]
    )  # fmt: skip


def test_what_is_no_operation_of_a_model_is_a_plain_http_span():
    """A path that passes unmetered has no gen_ai name."""
    said = span_of(operation="other", request_model="").attributes
    assert not [name for name in said if name.startswith("gen_ai.")]


def test_a_call_hangs_under_its_callers_span_within_the_runs_trace_only():
    """In another trace that parent does not exist: then the root is the parent, and the caller's span a link."""
    own = "c" * 16
    assert own == span_of(parent_span=own, trace_id="a" * 32).parent
    assert own == span_of(parent_span=own).parent
    foreign = span_of(parent_span=own, trace_id="d" * 32)
    assert "b" * 16 == foreign.parent
    assert [("d" * 32, own)] == [(link.trace_id, link.span_id) for link in foreign.links]
    assert "b" * 16 == span_of(parent_span="0" * 16).parent


def test_nothing_is_longer_than_backends_keep():
    """Rule 13: 2,048 bytes a value, 128 attributes, whatever a provider or a caller wrote."""
    long = "ü" * 5000
    told = {**FULL, "response_id": long, "request_model": long, "finish_reason": long, "reason": long}
    for span in call_spans(exchange("c1", 40, **told), PLACE, WISHES):
        assert len(span.attributes) <= MOST_ATTRIBUTES
        assert len(span.name.encode()) <= 256 and len((span.error or "").encode()) <= 256
        for value in span.attributes.values():
            for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
                assert len(text.encode()) <= MOST_BYTES
    many = [{"kind": f"k{n}", "severity": "warn"} for n in range(100)]
    assert 16 == len(span_of(findings=many).events)


def test_content_is_off_unless_it_is_opted_in():
    """R-083, rule 14: captured or not, it stays here."""
    content = {"input": [{"role": "user", "parts": [{"type": "text", "content": "secret"}]}]}
    for wish in ("NO_CONTENT", "EVENT_ONLY"):
        assert "secret" not in repr(call_spans(exchange("c1", 40, content=content), PLACE, Wishes(content=wish)))
    shown = call_spans(exchange("c1", 40, content=content), PLACE, Wishes(content="SPAN_ONLY"))[0].attributes
    assert "secret" in str(shown[names.INPUT_MESSAGES])


def test_a_section_that_is_gone_is_known_by_its_name():
    """The configuration may have changed since the call."""
    said = span_of(Wishes(), provider="anthropic").attributes
    assert ("anthropic", "api.anthropic.com", 443) == (said[names.PROVIDER], said[names.SERVER], said[names.PORT])
    lost = span_of(Wishes(sections={"x": Section()}), provider="gone").attributes
    assert ("gone", False) == (lost[names.PROVIDER], names.SERVER in lost)
