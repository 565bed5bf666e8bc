"""Ids that derive from what they name: the same everywhere and always."""

from __future__ import annotations

import re

from gateway.core.life import trace_id
from gateway.core.telemetry.spans import ids


def test_a_callers_trace_is_the_runs_trace_and_an_odd_one_is_not():
    """What is no trace id (W3C: 32 hex, not all zero) gives way to the one that derives from the run."""
    told = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert told == ids.trace_of("R", told)
    for odd in (None, "", "0" * 32, told.upper(), told[:-1], "x" * 32):
        assert trace_id("R") == ids.trace_of("R", odd)


def test_ids_are_apart_by_all_that_they_name():
    """Runs, episodes, calls, positions, attempts, changes: no two share an id, each is 16 hex and no zero."""
    found = [
        ids.root_id("R", 1), ids.root_id("R", 2), ids.root_id("S", 1), ids.call_id("c1"), ids.call_id("c2"),
        ids.tool_id("R", "c1", 0, "t"), ids.tool_id("R", "c1", 1, "t"), ids.tool_id("R", "c2", 0, "t"),
        ids.attempt_id("c1", 1), ids.attempt_id("c1", 2), ids.amend_id("c1", 5), ids.amend_id("c1", 6),
        ids.event_id("c1", "0"),
    ]  # fmt: skip
    assert len(found) == len(set(found))
    assert all(re.fullmatch("[0-9a-f]{16}", one) and int(one, 16) for one in found)


def test_ids_stay_as_they_are():
    """They are what makes a repeat harmless: another release may not choose others."""
    assert "e7ed5675a26a01b3" == ids.call_id("call_1")
    assert "661e4971cd14d814" == ids.root_id("R", 1)


def test_a_name_with_half_a_surrogate_has_an_id():
    """Names come from anybody."""
    assert 16 == len(ids.tool_id("R\ud800", "c", 0, "t\udfff"))
