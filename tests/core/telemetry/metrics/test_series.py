"""Counters and histograms as integers: places, room, and rows that bring everything back."""

from __future__ import annotations

import pytest

from gateway.core.telemetry.metrics import families, series
from gateway.core.telemetry.metrics.families import COST, OTHER, RUN_COST, TOKENS_USED, TOOL_DURATION
from gateway.core.telemetry.metrics.series import Board, Exemplar, scaled

WHOSE = ("none", "coder", "openai", "gpt-4o")


def test_sums_stay_exact_however_many_names_come():
    """10,000 agents and models: fifty places each, the rest is `other`, and nothing is lost."""
    board = Board()
    for number in range(10_000):
        board.add(COST, ("none", f"a{number}", "openai", f"m{number}"), number)
    found = board.of(COST)
    assert sum(range(10_000)) == sum(one.total for one in found)
    assert len(found) <= COST.most
    agents = {one.labels[1] for one in found}
    assert families.PLACES + 1 == len(agents) and OTHER in agents
    assert "a49" in agents and "a50" not in agents


def test_a_full_family_loses_its_last_names_first():
    """Models go before agents, agents before keys; kinds of tokens stay apart, and nothing is lost."""
    board = Board()
    for agent in range(40):
        for model in range(10):
            board.add(TOKENS_USED, ("none", f"a{agent}", "openai", f"m{model}", "input"), 1)
            board.add(TOKENS_USED, ("none", f"a{agent}", "openai", f"m{model}", "output"), 2)
    found = board.of(TOKENS_USED)
    assert len(found) <= TOKENS_USED.most
    assert 400 == sum(one.total for one in found if one.labels[-1] == "input")
    assert 800 == sum(one.total for one in found if one.labels[-1] == "output")
    for agent in range(20):
        assert 10 == sum(one.total for one in found if one.labels[1::3] == (f"a{agent}", "input")), agent
    shapes = {tuple(value == OTHER for value in one.labels[:4]) for one in found}
    assert {(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 1)} == shapes


def test_a_counter_with_one_free_label_has_all_of_its_room():
    """There is nothing coarser but `other`."""
    board = Board()
    for number in range(60):
        board.add(families.CUT, (f"reason{number}",))
    assert families.CUT.most == len(board.of(families.CUT))


def test_histograms_have_four_agents_and_four_models():
    """Contract 6.3; a place on a counter is not one on a histogram."""
    board = Board()
    for number in range(9):
        board.add(COST, ("none", f"a{number}", "openai", "m"))
        board.observe(RUN_COST, (f"a{number}", "completed"), 5)
    assert 9 == len(board.of(COST))
    assert {"a0", "a1", "a2", "a3", OTHER} == {one.labels[0] for one in board.of(RUN_COST)}
    assert 9 == sum(sum(one.counts) for one in board.of(RUN_COST))


def test_many_models_leave_tools_and_runs_their_names():
    """What ends later than calls has room of its own, in every order, after a restart too."""
    board = Board()
    for number in range(50):
        values = ("chat", f"p{number % 8}", f"m{number % 4}", f"r{number % 4}", f"s{number % 8}", "443", "")
        board.observe(families.CLIENT_DURATION, values, 1)
        board.observe(families.SERVER_DURATION, values, 1)
        board.observe(families.TOKEN_USAGE, (*values[:-1], "input"), 1)
    board = Board(board_rows(board))
    for number in range(4):
        board.observe(RUN_COST, (f"a{number}", "completed"), 5)
        board.observe(TOOL_DURATION, (f"t{number}", "function", f"a{number}", ""), 5)
    assert {f"a{number}" for number in range(4)} == {one.labels[0] for one in board.of(RUN_COST)}
    assert {f"t{number}" for number in range(4)} == {one.labels[0] for one in board.of(TOOL_DURATION)}
    lines = sum(len(board.of(f)) * f.lines for f in families.FOLDED if f.kind == "histogram")
    assert lines <= families.HISTOGRAM_LINES


def test_histograms_together_stay_below_their_lines():
    """Whoever comes first takes the room; each family keeps what its spare and its sure series need."""
    board = Board()
    for number in range(50):
        for family in families.FOLDED:
            if family.kind == "histogram":
                values = tuple(f"v{number}" if label.sort == "free" else "" for label in family.labels)
                board.observe(family, values, 1)
    lines = sum(len(board.of(f)) * f.lines for f in families.FOLDED if f.kind == "histogram")
    assert lines <= families.HISTOGRAM_LINES
    for family in families.FOLDED:
        if family.kind == "histogram":
            assert 50 == sum(sum(one.counts) for one in board.of(family)), family.name
            assert len(board.of(family)) <= family.most


def test_errors_without_room_are_told_from_successes_still():
    """The spare series of a family with `error_type` are two."""
    board = Board()
    for number in range(40):
        board.observe(TOOL_DURATION, (f"t{number}", "function", "a", "tool_error" if number % 2 else ""), 1)
    spare = {one.labels[-1]: sum(one.counts) for one in board.of(TOOL_DURATION) if one.labels[0] == OTHER}
    assert {"", "_OTHER", "tool_error"} >= spare.keys() and 2 <= len(spare)
    failed = sum(sum(one.counts) for one in board.of(TOOL_DURATION) if one.labels[-1])
    assert 20 == failed


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\x00b", "\ud800"])
def test_names_that_no_label_should_hold_are_other(name):
    """Too long, or not to be printed."""
    board = Board()
    board.add(COST, ("none", name, "openai", "gpt-4o"))
    assert OTHER == board.of(COST)[0].labels[1]


def test_rows_bring_everything_back_and_places_stay():
    """Whatever was written between; a name that had no place gets none after a restart."""
    board = Board()
    rows: dict[str, bytes] = {}
    for number in range(60):
        board.add(COST, ("none", f"a{number}", "openai", "gpt-4o"), number)
        board.observe(RUN_COST, (f"a{number}", "failed"), 10**9 * number, Exemplar("f" * 32, "r", number, 1.5))
        if number % 7 == 0:
            rows |= board.changed()
    rows |= board.changed()
    again = Board(sorted(rows.items()))
    assert board.of(COST) == again.of(COST) and board.of(RUN_COST) == again.of(RUN_COST)
    assert {} == again.changed()
    again.add(COST, ("none", "a55", "openai", "gpt-4o"), 1)
    assert len(board.of(COST)) == len(again.of(COST))
    assert OTHER == again.place("agent", "a55")
    assert "a3" == again.place("agent", "a3")


def test_room_is_the_same_after_a_restart(monkeypatch):
    """Spare series take none of it."""
    monkeypatch.setattr(families, "SURE", {})
    monkeypatch.setattr(families, "HISTOGRAM_LINES", 383 + 3 * RUN_COST.lines)
    board = Board()
    for number in range(3):
        board.observe(RUN_COST, (f"a{number}", "failed"), 1)
        board = Board(board_rows(board))
    for agent in ("a0", "a1", "a2", "a3"):
        board.observe(RUN_COST, (agent, "failed"), 1)
    assert {("a0", "failed"), ("a1", "failed"), ("a2", "failed"), (OTHER, OTHER)} == {
        one.labels for one in board.of(RUN_COST)
    }


def board_rows(board: Board) -> list[tuple[str, bytes]]:
    """All of its rows, as a notebook would have them."""
    for family in families.FOLDED:
        for one in board.of(family):
            board._dirty.add((family.name, one.labels))
    board._placed = True
    return sorted(board.changed().items())


def test_rows_of_other_shapes_are_left_out():
    """A family that has other labels or buckets now begins anew; what isn't a series isn't one."""
    board = Board()
    board.add(COST, WHOSE, 7)
    rows = board_rows(board)
    (key, row), *_ = [one for one in rows if one[0].startswith("series/")]
    strange = [("ended/r", b"\x00"), ("series/gone\x1fa", row), ("series/meterbox_run_steps\x1fa", row)]
    assert [7] == [one.total for one in Board([(key, row), *strange]).of(COST)]


def test_memory_of_label_sets_is_bounded(monkeypatch):
    """What is in mind is begun anew, and finds the same series."""
    monkeypatch.setattr(series, "MEMO_MOST", 10)
    board = Board()
    for number in range(100):
        board.add(COST, ("none", f"a{number}", "openai", "gpt-4o"))
    assert len(board._memo) <= 10
    assert 100 == sum(one.total for one in board.of(COST))


def test_values_stop_at_what_a_row_can_hold():
    """A provider may tell any number of tokens."""
    board = Board()
    for _ in range(3):
        board.add(TOKENS_USED, (*WHOSE, "input"), 2**62)
    assert series.VALUE_MOST == Board(board_rows(board)).of(TOKENS_USED)[0].total


def test_counters_never_fall():
    """A negative amount is none."""
    board = Board()
    board.add(COST, WHOSE, 5)
    board.add(COST, WHOSE, -3)
    assert 5 == board.of(COST)[0].total


def test_an_observation_on_a_bound_is_in_its_bucket():
    """`le` is less or equal."""
    board = Board()
    bounds = [round(bound * RUN_COST.scale) for bound in RUN_COST.buckets]
    for bound in bounds:
        board.observe(RUN_COST, ("a", "failed"), bound)
        board.observe(RUN_COST, ("a", "failed"), bound + 1)
    assert [1, *[2] * (len(bounds) - 1), 1] == board.of(RUN_COST)[0].counts


@pytest.mark.parametrize(("length", "names"), [(82, ("run_id", "trace_id")), (83, ("trace_id",))])
def test_an_exemplar_has_128_characters_at_most(length, names):
    """OpenMetrics 1.0: names and values together; the trace stays."""
    found = Exemplar("f" * 32, "r" * length, 1, 1.0).labels
    assert names == tuple(name for name, _ in found)
    assert sum(len(name) + len(value) for name, value in found) <= 128


def test_times_are_integers_of_whole_microseconds():
    """Epoch seconds as floats know no more."""
    assert 300_000_000 == scaled(1_800_000_000.3 - 1_800_000_000.0, 10**9)
    assert 7 == scaled(7.0, 1)
