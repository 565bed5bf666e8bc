"""Claims about episodes: one is open for a key, few messages, what a mute and an ack hold back, what is forgotten."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.telemetry.alerts.episodes import (
    FLOOR,
    KEPT_S,
    MOST_KEPT,
    MOST_MODELS,
    MOST_OPEN,
    Episode,
    Episodes,
    Message,
    Seen,
)


def worded(episode: Episode) -> dict[str, str]:
    """What the tests read instead of a sentence."""
    return {"summary": f"{episode.alertname} {episode.amount} {episode.over_at}"}


def seen(about: str = "R", at: float = 100.0, amount: int = 0, **more: Any) -> Seen:
    """A sight of a run that burns money; its own signal ends it."""
    return Seen(
        **{"alertname": "burn_rate", "about": about, "severity": "critical", "at": at, "amount": amount, **more}
    )


def said(episodes: Episodes) -> list[tuple[str, str]]:
    """(status, summary) of what is to be told."""
    return [(message.status, message.annotations["summary"]) for message in episodes.take()[1]]


def test_one_message_again_at_the_double_and_one_when_it_is_over() -> None:
    """The whole life of an episode; sights that add little say nothing."""
    episodes = Episodes(worded)
    for amount in (10, 11, 19, 20, 39, 40, 41):
        episodes.see(seen(amount=amount))
    assert ["10", "20", "40"] == [summary.split()[1] for _, summary in said(episodes)]
    episodes.end("burn_rate/R", 200.0, "slow")
    assert [("resolved", "burn_rate 41 200.0")] == said(episodes)
    assert {} == episodes.open
    episodes.end("burn_rate/R", 201.0, "slow")  # nothing is over twice
    assert [] == said(episodes)
    episodes.see(seen(at=300.0, amount=10))  # another episode, with an id of its own
    assert 2 == len(episodes.by_id)


def test_the_same_sights_give_the_same_ids() -> None:
    """What is read twice is told under the same id; ids are short enough to be typed, and differ by key and instant."""
    lives = [Episodes(worded), Episodes(worded)]
    for life in lives:
        life.see(seen(amount=1))
        life.see(seen(amount=2))
        life.see(seen("S", amount=1))
    first, again = ([message.message_id for message in life.take()[1]] for life in lives)
    assert first == again
    assert 3 == len(set(first))
    assert all(len(alert_id) <= 20 for alert_id in lives[0].by_id)


def test_two_episodes_that_begin_in_one_millisecond_have_two_ids() -> None:
    """Also of the same key: one that was over at once and came again."""
    episodes = Episodes(worded)
    for _ in range(3):
        episodes.see(seen())
        episodes.end("burn_rate/R", 100.0, "slow")
    assert 3 == len(episodes.by_id)


def test_a_mute_holds_back_and_tells_afterwards_what_is_still_true() -> None:
    """The repeat that fell into it comes once when it ends; so does the end."""
    episodes = Episodes(worded)
    alert_id = episodes.see(seen(amount=10)).alert_id
    other = episodes.see(seen("S", amount=1)).alert_id
    said(episodes)
    episodes.mute(alert_id, 200.0)
    episodes.mute(other, 200.0)
    episodes.see(seen(at=110.0, amount=90))
    episodes.end("burn_rate/S", 120.0, "slow")
    episodes.sweep(199.0)
    assert [] == said(episodes)
    assert ("muted", "resolved") == (episodes.by_id[alert_id].state(199.0), episodes.by_id[other].state(199.0))
    episodes.sweep(200.0)
    assert ["firing", "resolved"] == [status for status, _ in said(episodes)]
    assert "firing" == episodes.by_id[alert_id].state(200.0)
    episodes.sweep(201.0)
    assert [] == said(episodes)


def test_a_mute_is_taken_back_by_an_instant_that_has_passed() -> None:
    """`until` now: what doubled meanwhile is told."""
    episodes = Episodes(worded)
    alert_id = episodes.see(seen(amount=10)).alert_id
    said(episodes)
    episodes.mute(alert_id, 1e9)
    episodes.see(seen(at=110.0, amount=20))
    episodes.mute(alert_id, 111.0)
    episodes.sweep(112.0)
    assert 1 == len(said(episodes))


def test_an_ack_ends_the_repeats_and_not_the_end() -> None:
    """Somebody has it; that it is over is news all the same. Unknown ids are nothing."""
    episodes = Episodes(worded)
    alert_id = episodes.see(seen(amount=10)).alert_id
    said(episodes)
    episodes.ack(alert_id, 105.0)
    episodes.ack("al_nobody", 105.0)
    episodes.mute("al_nobody", 105.0)
    episodes.see(seen(at=110.0, amount=1000))
    assert [] == said(episodes)
    episodes.end("burn_rate/R", 120.0, "slow")
    assert ["resolved"] == [status for status, _ in said(episodes)]


def test_what_began_before_is_known_and_not_told() -> None:
    """Quiet: neither its beginning nor its end; but what grows afterwards is told."""
    episodes = Episodes(worded)
    episodes.see(seen(amount=10), quiet=True)
    episodes.see(seen("S", amount=10), quiet=True)
    episodes.see(seen("S", at=101.0, amount=30), quiet=True)
    episodes.end("burn_rate/R", 110.0, "slow")
    assert ([], 2) == (said(episodes), len(episodes.by_id))
    episodes.see(seen("S", at=120.0, amount=59))
    episodes.sweep(121.0)
    assert [] == said(episodes)
    episodes.see(seen("S", at=122.0, amount=60))
    assert 1 == len(said(episodes))


def test_calm_and_rest_end_an_episode() -> None:
    """A stopped run: calm for 5 min after something went well, or an hour without anything."""
    episodes = Episodes(worded)
    episodes.see(seen("A", alertname="run_stopped"))
    episodes.see(seen("B", alertname="run_stopped"))
    episodes.good("run_stopped/A", 90.0)  # before it began: speaks against nothing
    episodes.sweep(500.0)
    assert 2 == len(episodes.open)
    episodes.good("run_stopped/A", 500.0)
    episodes.see(seen("B", alertname="run_stopped", at=550.0))
    episodes.sweep(501.0)
    assert ["well"] == [one.why for one in episodes.by_id.values() if one.over_at]
    episodes.sweep(550.0 + 3599.0)
    assert 1 == len(episodes.open)
    episodes.sweep(550.0 + 3600.0)
    assert ["rest", "well"] == sorted(one.why for one in episodes.by_id.values())


def test_a_run_that_is_refused_and_passes_in_turns_is_one_episode() -> None:
    """A thousand turns of a small call that passes and a large one that doesn't: one message."""
    episodes = Episodes(worded)
    for turn in range(1000):
        at = 100.0 + turn
        episodes.see(seen(alertname="run_stopped", at=at))
        episodes.good("run_stopped/R", at + 0.5)
        episodes.sweep(at + 0.5)
    assert 1 == len(said(episodes))


def test_more_than_the_most_are_counted_in_one() -> None:
    """A flood of keys opens a bounded number of episodes; the rest is one that counts, and repeats at the double."""
    episodes = Episodes(worded)
    for number in range(MOST_OPEN + 10_000):
        episodes.see(seen(f"r{number}"))
    assert MOST_OPEN + 1 == len(episodes.open)
    beyond = episodes.open["burn_rate/"]
    assert ({"beyond": 10_000}, {}) == (beyond.facts, beyond.labels)
    assert MOST_OPEN + 1 + math.floor(math.log2(10_000 / FLOOR)) == len(said(episodes))
    for number in range(MOST_MODELS + 5):
        episodes.see(seen(f"openai/m{number}", alertname="price_unknown"))
    assert MOST_MODELS + 1 == sum(key.startswith("price_unknown") for key in episodes.open)
    episodes.sweep(100.0 + 3600.0)
    assert "burn_rate/" not in episodes.open


def test_what_is_over_is_forgotten_in_time_and_beyond_a_number() -> None:
    """Neither the table nor the file grows without end; what still owes its end stays."""
    episodes = Episodes(worded)
    for number in range(MOST_KEPT + 5):
        episodes.see(seen(f"r{number}", at=100.0 + number))
        episodes.end(f"burn_rate/r{number}", 100.5 + number, "slow")
    owing = episodes.see(seen("owing", at=10.0)).alert_id
    episodes.mute(owing, 1e9)
    episodes.end("burn_rate/owing", 11.0, "slow")
    episodes.sweep(5000.0)
    assert MOST_KEPT + 1 == len(episodes.by_id)
    assert 5 == sum(one is None for one in episodes.take()[0].values())
    episodes.sweep(5000.0 + KEPT_S)
    assert [owing] == list(episodes.by_id)


def test_what_was_taken_goes_on_where_it_was() -> None:
    """Episodes that are read again know what is open, what was told, and what is owed."""
    episodes = Episodes(worded)
    episodes.see(seen(amount=10))
    again = Episodes(worded, [one for one in episodes.take()[0].values() if one is not None])
    again.see(seen(at=120.0, amount=19))
    assert [] == said(again)
    again.see(seen(at=130.0, amount=20))
    assert 1 == len(said(again))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("see"), st.sampled_from("abc"), st.integers(0, 10_000)),
        st.tuples(
            st.sampled_from(["good", "end", "mute", "ack", "sweep"]), st.sampled_from("abc"), st.integers(0, 900)
        ),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_comes_messages_are_few_and_in_order(walk: list[tuple[str, str, int]]) -> None:
    """Any order of anything: at most one episode is open for a key, its firing messages are at most 1 + log2 of how
    much it grew, none follows its end, there is one end at most, and no id occurs twice."""
    episodes, now, messages = Episodes(worded), 1000.0, list[Message]()
    for what, key, value in walk:
        now += 7
        alert = f"run_stopped/{key}"
        if what == "see":
            episodes.see(seen(key, now, value, alertname="run_stopped"))
        elif what == "good":
            episodes.good(alert, now)
        elif what == "end":
            episodes.end(alert, now, "resumed")
        elif what == "sweep":
            now += value
            episodes.sweep(now)
        elif (found := episodes.open.get(alert)) is not None:
            episodes.mute(found.alert_id, now + value - 100) if what == "mute" else episodes.ack(found.alert_id, now)
        assert len(episodes.open) == len({one.key for one in episodes.by_id.values() if one.over_at is None})
        messages += episodes.take()[1]
    assert len(messages) == len({message.message_id for message in messages})
    for episode in episodes.by_id.values():
        mine = [message for message in messages if message.alert_id == episode.alert_id]
        amounts = [int(message.annotations["summary"].split()[1]) for message in mine if message.status == "firing"]
        assert all(after >= 2 * before for before, after in pairwise(amounts))
        assert len(amounts) <= 1 + math.log2(max(episode.amount, 1) / max(amounts[0], 1)) if amounts else True
        ends = [place for place, message in enumerate(mine) if message.status == "resolved"]
        assert ends in ([], [len(mine) - 1])
