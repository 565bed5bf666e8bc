"""The journal as spans: roots at ends and kills, calls in their episode, tools when their result is seen."""

from __future__ import annotations

import pytest

from gateway.core.life import trace_id
from gateway.core.telemetry import names
from gateway.core.telemetry.spans import ids, notes, weave, withheld
from gateway.core.telemetry.spans.span import Wishes
from gateway.core.types import Usage
from tests.core.telemetry.spans.spanning import AT, OVER, SECTIONS, World, asks, brings, named, number


async def test_a_run_is_a_tree_of_its_root_its_calls_and_its_tools():
    """R-105: invoke_agent > chat, execute_tool; one trace; every parent exists."""
    world = World()
    await world.call("c1", agent="research", session="s1", **asks(("t1", "search")))
    world.clock.advance(3)
    await world.call("c2", **brings("t1"))
    await world.end("R", "ended", None, None)
    spans = world.spans()
    assert ["chat m", "execute_tool search", "chat m", "invoke_agent research"] == [span.name for span in spans]
    first, tool, second, root = spans
    assert {trace_id("R")} == {span.trace_id for span in spans}
    assert [root.span_id] * 3 == [first.parent, tool.parent, second.parent]
    assert None is root.parent
    assert (AT + 1, AT + 4) == (tool.start, tool.end)
    assert (AT, "completed", "openai", 2) == (
        root.start, root.attributes[names.RUN_OUTCOME], root.attributes[names.PROVIDER],
        root.attributes[names.RUN_CALLS],
    )  # fmt: skip
    assert True is tool.attributes[names.TOOL_RECONSTRUCTED]
    assert names.TOOL_UNCERTAIN not in tool.attributes
    for span in spans:  # rule 7, contract 3.1
        assert ("s1", "s1", "R", "research") == tuple(
            span.attributes[name] for name in (names.SESSION, names.CONVERSATION, names.RUN_ID, names.AGENT)
        )
    for span in (tool, root):  # rule 2
        assert not [name for name in span.attributes if name.startswith(("gen_ai.usage", "gen_ai.request.model"))]
        assert names.COST_NUSD not in span.attributes


async def test_the_exported_costs_are_what_the_ledger_charged():
    """Whatever is corrected, presumed or told late: the costs of calls and all differences are the run's own sum."""
    world = World()
    for n in range(5):
        await world.call(f"c{n}", 40 + n)
    await world.call("c8", 0, source="presumed", reason="upstream_reset")
    world.read()
    await world.call("c8", 37, usage=Usage(input_tokens=3, output_tokens=1))
    await world.store.correct("c1/1", -15, "refund", "me", "x1")
    later = world.spans()
    assert ["meterbox.amend"] * 2 == [span.name for span in later]
    everything = World.fresh(world).weave(world.store.reading().entries(0)).spans
    costs = sum([number(span, names.COST_NUSD) for span in everything])
    deltas = sum([number(span, names.AMEND_DELTA) for span in everything])
    run = world.store.reading().get_run("R")
    assert run is not None and run[0].own_spent_nusd == costs + deltas
    assert costs != run[0].own_spent_nusd


@pytest.mark.parametrize("size", [1, 2, 3, 500])
async def test_batches_of_any_size_give_the_same_spans(size):
    """Also when the process is another one for each batch."""
    world = World()
    for n in range(4):
        await world.call(f"c{n}", **(asks((f"t{n}", "f")) if n % 2 == 0 else brings(f"t{n - 1}")))
    await world.end("R", "ended", None, None)
    whole = World.fresh(world).weave(world.store.reading().entries(0)).spans
    found = []
    while world.store.reading().entries(world.notebook.cursor, limit=size):
        found += world.read(size, world.fresh()).spans
    assert whole == found


async def test_a_killed_run_has_a_root_at_once_and_no_second_one():
    """Contract 3.4; an ended run that is killed later was exported already."""
    world = World()
    await world.call("c1")
    await world.end("R", "killed", "killed", "a person said so")
    (root,) = named(world.spans(), "invoke_agent")
    assert ("killed: a person said so", "run_killed") == (root.error, root.attributes[names.ERROR_TYPE])
    assert [names.KILLED] == [event.name for event in root.events]
    await world.call("c2", run="S")
    await world.end("S", "ended", None, None)
    await world.end("S", "killed", "killed", "late")
    found = world.read()
    assert 1 == len(named(found.spans, "invoke_agent"))
    assert [names.KILLED] == [record.name for record in found.records]


async def test_a_reopened_run_gets_another_root():
    """Its id from run id and episode; calls hang under the root of their own episode."""
    world = World()
    await world.call("c1")
    await world.end("R", "ended", None, None)
    world.clock.advance(5)
    await world.call("c2", agent="late")
    await world.end("R", "ended", "gave_up", "no more ideas")
    first, one, second, two = world.spans()
    assert [ids.root_id("R", 1)] * 2 == [first.parent, one.span_id]
    assert [ids.root_id("R", 2)] * 2 == [second.parent, two.span_id]
    assert {one.trace_id} == {span.trace_id for span in (first, second, two)}
    assert (AT + 6, 2, "gave_up: no more ideas") == (two.start, two.attributes[names.RUN_EPISODE], two.error)


async def test_a_call_that_outlasts_its_run_belongs_to_the_episode_it_began_in():
    """It settles after the kill, even after the run was resumed."""
    world = World()
    await world.call("c1")
    await world.end("R", "killed", "killed", "x")
    world.clock.advance(2)
    await world.end("R", "active", None, None)
    await world.call("c2", outcome="cut", reason="run_killed", started_at=AT + 0.5, **asks(("t9", "f")))
    await world.call("c3")
    spans = world.spans()
    cut, tool, after = spans[-3:]
    assert [ids.root_id("R", 1)] * 2 == [cut.parent, tool.parent]
    assert True is tool.attributes[names.TOOL_UNFINISHED]  # nobody will bring its result
    assert ids.root_id("R", 2) == after.parent


async def test_tools_without_a_result_end_with_their_run():
    """Exported then, marked; their result, should it come later, adds no second span."""
    world = World()
    await world.call("c1", **asks(("t1", "a"), ("t2", "b")))
    world.clock.advance(2)
    await world.end("R", "ended", None, None)
    tools = named(world.spans(), "execute_tool")
    assert ["execute_tool a", "execute_tool b"] == [tool.name for tool in tools]
    for tool in tools:
        assert (AT + 1, AT + 3) == (tool.start, tool.end)
        assert (True, True) == (tool.attributes[names.TOOL_UNFINISHED], tool.attributes[names.TOOL_UNCERTAIN])
    await world.call("c2", **brings("t1"))
    assert [] == named(world.spans(), "execute_tool")


async def test_a_failed_tool_is_an_error_and_parallel_ones_have_no_sure_start():
    """R-100: status and size; several calls of one answer may have run one after the other."""
    world = World()
    await world.call("c1", **asks(("t1", "a"), ("t2", "b")))
    await world.call("c2", **brings("t1", "t2", error=True))
    tools = named(world.spans(), "execute_tool")
    for tool in tools:
        assert ("the tool failed", "tool_error", 120, True) == (
            tool.error, tool.attributes[names.ERROR_TYPE], tool.attributes[names.TOOL_BYTES],
            tool.attributes[names.TOOL_UNCERTAIN],
        )  # fmt: skip


async def test_a_callers_traceparent_is_the_runs_trace():
    """The root hangs under the caller's span, in its trace; /api says the same trace."""
    world = World()
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    await world.call("c1", trace_id=trace, caller=caller)
    await world.end("R", "ended", None, None)
    call, root = world.spans()
    assert (trace, trace, caller) == (call.trace_id, root.trace_id, root.parent)


async def test_a_childs_root_is_linked_to_its_parents():
    """R-141: another trace, so a link; and the parent's id as an attribute."""
    world = World()
    await world.call("c1", run="P")
    await world.call("c2", run="C", parent="P")
    await world.end("C", "ended", None, None)
    root = named(world.spans(), "invoke_agent")[0]
    assert [(trace_id("P"), ids.root_id("P", 1))] == [(link.trace_id, link.span_id) for link in root.links]
    assert "P" == root.attributes[names.RUN_PARENT]


async def test_refusals_findings_cuts_and_thresholds_are_log_records_too():
    """Contract 3.5: on the affected span and as a record that names it; findings as loud as they are."""
    world = World()
    await world.call("c1", findings=[{"finding_id": "f1", "kind": "loop", "severity": "critical"}])
    await world.refuse("c2", reason="insufficient_quota", limited=OVER)
    found = world.read()
    assert [(names.FINDING, "ERROR"), (names.DENIED, "WARN")] == [(one.name, one.severity) for one in found.records]
    denied = found.records[1]
    assert (ids.call_id("c2"), "R", 5) == (
        denied.span_id,
        denied.attributes[names.RUN_ID],
        denied.attributes[names.SPENT],
    )
    again = World.fresh(world).weave(world.store.reading().entries(0)).records
    assert [one.attributes[names.EVENT_ID] for one in again] == [
        one.attributes[names.EVENT_ID] for one in found.records
    ]
    assert [] == World(records=False).weaver.weave(world.store.reading().entries(0)).records


async def test_a_threshold_is_an_event_of_the_runs_root():
    """Once, with the amounts."""
    from gateway.core.types import Mark
    from tests.ledgers import charge, order

    world = World()
    mark = Mark("night", 100, (("0.5", 500), ("0.6", 600)))
    await world.store.reserve(order("c1", charge("run/R/nusd", want=60, limit=100, marks=(mark,))))
    from tests.ledgers import exchange

    await world.store.settle("c1/1", {"nusd": 60}, exchange("c1", 60))
    await world.end("R", "ended", None, None)
    found = world.read()
    event, _ = named(found.spans, "invoke_agent")[0].events
    assert (names.THRESHOLD, "night", "0.5", 60) == (
        event.name, event.attributes[names.BUDGET], event.attributes[names.REACHED], event.attributes[names.SPENT]
    )  # fmt: skip
    assert [names.THRESHOLD] * 2 == [one.name for one in found.records]
    assert 2 == len({one.attributes[names.EVENT_ID] for one in found.records})


async def test_feedback_is_an_event_of_the_root_or_a_span_of_its_own_after_it():
    """Contract 3.5, gen_ai.evaluation.result: most judgements come when the run has ended, and its root was sent."""
    world = World()
    await world.call("c1")
    await world.store.note("feedback", "R", {"score": "0.25", "comment": "slow", "source": "ann"}, world.clock.now())
    await world.end("R", "ended", None, None)
    await world.store.note("feedback", "R", {"score": 1}, world.clock.now())
    await world.store.note("feedback", "R", {"score": "much"}, world.clock.now())
    found = world.read()
    (root,) = named(found.spans, "invoke_agent")
    told = {names.EVALUATION_NAME: "ann", names.EVALUATION_SCORE: 0.25, names.EVALUATION_WHY: "slow"}
    assert [(names.EVALUATION, told)] == [(event.name, event.attributes) for event in root.events]
    later, odd = named(found.spans, "meterbox.feedback")
    assert (root.span_id, {names.EVALUATION_NAME: "feedback", names.EVALUATION_SCORE: 1.0}) == (
        later.parent, later.events[0].attributes
    )  # fmt: skip
    assert names.EVALUATION_SCORE not in odd.events[0].attributes and later.span_id != odd.span_id
    assert [names.EVALUATION] * 3 == [one.name for one in found.records]
    assert 3 == len({one.attributes[names.EVENT_ID] for one in found.records})


async def test_a_run_that_failed_says_with_what():
    """R-106: the error of its last call."""
    world = World()
    await world.call("c1", source="presumed", outcome="upstream_error", reason="upstream_timeout")
    await world.end("R", "ended", None, "idle")
    (root,) = named(world.spans(), "invoke_agent")
    assert ("failed", "timeout") == (root.attributes[names.RUN_OUTCOME], root.attributes[names.ERROR_TYPE])


async def test_several_providers_are_none_on_the_root():
    """Contract 3.4: left out when several were used."""
    world = World()
    await world.call("c1")
    await world.call("c2", provider="anthropic", dialect="anthropic-messages")
    await world.end("R", "ended", None, None)
    assert names.PROVIDER not in named(world.spans(), "invoke_agent")[0].attributes


async def test_runs_in_the_notebook_are_bounded(monkeypatch):
    """Above the most a quarter goes, ended runs first; their calls still have spans."""
    monkeypatch.setattr(weave, "NOTES_MOST", 20)
    world = World()
    for n in range(60):
        await world.call(f"c{n}", run=f"R{n}", **asks(("t", "f")))
        if n != 3:
            await world.end(f"R{n}", "ended", None, None)
        world.read()
    kept = [key for key, _ in world.notebook.all(weave.PREFIX)]
    assert len(kept) <= 20
    assert "run/R3" in kept
    await world.call("late", run="R5")
    assert ["chat m"] == [span.name for span in named(world.spans(), "chat")]


async def test_a_batch_that_was_not_written_is_woven_again_to_the_same():
    """The destination was down: nothing is remembered of it."""
    world = World()
    await world.call("c1", **asks(("t1", "f")))
    entries = world.store.reading().entries(0)
    assert world.weaver.weave(entries).spans == world.weaver.weave(entries).spans
    await world.call("c2", **brings("t1"))
    assert ["execute_tool f"] == [span.name for span in named(world.spans(), "execute_tool")]


CALLED = {"type": "tool_call", "id": "t1", "name": "f", "arguments": {"q": 1}}
ASKED = {"role": "user", "parts": [{"type": "text", "content": "Why?"}]}
TOLD = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "so"}]}
SAID = {"role": "assistant", "parts": [{"type": "text", "content": "So."}]}
OPEN = Wishes(content="SPAN_AND_EVENT", sections=SECTIONS)


async def test_opted_in_content_reaches_tools_and_root():
    """Rule 6: the root has the first question and the last answer, a tool its arguments and its result; the version of
    the redaction stands beside."""
    world = World(OPEN)
    await world.call("c1", content=True, **asks(("t1", "f")))
    await world.capture("c1", input=[ASKED], output=[{"role": "assistant", "parts": [CALLED]}])
    await world.call("c2", content=True, **brings("t1"))
    await world.end("R", "ended", None, None)
    await world.capture("c2", input=[ASKED, TOLD], output=[SAID])
    found = world.read()
    tool, root = named(found.spans, "execute_tool")[0].attributes, named(found.spans, "invoke_agent")[0].attributes
    assert ('{"q":1}', "so") == (tool[names.TOOL_ARGUMENTS], tool[names.TOOL_RESULT])
    assert ("Why?", "So.") == (root[names.INPUT], root[names.OUTPUT])
    assert {3} == {span.attributes[names.REDACTION] for span in named(found.spans, "chat")}
    assert [names.DETAILS] * 2 == [one.name for one in found.records]
    hidden = World.fresh(World()).weave(world.store.reading().entries(0))
    assert "Why?" not in repr(hidden.spans) + repr(hidden.records)


@pytest.mark.parametrize("size", [1, 2, 500])
async def test_a_run_waits_for_its_content_and_others_don_t(size):
    """It comes after the call: the run is told no further until then, in its order, whatever the batches."""
    world = World(OPEN)
    await world.call("c1", content=True, **asks(("t1", "f")))
    await world.call("c2", content=True, **brings("t1"))
    await world.call("other", run="S")
    await world.end("R", "ended", None, None)

    def drain() -> list[str]:
        found = []
        while world.store.reading().entries(world.notebook.cursor, limit=1):
            found += [span.name for span in world.read(size, world.fresh()).spans]
        return found

    assert ["chat m"] == drain()
    assert 1 == len([key for key, _ in world.notebook.all("wait/")])
    await world.capture("c2", input=[ASKED], output=[SAID])
    assert [] == drain()  # what came first is still missing
    await world.capture("c1", input=[ASKED], output=[SAID])
    assert ["chat m", "execute_tool f", "chat m", "invoke_agent"] == drain()
    assert [] == list(world.notebook.all("wait/"))


async def test_what_waited_is_told_up_to_where_the_journal_was_read():
    """What came meanwhile has its turn with its own batch, once."""
    world = World(OPEN)
    await world.call("c1", content=True)
    world.read()
    await world.capture("c1", input=[ASKED])
    await world.call("c2")
    first, second = world.read(1).spans, world.read().spans
    assert (["c1"], ["c2"]) == tuple([span.attributes[names.CALL_ID] for span in part] for part in (first, second))


async def test_content_that_never_comes_holds_up_its_run_for_ten_seconds():
    """Then the call goes without; what is asked for is the time, no entry."""
    world = World(OPEN)
    await world.call("c1", content=True)
    await world.end("R", "ended", None, None)
    assert [] == world.spans()
    world.clock.advance(5)
    assert [] == world.read().spans
    world.clock.advance(6)
    assert ["chat m", "invoke_agent"] == [span.name for span in world.read().spans]
    assert [] == world.read().spans
    await world.capture("c1", input=[ASKED])
    assert [] == world.read().spans  # too late for a span that was sent


async def test_without_opting_in_nothing_waits():
    """Captured or not."""
    world = World()
    await world.call("c1", content=True)
    (span,) = world.spans()
    assert not [name for name in span.attributes if "messages" in name or "content" in name]


async def test_what_is_read_again_is_bounded(monkeypatch):
    """A long run comes in parts, none is left out."""
    monkeypatch.setattr(withheld, "ONCE_MOST", 3)
    world = World(OPEN)
    await world.call("c0", content=True)
    for n in range(1, 10):
        await world.call(f"c{n}")
    world.read()
    await world.capture("c0", input=[ASKED])
    found = []
    for _ in range(10):
        found += world.read().spans
    assert [f"c{n}" for n in range(10)] == [span.attributes[names.CALL_ID] for span in found]


async def test_a_full_note_stays_small():
    """Whatever a run does, its note is some kilobytes."""
    world = World()
    for n in range(300):
        await world.call(f"c{n}", provider=f"p{n}", **asks(*[(f"t{n}-{m}", "f") for m in range(5)]))
    world.read(5000)
    (raw,) = [value for _, value in world.notebook.all(weave.PREFIX)]
    assert notes.OPEN_MOST == len(notes.decode(raw).open)
    assert len(raw) < 32_000
