"""Claims about what the journal means for alerts, on a real ledger in memory."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.core.telemetry.alerts import texts
from gateway.core.telemetry.alerts.episodes import Episodes
from gateway.core.telemetry.alerts.pace import HOUR_S
from gateway.core.telemetry.alerts.watch import DOWN_CALLS, DOWN_S, LOOK_S, MOST_PROVIDERS, STUCK_S, Kept, Watch
from gateway.core.telemetry.health import State
from gateway.core.telemetry.settings import AlertRules
from gateway.core.types import NUSD, Attempt, Entry, Limited, Mark
from gateway.core.windows import Calendar
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, order

MARKS = (Mark("each", 10 * NUSD, (("0.5", 500), ("0.8", 800), ("1.0", 1000))),)


class House:
    """A ledger, a clock, and a watch that reads along."""

    def __init__(self, rules: AlertRules | None = None) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now)
        self.episodes = Episodes(texts.told)
        self.rules = rules or AlertRules(burn_per_h_nusd=None)
        self.reading = self.store.reading()
        self.watch = Watch(self.reading, self.episodes, self.rules, Kept())
        self.read = 0
        self._calls = 0

    async def call(
        self, run: str = "R", cost: int = 0, *charges: Any, facts: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """A whole call; `charges` beside the run's own dollars."""
        self._calls += 1
        call_id = f"c{self._calls}"
        own = charge(f"run/{run}/nusd", want=cost, limit=None)
        asked = order(call_id, own, *charges, run=run)
        asked = msgspec.structs.replace(asked, run=msgspec.structs.replace(asked.run, **(facts or {})))
        await self.store.reserve(asked)
        known = {"run": run, "started_at": self.clock.at, "source": "price_list", **more}
        await self.store.settle(f"{call_id}/1", {"nusd": cost}, exchange(call_id, cost, **known))

    async def refused(self, reason: str, run: str = "R", **more: Any) -> None:
        """A call that was refused before it was sent."""
        self._calls += 1
        known = {"run": run, "reason": reason, "started_at": self.clock.at, **more}
        await self.store.settle(None, None, exchange(f"c{self._calls}", 0, source="refused", **known))

    def look(self, quiet: bool = False) -> list[tuple[str, str]]:
        """Reads what is new; (status, summary) of what is to be told."""
        for entry in self.reading.entries(self.read, limit=100_000):
            self.watch.take(entry, quiet)
            self.read = entry.seq
        return self.told()

    def sweep(self, seconds: float = 0.0, health: dict[str, State] | None = None) -> list[tuple[str, str]]:
        """Time passes; what is to be told then."""
        self.clock.advance(seconds)
        self.watch.sweep(self.clock.at, health or {})
        return self.told()

    def told(self) -> list[tuple[str, str]]:
        """What was not told before."""
        return [(message.status, message.annotations["summary"]) for message in self.episodes.take()[1]]


# --------------------------------------------------------------------------- budgets


async def test_each_threshold_is_told_once_and_the_window_ends_it():
    """Of an agent's daily budget: what was used, of how much, of which budget; the next day it is over."""
    house = House()
    daily = charge("agent/ann/nusd", want=5 * NUSD, limit=10 * NUSD, window=Calendar("day"), marks=MARKS)
    await house.call("R", 5 * NUSD, daily)
    assert [("firing", "Agent ann used $5.00 of $10.00: 50 % of budget each.")] == house.look()
    await house.call("S", 5 * NUSD, daily)
    assert [
        ("firing", "Agent ann used $10.00 of $10.00: 100 % of budget each."),
        ("firing", "Agent ann used $10.00 of $10.00: 100 % of budget each."),
    ] == house.look()
    assert [] == house.sweep()
    labels = [one.labels for one in house.episodes.open.values()]
    assert {"budget": "each", "threshold": "0.5", "agent": "ann"} == labels[0]
    assert ["warning", "warning", "critical"] == [one.severity for one in house.episodes.open.values()]
    said = house.sweep(86_400)
    assert ["resolved"] * 3 == [status for status, _ in said]
    assert "Over: Agent ann used $10.00 of $10.00 of budget each; its window has ended." == said[0][1]


async def test_a_shadow_budget_alerts_like_any_other_and_repeats_at_the_double():
    """Nothing stops it, so that it grows; of its thresholds only the highest repeats itself."""
    house = House()
    marks = (Mark("watch", 2 * NUSD, (("0.5", 500), ("1.0", 1000)), shadow=True),)
    shadow = charge("run/R/nusd", want=NUSD, limit=None, marks=marks)
    for _ in range(2):
        await house.store.reserve(order(f"s{_}", shadow))
        await house.store.settle(f"s{_}/1", {"nusd": NUSD}, exchange(f"s{_}", NUSD))
    first, second = house.look()
    assert (
        "firing", "Run R used $2.00 of $2.00: 100 % of budget watch; nothing stops it, the budget is a shadow."
    ) == second  # fmt: skip
    assert (
        "firing",
        "Run R used $1.00 of $2.00: 50 % of budget watch; nothing stops it, the budget is a shadow.",
    ) == first
    await house.call("R", 2 * NUSD)
    house.look()
    said = house.sweep(LOOK_S)
    assert ["Run R used $4.00 of $2.00"] == [summary.partition(":")[0] for _, summary in said]


async def test_a_raised_limit_ends_the_thresholds_that_are_no_longer_reached():
    """$5 of $5 becomes $5 of $20; the run's end ends the rest, and with an agent its label is there."""
    house = House()
    budget = charge("run/R/nusd", want=5 * NUSD, limit=5 * NUSD, most=20 * NUSD, marks=MARKS)
    await house.store.reserve(order("c0", budget))
    await house.store.settle("c0/1", {"nusd": 5 * NUSD}, exchange("c0", 5 * NUSD))
    assert 3 == len(house.look())
    await house.store.set_limit("run/R/nusd", 8 * NUSD)
    said = house.sweep(LOOK_S)
    assert 2 == len(said)
    assert all(summary.endswith("its limit was raised.") for _, summary in said)
    (left,) = house.episodes.open.values()
    assert "Run R used $5.00 of $8.00: 62 % of budget each." == texts.summary(left)  # what /api shows, and a repeat
    await house.store.end_run("R", "ended", "completed", None, 0.0)
    assert ["resolved"] == [status for status, _ in house.look()]


async def test_other_units_are_told_in_their_own_words():
    """40 of 80 calls; an account of all runs."""
    house = House()
    marks = (Mark("calls", 4, (("0.5", 500),)),)
    everybody = charge("global/all/calls", want=1, limit=4, window=Calendar("hour"), marks=marks)
    for number in range(2):
        await house.store.reserve(order(f"c{number}", everybody))
        await house.store.settle(f"c{number}/1", {"calls": 1}, exchange(f"c{number}", 0))
    assert [("firing", "All runs used 2 of 4 calls: 50 % of budget calls.")] == house.look()
    (found,) = house.episodes.open.values()
    assert {"stop": "meterbox kill --all", "look": "meterbox budget"} == texts.commands(found)


# --------------------------------------------------------------------------- stopped runs


async def test_a_kill_is_told_with_its_reason_and_a_resume_ends_it():
    """The person's words; what it had spent."""
    house = House()
    await house.call("R", 4 * NUSD)
    await house.store.end_run("R", "killed", "killed", "it deletes files", 0.0)
    assert [("firing", "Run R was killed after $4.00: it deletes files.")] == house.look()
    await house.refused("run_killed")
    assert [] == house.look()
    await house.store.end_run("R", "active", None, None, 0.0)
    assert [("resolved", "Over: Run R goes on; 1 call refused while it was stopped.")] == house.look()


async def test_ten_thousand_refusals_of_one_run_are_one_message():
    """Later refusals belong to the first one, whichever limit they met."""
    house = House()
    limited = Limited("run/R/nusd", "run", "nusd", 10 * NUSD, 9_980_000_000)
    for number in range(10_000):
        reason = "insufficient_quota" if number % 2 == 0 else "limit_calls"
        await house.refused(reason, limited=limited)
    assert [
        ("firing", "Run R was stopped by its budget: $9.98 of $10.00 used, calls that may need more are refused.")
    ] == house.look()
    assert 10_000 == house.episodes.open["run_stopped/R"].facts["refused"]
    assert [] == house.sweep(HOUR_S - 1)
    said = house.sweep(1)
    assert ["Over: Run R is still stopped, but has asked for nothing for an hour; 10,000 calls refused."] == [
        summary for _, summary in said
    ]


async def test_a_budget_of_others_is_named_and_a_refusal_without_numbers_too():
    """`agent:ann`; a record that does not know its limit says the code."""
    house = House()
    limited = Limited("agent/ann/calls/2026-11-21", "agent:ann", "calls", 40, 40)
    await house.refused("limit_calls", limited=limited)
    await house.refused("insufficient_quota", run="S")
    await house.refused("limit_tool_calls", run="T")
    assert [
        "Run R was stopped by the budget of agent ann: 40 of 40 calls used, calls are refused.",
        "Run S was stopped by its budget (money); calls are refused.",
        "Run T was stopped by its budget (tool calls); calls are refused.",
    ] == [summary for _, summary in house.look()]


@pytest.mark.parametrize("reason", ["rate_limited", "invalid_key", "overloaded", "run_killed", "tool_denied"])
async def test_other_refusals_stop_no_run(reason):
    """Rates and faults of the caller; and a killed run that knocks long after is no news."""
    house = House()
    await house.refused(reason)
    assert [] == house.look()


async def test_a_run_that_goes_on_after_a_refusal_is_over_when_it_is_calm():
    """The limit was raised: calls pass. One that began before the refusal says nothing."""
    house = House()
    await house.refused("insufficient_quota")
    await house.call("R", 1, started_at=house.clock.at - 5)
    assert 1 == len(house.look())
    assert [] == house.sweep(400)
    await house.call("R", 1)
    house.look()
    assert [("resolved", "Over: Run R goes on; 1 call refused while it was stopped.")] == house.sweep()


# --------------------------------------------------------------------------- burn rate


async def test_a_run_that_burns_is_told_without_any_budget_and_what_a_day_would_cost():
    """R-092: $50/h is told within two minutes, again at the double of what it cost, and over when it rests."""
    house = House(AlertRules())
    said: list[tuple[str, str]] = []
    started = house.clock.at
    while not said:
        house.clock.advance(10)
        await house.call("R", int(50 / 360 * NUSD), facts={"agent": "ann"})
        said = house.look()
    assert house.clock.at - started <= 120
    assert "Run R burns $10." in said[0][1]
    assert "a day at this pace." in said[0][1]
    assert {"run_id": "R", "agent": "ann"} == house.episodes.open["burn_rate/R"].labels
    more = 0
    for _ in range(360):
        house.clock.advance(10)
        await house.call("R", int(50 / 360 * NUSD))
        more += len(house.look())
        assert [] == house.sweep()
    assert 5 == more  # $1.4 -> 2.8 -> 5.6 -> 11.2 -> 22.4 -> 44.8
    over = house.sweep(1200)
    assert ["resolved"] == [status for status, _ in over]
    assert over[0][1].startswith("Over: Run R has slowed down, ")


async def test_a_swarm_of_small_runs_burns_in_the_run_above_them():
    """Each child is slow; what they spend together is the parent's, whom the message names."""
    house = House(AlertRules())
    for number in range(24):
        house.clock.advance(5)
        await house.call(f"child{number % 8}", int(50 / 720 * NUSD), facts={"parent": "root"})
    said = house.look()
    assert ["root"] == [one.labels["run_id"] for one in house.episodes.open.values()]
    assert said[0][1].startswith("Run root burns $10.")


async def test_the_limit_is_the_operators_and_none_watches_nothing():
    """Another limit; without one no run burns. A run that ended, burns no more."""
    quick, never = House(AlertRules(burn_per_h_nusd=NUSD)), House(AlertRules(burn_per_h_nusd=None))
    for house in (quick, never):
        await house.call("R", NUSD)
        await house.call("R", NUSD)
    assert ([], 1) == (never.look(), len(quick.look()))
    await quick.store.end_run("R", "ended", None, None, 0.0)
    assert ["resolved"] == [status for status, _ in quick.look()]
    assert {"R": None} == quick.watch.paces.take()


async def test_a_pace_that_fell_is_over_with_the_next_call_too():
    """Also while the journal is read late, when no clock may end anything."""
    house = House(AlertRules())
    await house.call("R", NUSD)
    await house.call("R", NUSD)
    assert 1 == len(house.look())
    house.clock.advance(1000)
    await house.call("R", 1)
    assert ["resolved"] == [status for status, _ in house.look()]


# --------------------------------------------------------------------------- prices and providers


async def test_a_model_without_a_price_is_told_once_and_again_as_calls_pass_uncounted():
    """Refused ones cost nothing and repeat nothing; passed ones repeat at the double of a hundred."""
    house = House()
    for _ in range(1000):
        await house.refused("price_unknown", request_model="gpt-x")
    assert [("firing", "No price for gpt-x of openai: its calls are refused until it has one.")] == house.look()
    for _ in range(200):
        await house.call("R", 0, source="unknown_model", request_model="gpt-x")
    said = house.look()
    assert [
        ("firing", "No price for gpt-x of openai: 200 calls passed uncounted, what they cost is unknown.")
    ] == said  # fmt: skip
    assert {"provider": "openai", "model": "gpt-x"} == house.episodes.open["price_unknown/openai/gpt-x"].labels
    await house.call("R", 5, request_model="gpt-x")
    house.look()
    assert [("resolved", "Over: gpt-x of openai has a price; 200 calls passed without one.")] == house.sweep()


async def failing(
    house: House, count: int, every_s: float, status: int | None = None, provider: str = "openai"
) -> None:
    """Calls that the provider fails."""
    for _ in range(count):
        attempts = [Attempt(provider, "m", status, "upstream_error", 0)]
        await house.call("R", 0, outcome="upstream_error", attempts=attempts, status=status)
        house.clock.advance(every_s)


@pytest.mark.parametrize("status", [None, 200, 500, 503, 529])
async def test_a_provider_that_fails_again_and_again_is_down(status):
    """Five in a row over half a minute: no answer, 5xx, or one that broke off; over after a calm minute."""
    house = House()
    await failing(house, DOWN_CALLS - 1, DOWN_S / (DOWN_CALLS - 1), status)
    assert [] == house.look()
    await failing(house, 1, 1, status)
    said = house.look()
    assert ["firing"] == [told for told, _ in said]
    what = f"status {status}" if status else "no answer"
    assert f"Provider openai fails: 5 calls in a row since 08:00 UTC ({what})." == said[0][1]
    await house.call("R", 0)
    assert [] == [*house.look(), *house.sweep(30)]
    said = house.sweep(60)
    assert "Over: provider openai answers again after 31 s; 5 calls failed." == said[0][1]


async def test_a_few_fast_failures_or_an_answer_between_are_no_outage():
    """A thousand failures within seconds may be one restart; a throttle or a fault of the caller is an answer."""
    house = House()
    await failing(house, 1000, 0.01)
    for status in (400, 429):
        await failing(house, 1, 0.0, status)
        await failing(house, DOWN_CALLS - 1, DOWN_S)
    assert [] == house.look()


async def test_streaks_are_kept_and_bounded():
    """What a notebook kept counts on; names of providers are the configuration's, and yet bounded."""
    house = House()
    for number in range(MOST_PROVIDERS + 5):
        await failing(house, 1, 0.0, provider=f"p{number}")
    house.look()
    streaks = {name: one for name, one in house.watch.take_streaks().items() if one is not None}
    assert MOST_PROVIDERS == len(streaks)
    again = House()
    again.watch = Watch(again.reading, again.episodes, again.rules, Kept(streaks=streaks))
    again.clock.advance(DOWN_S)
    await failing(again, DOWN_CALLS - 1, 0.0, provider="p0")
    assert 1 == len(again.look())


# --------------------------------------------------------------------------- telemetry, people, history


async def test_a_projection_that_stays_behind_is_told_and_one_that_catches_up_is_over():
    """Five minutes behind while it fails: at once; without a failure it is given a minute, as after a rebuild."""
    house = House()
    now = house.clock.at
    late = State(behind=1204, oldest_at=now - 400, failures=3, last_error="it answered 503")
    told = [("firing", "Telemetry otlp-x is 6 min behind: 1,204 entries wait (it answered 503).")]
    assert told == house.sweep(health={"otlp-x": late})
    slow = State(behind=10, oldest_at=now - 400)
    assert [] == house.sweep(health={"otlp-x": late, "metrics": slow})
    assert 1 == len(house.sweep(STUCK_S, {"otlp-x": late, "metrics": slow}))
    well = State(behind=10, oldest_at=house.clock.at - 149)
    assert [("resolved", "Over: telemetry metrics has caught up; nothing was lost.")] == house.sweep(
        health={"otlp-x": late, "metrics": well}
    )
    assert [("resolved", "Over: telemetry otlp-x is no longer configured; nothing was lost.")] == house.sweep(
        health={"metrics": well}
    )


async def test_a_mute_and_an_ack_are_read_in_the_journal():
    """They name the alert; another process wrote them."""
    house = House()
    await house.refused("insufficient_quota")
    house.look()
    (found,) = house.episodes.open.values()
    await house.store.note("mute", "", {"alert_id": found.alert_id, "until": house.clock.at + 60}, 0.0)
    await house.store.note("ack", "", {"alert_id": found.alert_id}, 0.0)
    await house.store.note("mute", "", {"alert_id": "al_nobody"}, 0.0)
    house.look()
    assert ("muted", house.clock.at) == (found.state(house.clock.at), found.acked_at)


async def test_history_is_folded_and_not_told():
    """Quiet entries open and end episodes; nobody hears of them."""
    house = House()
    await house.refused("insufficient_quota")
    await house.store.end_run("S", "killed", None, "x", 0.0)
    assert ([], 1) == (house.look(quiet=True), len(house.episodes.open))


async def test_a_budget_that_was_passed_in_history_is_told_when_it_doubles_from_what_it_is_now():
    """What its account grew to before the first look is history too."""
    house = House()
    marks = (Mark("watch", NUSD, (("1.0", 1000),), shadow=True),)
    await house.store.reserve(order("c", charge("run/R/nusd", want=NUSD, limit=None, marks=marks)))
    await house.store.settle("c/1", {"nusd": NUSD}, exchange("c", NUSD))
    house.look(quiet=True)
    await house.call("R", 9 * NUSD)
    assert [] == [*house.look(), *house.sweep(), *house.sweep(LOOK_S)]
    await house.call("R", 10 * NUSD)
    assert ([], 1) == (house.look(), len(house.sweep(LOOK_S)))


async def test_a_run_of_a_virtual_key_is_named_as_the_commands_take_it():
    """The label is the run's id; the commands say which key."""
    house = House()
    await house.refused("insufficient_quota", run="ann's key~R 1")
    house.look()
    (found,) = house.episodes.open.values()
    assert "R 1" == found.labels["run_id"]
    assert "meterbox kill 'R 1' --key 'ann'\"'\"'s key'" == texts.commands(found)["stop"]


async def test_entries_without_a_meaning_for_alerts_change_nothing():
    """Notes, gates, limits, and kinds that this version doesn't know."""
    house = House()
    await house.store.note("feedback", "R", {"score": 1}, 0.0)
    await house.store.close_account("agent/ann", "x")
    house.watch.take(Entry(999, 0.0, "weather", "R", None, b""))
    assert [] == house.look()
