"""Calls of one moment know of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.core.ledger.company import ALONE_S, MOST_S, QUIET_S, TIGHT, Company, tight_account
from gateway.core.types import Denied, Order, Reservation
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import AnyStore, charge, opened, order, sqlite


class Hours:
    """A loop's timer by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def later(self, at: float, act: Callable[..., None], *args: Any) -> None:
        self.due.append((at, act, args))

    def pass_by(self, seconds: float) -> None:
        until = self.now + seconds
        while soon := [one for one in self.due if one[0] <= until]:
            first = min(soon, key=lambda one: one[0])
            self.due.remove(first)
            self.now = max(self.now, first[0])
            first[1](*first[2])
        self.now = until


def company() -> tuple[Hours, Company, list[Order]]:
    """One that notes what it hands on."""
    hours, sent = Hours(), []
    return hours, Company(hours.later, lambda: hours.now, lambda one, _: sent.append(one)), sent


def test_only_what_is_large_beside_its_limit_is_tight() -> None:
    """A call that shares, and that fits fewer than four times into the lowest limit, stands aside; no other does."""
    assert "run/R/nusd" == tight_account(order("a", charge(want=1001, limit=1000 * TIGHT, share=True)))
    assert "run/R/nusd" == tight_account(order("a", charge(want=11, limit=9000, lower=10 * TIGHT, share=True)))
    assert tight_account(order("a", charge(want=1000, limit=1000 * TIGHT, share=True))) is None
    assert tight_account(order("a", charge(want=1001, limit=1000 * TIGHT))) is None
    assert tight_account(order("a", charge(want=1001, limit=None, share=True))) is None


def test_a_burst_goes_together_and_each_knows_how_many_follow() -> None:
    """Orders that keep coming go on once nobody came for a while, in turn, counting down."""
    hours, stand, sent = company()
    for name in "abc":
        stand.gather("run/R/nusd", order(name), None)
        hours.pass_by(ALONE_S / 2)
    assert [] == sent
    hours.pass_by(QUIET_S)
    assert [("a/1", 2), ("b/1", 1), ("c/1", 0)] == [(one.id, one.behind) for one in sent]


def test_who_is_alone_hardly_waits() -> None:
    """Without company an order goes on after a hundredth of a second; another account's burst is not its company."""
    hours, stand, sent = company()
    stand.gather("run/R/nusd", order("a"), None)
    stand.gather("run/S/nusd", order("b"), None)
    hours.pass_by(ALONE_S)
    assert [("a/1", 0), ("b/1", 0)] == [(one.id, one.behind) for one in sent]


def test_a_loop_that_stood_still_listens_once_more() -> None:
    """Its timers run before it hears who came meanwhile: the first of a burst isn't taken for alone. Only once, and
    never beyond the bound."""
    hours, stand, sent = company()
    stand.gather("run/R/nusd", order("a"), None)
    hours.now += 4 * ALONE_S
    hours.pass_by(0.0)
    assert [] == sent
    stand.gather("run/R/nusd", order("b"), None)
    hours.now += 4 * ALONE_S
    hours.pass_by(0.0)
    assert [("a/1", 1), ("b/1", 0)] == [(one.id, one.behind) for one in sent]
    stand.gather("run/R/nusd", order("c"), None)
    hours.now += MOST_S
    hours.pass_by(0.0)
    assert ("c/1", 0) == (sent[-1].id, sent[-1].behind)


def test_a_burst_without_end_is_cut_into_pieces() -> None:
    """However they keep coming, nobody stands aside for longer than the bound."""
    hours, stand, sent = company()
    for number in range(200):
        stand.gather("run/R/nusd", order(f"c{number}"), None)
        hours.pass_by(0.002)
    assert MOST_S / 0.002 - 1 <= len(sent) < 200


async def test_who_leaves_is_answered_and_not_handed_on() -> None:
    """A caller that left is told so at once; the others don't count it."""
    hours, stand, sent = company()
    reply: asyncio.Future[Denied] = asyncio.get_running_loop().create_future()
    stand.gather("run/R/nusd", order("a"), None)
    stand.gather("run/R/nusd", order("b"), reply)
    assert stand.forget("b/1")
    assert not stand.forget("b/1")
    assert "gone" == reply.result().reason
    hours.pass_by(QUIET_S)
    assert [("a/1", 0)] == [(one.id, one.behind) for one in sent]


async def granted(store: AnyStore, one: Order) -> int:
    """What this order may spend."""
    got = await store.reserve(one)
    assert isinstance(got, Reservation)
    return got.granted["nusd"]


async def test_the_first_of_a_burst_leaves_the_others_their_part() -> None:
    """Of ten calls of one moment that each want all, the first gets a tenth: alone it would have taken everything."""
    store = MemoryStore(FakeClock().now)
    parts = [
        await granted(store, order(f"c{behind}", charge(want=1000, least=10, share=True), behind=behind))
        for behind in range(9, -1, -1)
    ]
    assert [100, 90, 81] == parts[:3]
    assert 38 == min(parts)


async def test_the_store_lets_a_burst_stand_aside(tmp_path: Path) -> None:
    """SQLite, real timers: of equal calls of one moment on a tight run nobody is granted more than one part of all."""
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        orders = [order(f"c{number}", charge(want=1000, least=10, share=True)) for number in range(10)]
        parts = await asyncio.gather(*(granted(store, one) for one in orders))
    assert 100 == max(parts)
    assert 38 == min(parts)
