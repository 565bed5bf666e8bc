"""Tests of core/step.py."""

from __future__ import annotations

from gateway.core.presets import PRESETS
from gateway.core.step import Way, begin
from gateway.core.types import Call, Lineage, Result, RunFacts
from tests.core.speaking import Speaking
from tests.fakes import FakeClock, RecordingOutlet
from tests.walking import inbound

RUN = RunFacts(key="k~r", id="r", tenant="k", source="path", agent="a", user="u")
OLD, NEW = Result("t1", "x", False, 1, 2, 1), Result("t2", "x", False, 1, 2, 3)
CALL = Call(
    "openai-chat", PRESETS["openai"], "metered", model="m", stream=True, tools=("x",), results=(OLD, NEW),
    lineage=Lineage(first=1, chain=(1, 2, 3, 4), answers=(0, 2)),
)  # fmt: skip


def test_a_record_begins_with_what_is_known():
    """Who, where, what and since when; the step and the money come from the ledger."""
    outlet = RecordingOutlet()
    step = begin(Way(inbound({}, tenant="k"), PRESETS["openai"], Speaking(), outlet), CALL, RUN, ("k~p",), FakeClock())
    record = step.record
    assert ("call_000001", "k~r", 0, "openai-chat", "openai", "m", True, "k") == (
        record.call_id, record.run, record.step, record.dialect, record.provider, record.request_model,
        record.stream, record.tenant,
    )  # fmt: skip
    assert (step.inbound.at, CALL.lineage, ("x",)) == (record.started_at, record.lineage, record.tools)
    assert [NEW] == record.results, "a result that an earlier call told already belongs to that one"
    assert (outlet, None, False, False) == (step.outlet, step.order_id, step.sent, step.settled)


def test_it_can_be_stopped_by_run_ancestor_agent_and_user():
    """The open call names its line, so that a kill of a parent ends it, too (R-084)."""
    step = begin(
        Way(inbound({}), PRESETS["openai"], Speaking(), RecordingOutlet()), CALL, RUN, ("k~p", "k~g"), FakeClock()
    )
    assert ("call_000001", ("k~r", "k~p", "k~g"), "a", "u") == (
        step.open.call_id,
        step.open.line,
        step.open.agent,
        step.open.user,
    )


def test_two_calls_share_no_lists():
    """What one call finds is never seen in another's record."""
    way = Way(inbound({}), PRESETS["openai"], Speaking(), RecordingOutlet())
    one, other = (begin(way, CALL, RUN, (), FakeClock()) for _ in range(2))
    one.record.attempts.append(None)  # type: ignore[arg-type]  # anything
    assert [] == other.record.attempts
