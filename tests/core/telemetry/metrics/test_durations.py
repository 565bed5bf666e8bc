"""What one call adds to histograms with standard names."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.telemetry.metrics import durations, families
from gateway.core.telemetry.metrics.series import Board
from gateway.core.telemetry.spans.span import Section
from gateway.core.types import Attempt, Exchange, Usage
from tests.ledgers import exchange

AT = 1_800_000_000.0
OPENAI = Section("openai", "api.openai.com", 443)
WHOSE = ("f" * 32, "r")


def call(**more: Any) -> Exchange:
    """A stream of ten chunks: 20 ms until the first try, 500 ms until its beginning, two seconds in all."""
    told = exchange(
        "c1", 1_000_000, stream=True, request_model="gpt-4o", response_model="gpt-4o-2024-08-06", status=200
    )
    told.started_at, told.first_at, told.ended_at, told.chunks = AT, AT + 0.52, AT + 2.0, 10
    told.attempts = [Attempt("openai", "gpt-4o", 200, "ok", 1, AT + 0.02, AT + 1.99)]
    told.usage = Usage(input_tokens=100, output_tokens=38)
    for name, value in more.items():
        setattr(told, name, value)
    return told


def seen(told: Exchange) -> dict[str, float]:
    """Sums of all histograms in their units, by name, with the token type or phase where there is one."""
    board = Board()
    where = durations.labels(told, OPENAI, "gpt-4o", told.response_model or "")
    assert where is not None
    durations.observe(board, told, where, WHOSE)
    durations.observe_tokens(board, told, where, WHOSE)
    found = {}
    for family in families.FOLDED:
        for one in board.of(family) if family.kind == "histogram" else ():
            tail = f" {one.labels[-1]}" if one.labels[-1] in ("admit", "first_byte", "total", "input", "output") else ""
            found[family.name + tail] = one.total / family.scale
    return found


def test_each_histogram_measures_what_the_docs_say():
    """The gateway is the provider's client and its callers' server."""
    assert {
        "meterbox_overhead_seconds admit": 0.02,
        "meterbox_overhead_seconds first_byte": 0.02,
        "meterbox_overhead_seconds total": 0.03,
        "gen_ai_client_operation_duration_seconds": 1.98,
        "gen_ai_client_token_usage input": 100,
        "gen_ai_client_token_usage output": 38,
        "gen_ai_client_operation_time_to_first_chunk_seconds": 0.5,
        "gen_ai_client_operation_time_per_output_chunk_seconds": pytest.approx(1.48 / 9, abs=1e-6),
        "gen_ai_server_request_duration_seconds": 2.0,
        "gen_ai_server_time_to_first_token_seconds": 0.52,
        "gen_ai_server_time_per_output_token_seconds": 0.04,
        "gen_ai_usage_cost_USD": 0.001,
    } == seen(call())


def test_time_between_tries_is_the_gateways():
    """0.1 s before the first, 0.3 s between two, nothing after."""
    tries = [
        Attempt("a", "m", 500, "upstream_error", 0, AT + 0.1, AT + 0.6),
        Attempt("b", "m", 200, "ok", 1, AT + 0.9, AT + 2.0),
    ]
    told = call(attempts=tries, first_at=AT + 1.0)
    assert {"admit": 0.1, "first_byte": 0.4, "total": 0.4} == pytest.approx(durations.overhead(told), abs=1e-6)
    assert 0.1 == pytest.approx(seen(told)["gen_ai_client_operation_time_to_first_chunk_seconds"], abs=1e-6)


def test_whole_answers_have_no_times_of_a_stream():
    """Neither first chunks nor tokens a second."""
    names = seen(call(stream=False)).keys()
    assert not [name for name in names if "time_to" in name or "time_per" in name]


def test_streams_that_failed_have_no_speed():
    """`server` histograms without `error_type` are of answers that ended well."""
    names = seen(call(outcome="cut", reason="budget_ended")).keys()
    assert not [name for name in names if name.startswith("gen_ai_server_time")]
    assert "gen_ai_client_operation_time_to_first_chunk_seconds" in names


def test_refused_calls_have_a_duration_and_nothing_else():
    """They were never sent."""
    told = call(outcome="refused", reason="insufficient_quota", attempts=[], cost_source="refused", usage=None)
    told.first_at, told.status = None, None
    assert {"gen_ai_server_request_duration_seconds": 2.0} == seen(told)
    where = durations.labels(told, OPENAI, "other", "")
    assert where is not None
    assert "budget_exceeded" == where.error


def test_calls_that_nobody_settled_have_no_durations():
    """Their end is when the sweep found them."""
    told = call(outcome="unknown", reason="lost", cost_source="presumed", usage=None)
    assert {"gen_ai_usage_cost_USD": 0.001} == seen(told)


def test_labels_are_those_of_the_conventions():
    """Section 6.1 of the contract; lists and counts are no operation of a model."""
    where = durations.labels(call(), OPENAI, "gpt-4o", "gpt-4o-2024-08-06")
    assert where is not None
    assert ("chat", "openai", "gpt-4o", "gpt-4o-2024-08-06", "api.openai.com", "443") == where.call
    assert durations.labels(call(operation="list"), OPENAI, "gpt-4o", "") is None
    assert durations.labels(call(operation="retrieve"), OPENAI, "gpt-4o", "") is None


def test_a_clock_that_ran_backwards_gives_nothing_below_zero():
    """Instants of other processes."""
    told = call(ended_at=AT - 1, first_at=AT - 2)
    assert min(seen(told).values()) >= 0


def test_absurd_numbers_stay_in_their_rows():
    """A provider may tell any number."""
    told = call(usage=Usage(input_tokens=2**70, output_tokens=-5), cost_nusd=2**80)
    found = seen(told)
    assert 2**50 == found["gen_ai_client_token_usage input"]
    assert 0 == found["gen_ai_client_token_usage output"]
