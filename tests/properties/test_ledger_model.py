"""Every interleaving of three calls, two gateways and two nested budgets keeps the promises; each broken variant fails.

Invariant: the product is explored as it is; a variant breaks one seam of what a gateway asks of it, and nothing else.
What never enters: chance (the random machine is test_ledger_machine).
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from gateway.core.ledger import engine, settle
from gateway.core.ledger.book import HELD, SETTLED, Book
from gateway.core.types import Exchange, Order
from tests.properties.interleavings import AT, LIMITS, Broken, Size, Words, explore

SMALL = Size(deaf=(0,), free=())
WAITING = Size(patient=True)


@pytest.mark.timeout(600)  # 25 s of one core; a busy machine takes longer
@pytest.mark.parametrize(("size", "least"), [(SMALL, 5_000), (WAITING, 10_000)], ids=["at once", "in line"])
def test_no_interleaving_breaks_a_promise(size: Size, least: int) -> None:
    """Lost answers, crashes, expiries and late settles in any order: P1, P2 and I1 to I9 hold in every state."""
    found = explore(Words(), size)
    print(f"{found} states")
    assert found > least, "the world became smaller than it was meant to be"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("size", "least"),
    [
        (Size(deaf=(0, 1, 2), free=(0, 1, 2)), 50_000),
        (Size(patient=True, deaf=(0, 1), free=(0, 1)), 30_000),
        (Size(deaf=(), free=(), wide=(0, 1)), 40_000),
    ],
    ids=["all answers lost", "in line", "lowered holds"],
)
def test_no_interleaving_of_a_larger_world_breaks_a_promise(size: Size, least: int) -> None:
    """The same with every answer lost, every bill open, and holds that are lowered while the answer streams."""
    found = explore(Words(), size)
    print(f"{found} states")
    assert found > least


# --------------------------------------------------------------------------- what the search must find


class CheckThenAct(Words):
    """Looks at the balance in one step and books in another, without looking again."""

    acts_at_once = False

    def reserve(self, book: Book, order: Order) -> Any:
        return engine.reserve(book, AT, without_limits(order))


class PartialHierarchy(Words):
    """Holds on the innermost budget only; what lies above is charged without a look."""

    def reserve(self, book: Book, order: Order) -> Any:
        charges = tuple([structs.replace(charge, limit=None) for charge in order.charges[1:]])
        return engine.reserve(book, AT, structs.replace(order, charges=(order.charges[0], *charges)))


class TwoSteps(Words):
    """Books a call's accounts in two steps: the outer one may refuse what the inner one holds already."""

    def reserve(self, book: Book, order: Order) -> Any:
        inner = engine.reserve(book, AT, structs.replace(order, charges=order.charges[:1]))
        hold = book.holds.get(order.id)
        if hold is None or len(order.charges) == len(hold.accounts):
            return inner
        room = LIMITS["run/P/nusd"] - sum(getattr(book.account("run/P/nusd"), part) for part in ("spent", "held"))
        if room >= hold.held["nusd"]:
            outer = order.charges[1].account
            hold.accounts.append((outer, "nusd"))
            book.account(outer).held += hold.held["nusd"]
            book.account(outer).open += 1
        return inner


class ForgetfulSettle(Words):
    """Settles what was settled before once more."""

    def settle(self, book: Book, order_id: str, told: Exchange) -> None:
        hold = book.holds.get(order_id)
        if hold is not None and hold.state == SETTLED:
            hold.state = HELD
        super().settle(book, order_id, told)


class ReleaseOnExpiry(Words):
    """Gives back what outlived its deadline, or whose process died."""

    def expire(self, book: Book) -> None:
        for order_id in book.shelf.due(AT, 10):
            settle.void(book, AT, order_id)

    def bury(self, book: Book, instance: str) -> None:
        for order_id in book.shelf.held_by(instance, 10):
            settle.void(book, AT, order_id)


class ReleaseOnTimeout(Words):
    """Takes a call that gave no answer for one that cost nothing."""

    def unknown(self, book: Book, order_id: str, told: Exchange) -> None:
        settle.void(book, AT, order_id)


class SendBeforeAck(Words):
    """Sends while the reserve is on its way, in the hope that it will be granted."""

    waits_for_the_ack = False


class LateGuess(Words):
    """A late settle is believed only down to nothing: what was presumed is given back without a bill."""

    def settle(self, book: Book, order_id: str, told: Exchange) -> None:
        told.cost_nusd = 0
        super().settle(book, order_id, told)


def without_limits(order: Order) -> Order:
    """The same order as one that any account takes."""
    return structs.replace(order, charges=tuple([structs.replace(charge, limit=None) for charge in order.charges]))


@pytest.mark.parametrize(
    ("variant", "promise"),
    [
        (CheckThenAct, "P1"),
        (PartialHierarchy, "P1"),
        (TwoSteps, "P1|P2|I5"),
        (ForgetfulSettle, "I[2347]"),
        (ReleaseOnExpiry, "I6"),
        (ReleaseOnTimeout, "I6"),
        (SendBeforeAck, "I6"),
        (LateGuess, "I6"),
    ],
)
def test_a_broken_ledger_is_caught(variant: type[Words], promise: str) -> None:
    """Each classic mistake breaks a promise in some interleaving, and the search finds it."""
    with pytest.raises(Broken, match=promise) as caught:
        explore(variant(), SMALL)
    print(caught.value)
