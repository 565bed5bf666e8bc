"""Calls that come at the same moment are told of each other, so that the first one leaves the others their part.

A call whose caller set no output limit gets one part of w of what is free while w calls wait or are in flight
(design.md section 2). The first of a burst would be alone by that count, and hold most of a small budget for a whole
call's time. So an order that is large beside its limit stands aside for a moment, as long as others keep coming for the
same account; then all go to the ledger in the order they came, each knowing how many follow (`Order.behind`).

Invariant: an order stands aside for `MOST_S` at the most, and only where `TIGHT` like it would not fit into the limit.
What never enters: a decision about money, a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import structs

from gateway.core.types import Denied, Order

TIGHT: Final = 4  # calls: a limit that pays for so many of this size at once has room for a burst's first ones
ALONE_S: Final = 0.01  # a call without company goes on after this; the next of a burst is a millisecond or two behind
QUIET_S: Final = 0.025  # a burst is over when nobody came for so long
MOST_S: Final = 0.2  # and at the latest after this
LATE_S: Final = 0.005  # a loop that looks so much later than it meant to has not heard yet who came meanwhile


def tight_account(order: Order) -> str | None:
    """The first account of which this order would take more than its part of a burst; None: it may go at once."""
    for charge in order.charges:
        limits = [limit for limit in (charge.limit, charge.lower) if limit is not None]
        if charge.share and limits and charge.want * TIGHT > min(limits):
            return charge.account
    return None


class Burst:
    """Orders for one account that stand aside together, by id, and whom to tell. excused: the loop was late once."""

    __slots__ = ("began_at", "excused", "last_at", "orders")

    def __init__(self, at: float) -> None:
        self.began_at = self.last_at = at
        self.excused = False
        self.orders: dict[str, tuple[Order, Any]] = {}

    def ends_at(self) -> float:
        """When it is over if nobody else comes."""
        quiet_s = QUIET_S if len(self.orders) > 1 else ALONE_S
        return min(self.last_at + quiet_s, self.began_at + MOST_S)


class Company:
    """later: the loop's `call_at`; time: its clock; send: hands an order on, with whom to tell its answer."""

    def __init__(
        self, later: Callable[..., Any], time: Callable[[], float], send: Callable[[Order, Any], None]
    ) -> None:
        self._later = later
        self._time = time
        self._send = send
        self._bursts: dict[str, Burst] = {}

    def gather(self, account: str, order: Order, reply: Any) -> None:
        """Lets an order stand aside until its burst is over."""
        now = self._time()
        burst = self._bursts.get(account)
        if burst is None:
            burst = self._bursts[account] = Burst(now)
            self._later(burst.ends_at(), self._look, account, burst.ends_at())
        burst.orders[order.id] = order, reply
        burst.last_at = now

    def forget(self, order_id: str) -> bool:
        """Its caller left: it is taken out and answered as gone. False: it doesn't stand here."""
        for burst in self._bursts.values():
            stood = burst.orders.pop(order_id, None)
            if stood is not None:
                _, reply = stood
                if not reply.done():
                    reply.set_result(Denied("", "", "gone"))
                return True
        return False

    def _look(self, account: str, due: float) -> None:
        burst, now = self._bursts[account], self._time()
        if now - due > LATE_S and not burst.excused:
            burst.excused, burst.last_at = True, now
        until = burst.ends_at()
        if now < until:
            self._later(until, self._look, account, until)
            return
        del self._bursts[account]
        behind = len(burst.orders)
        for order, reply in burst.orders.values():
            behind -= 1
            self._send(structs.replace(order, behind=behind), reply)
