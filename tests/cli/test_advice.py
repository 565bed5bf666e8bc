"""Could it happen again, and what to do now: budgets with their time at this pace, commands with real ids."""

from typing import Any

import pytest

from gateway.cli.story import Facts
from tests.cli.conftest import RUN, call
from tests.cli.test_story import BUDGET, NOW, REFUSED, SPAN, answers

DAY = {
    **BUDGET, "name": "daily", "scope": "agent:*", "account": "agent:research", "per": "day", "limit": "10",
    "spent": "4", "resets_at": "2026-11-21T00:00:00Z", "exhausted_at": "2026-11-20T10:32:05.5Z",
}  # fmt: skip


def again(run: dict[str, Any] = RUN, **known: Any) -> str:
    """The answer to the sixth question."""
    return answers(run, **known)[5]


def now(run: dict[str, Any], **known: Any) -> str:
    """The answer to the seventh."""
    return answers(run, **known)[6]


def test_each_budget_says_when_it_stops_the_next_one() -> None:
    """The run's own at the run's pace, windows at theirs; a shadow stops nobody."""
    seconds = {**BUDGET, "name": "time", "unit": "seconds", "account": "run/r-1/seconds", "limit": 600, "spent": 65}
    parent = {**BUDGET, "name": "each-run", "account": "run/p/nusd", "spent": "0.75"}
    shadow = {**BUDGET, "name": "watch", "mode": "shadow"}
    run = {**RUN, "spent_usd": "0.13", "last_at": "2026-11-20T10:01:05Z"}
    said = again(
        run,
        budgets=[{**BUDGET, "spent": "0.13"}, seconds, DAY, parent, shadow],
        tools=[SPAN, {**SPAN, "repeated": True}],
    )
    assert "A run like this spends $0.12 a minute." in said
    assert "Budget each-run stops this run at $1.00: at this pace after 8 min 20 s." in said
    assert "Budget time stops every run after 10 min 0 s." in said
    daily = "Budget daily on agent:research has $6.00 left for this day, until 2026-11-21 00:00:00Z: at its pace it is"
    assert f"{daily} used up in 30 min 0 s." in said
    assert "Its parent's budget each-run (run/p/nusd) has used $0.75 of $1.00." in said
    assert "1 tool call of 2 repeated an earlier one" in said
    assert "watch" not in said


@pytest.mark.parametrize(
    ("at", "words"), [(None, "that lasts until then"), ("2026-11-20T10:00:00Z", "calls are refused until then")]
)
def test_a_window_that_lasts_or_is_empty_says_so(at: str | None, words: str) -> None:
    """Never a time that lies behind."""
    assert words in again(budgets=[{**DAY, "exhausted_at": at, "spent": "11" if at else "4"}])


def test_no_budget_is_said_first() -> None:
    """Yes, it could, and what would stop it."""
    assert "Yes: no budget limits its dollars." in again({**RUN, "limits": {"usd": None}})
    assert "Yes" not in again()


PRESUMED = call(1, "m", "0.2", cost_source="presumed")


@pytest.mark.parametrize(
    ("more", "known", "wanted"),
    [
        ({"state": "killed", "outcome": "killed"}, {},
         ["meterbox resume r-1 ", "meterbox resume --agent research ", "meterbox resume --all "]),
        ({"state": "active", "user": "a b"}, {"calls": [call(1, "m", "0", **{**REFUSED, "reason": "run_killed"})]},
         ["meterbox resume --agent research ", "meterbox resume --user 'a b' "]),
        ({"state": "paused", "reason": "asked"}, {}, ["meterbox resume r-1"]),
        ({"state": "paused", "reason": "its limit was set below what it has used: calls"}, {},
         ["meterbox budget r-1 --calls 6"]),
        ({"state": "active"}, {}, ["meterbox kill r-1 ", "meterbox budget r-1 --usd 0.06"]),
        ({"state": "active", "key": "ann"}, {}, ["meterbox kill r-1 --key ann"]),
        ({"state": "active", "run_id": "--all"}, {},
         ["meterbox kill -- --all ", "meterbox budget --usd 0.06 -- --all "]),
        ({"state": "ended", "outcome": "completed"}, {}, ["Nothing: it is over, and nothing is open."]),
        ({"state": "ended", "outcome": "stopped_by_limit"}, {"calls": [call(1, "m", "0", **REFUSED)]},
         ["meterbox budget r-1 --usd 2.00"]),
        ({"state": "active"}, {"calls": [call(1, "m", "0", **{**REFUSED, "reason": "limit_tool_calls"})]},
         ["meterbox budget r-1 --tool-calls 4", "meterbox kill r-1"]),
        ({"state": "ended", "outcome": "abandoned"}, {"calls": [PRESUMED]},
         ["meterbox ledger correct c1 --void", "if the provider did not bill"]),
    ],
)  # fmt: skip
def test_the_commands_fit_the_state(more: dict[str, Any], known: dict[str, Any], wanted: list[str]) -> None:
    """Each can be copied as it stands: real ids, a limit that is enough."""
    said = now({**RUN, **more}, **known)
    for words in wanted:
        assert words in said


def test_a_limit_that_limits_nothing_is_not_advised() -> None:
    """Nothing spent yet, or a limit in force that is lower."""
    for more in ({"spent_usd": "0"}, {"limits": {"usd": "0.05"}}):
        assert "--usd" not in now({**RUN, "state": "active", **more})


def test_no_command_is_advised_that_the_configuration_refuses() -> None:
    """A limit rises as far as it may; where it may not, that is said instead."""
    refused = {"calls": [call(1, "m", "0", **REFUSED)]}
    assert "meterbox budget r-1 --usd 1.50" in now(RUN, most={"usd": "1.5"}, **refused)
    said = now(RUN, most={"usd": "1", "calls": 5}, **refused)
    assert "Its limit can't rise: the configuration allows $1.00 a run" in said and "--usd" not in said
    assert "meterbox kill r-1" in said


def test_no_limit_of_the_run_is_raised_where_another_stands_in_the_way() -> None:
    """The budget with the least left refused: the run's own has a dollar more than its agent's."""
    refused = {"calls": [call(1, "m", "0", **REFUSED)]}
    day = {**DAY, "spent": "9.9", "held": "0"}
    said = now(RUN, budgets=[day, BUDGET], **refused)
    assert "Budget daily on agent:research stands in the way until 2026-11-21 00:00:00Z" in said
    assert "reload (SIGHUP" in said and "--usd" not in said and "meterbox kill r-1" in said
    parent = {**BUDGET, "account": "run/team~p/nusd", "spent": "0.99", "held": "0"}
    said = now(RUN, budgets=[parent, BUDGET], **refused)
    assert "stands in the way: `meterbox runs show p --key team` says how to raise it." in said and "--usd" not in said
    assert "meterbox budget r-1 --usd 2.00" in now(RUN, budgets=[{**day, "mode": "shadow"}, BUDGET], **refused)
    assert "meterbox budget r-1 --usd 2.00" in now(RUN, budgets=[{**day, "spent": "5", "held": "0"}, BUDGET], **refused)


def test_a_run_that_ended_is_not_killed_again() -> None:
    """Unless something of it is still open."""
    ended = {**RUN, "state": "ended", "outcome": "completed"}
    assert "kill" not in now(ended)
    held = [{"call_id": "c", "run_id": "r-1", "model": "m", "held_usd": "1", "started_at": "2026-11-20T10:01:05Z"}]
    assert "meterbox kill r-1" in now(ended, held=held)
    assert Facts(run=ended, now=NOW).refused == []
