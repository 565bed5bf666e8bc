"""The line: orders that wait because only holds of others are in their way, first come first served per account.

Invariant: an order that waits stands in the line of every account that blocks it, in the order of arrival, and in no
other: so it never holds up an account where it would fit. It is *watched* by all accounts it would charge (sharing
counts it, and spending there may make it hopeless). What never enters: money arithmetic, time of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from gateway.core.types import Charge, Order

LINE_MOST = 10_000  # orders that wait at once; beyond that an order is turned away as `busy`


class Parked:
    """One waiting order and where it stands."""

    __slots__ = ("at", "blocked", "charges", "order", "ticket")

    def __init__(self, order: Order, ticket: int, at: float) -> None:
        self.order = order
        self.ticket = ticket
        self.at = at
        self.blocked: list[str] = []  # accounts in whose line it stands, in the order of its charges
        self.charges: dict[str, Charge] = {charge.account: charge for charge in order.charges}


class Queue:
    """What waits on one account."""

    __slots__ = ("blocked", "peak", "settled_at", "watch")

    def __init__(self) -> None:
        self.watch: dict[int, Parked] = {}  # by ticket
        self.blocked: list[int] = []  # tickets that this account blocks, ascending
        self.settled_at = 0.0  # when a hold on it last ended
        self.peak = 0  # no watched order needs more than this


class Line:
    """All waiting orders of one store. Lives in memory only: a caller that waits dies with its process."""

    def __init__(self, most: int = LINE_MOST) -> None:
        self.most = most
        self.parked: dict[str, Parked] = {}
        self.queues: dict[str, Queue] = {}
        self._ticket = 0

    @property
    def full(self) -> bool:
        """No room for another order."""
        return len(self.parked) >= self.most

    def ahead(self, account: str, ticket: int | None) -> bool:
        """Does somebody stand in this account's line before this ticket (None: before a newcomer)?"""
        queue = self.queues.get(account)
        if queue is None or not queue.blocked:
            return False
        return ticket is None or queue.blocked[0] < ticket

    def watching(self, account: str) -> int:
        """How many waiting orders would charge this account."""
        queue = self.queues.get(account)
        return len(queue.watch) if queue is not None else 0

    def park(self, order: Order, at: float, blocked: list[str]) -> Parked:
        """Puts an order at the end of the lines that block it."""
        self._ticket += 1
        parked = Parked(order, self._ticket, at)
        self.parked[order.id] = parked
        self._watch(parked)
        self.block(parked, blocked)
        return parked

    def rewrite(self, parked: Parked, order: Order) -> list[str]:
        """Its order charges other accounts from now on; its turn stays. Gives back the lines that it left: it stands in
        none until it is blocked again."""
        left = self.block(parked, [])
        self._unwatch(parked)
        parked.order, parked.charges = order, {charge.account: charge for charge in order.charges}
        self._watch(parked)
        return left

    def block(self, parked: Parked, blocked: list[str]) -> list[str]:
        """Moves an order to the lines that block it now; its turn stays. Gives back the lines that it left."""
        left = [name for name in parked.blocked if name not in blocked]
        for name in left:
            self._leave(name, parked.ticket)
        for name in blocked:
            if name not in parked.blocked:
                insort(self.queues[name].blocked, parked.ticket)
        parked.blocked = blocked
        return left

    def remove(self, parked: Parked) -> list[str]:
        """Takes an order out. Gives back the lines in which it stood: whoever is behind it may go now."""
        left = self.block(parked, [])
        del self.parked[parked.order.id]
        self._unwatch(parked)
        return left

    def settled(self, account: str, at: float) -> None:
        """A hold on this account ended: whoever waits for it waits on."""
        queue = self.queues.get(account)
        if queue is not None:
            queue.settled_at = at

    def patience_ends_at(self, parked: Parked) -> float:
        """Until when this order waits: `wait_s` after the last hold of an account in its way ended."""
        since = max((self.queues[name].settled_at for name in parked.blocked), default=0.0)
        return max(parked.at, since) + parked.order.wait_s

    def clear(self) -> list[str]:
        """Sends everybody home; gives back their order ids."""
        sent = list(self.parked)
        self.parked.clear()
        self.queues.clear()
        return sent

    def _watch(self, parked: Parked) -> None:
        for name, charge in parked.charges.items():
            queue = self.queues.get(name)
            if queue is None:
                queue = self.queues[name] = Queue()
            queue.watch[parked.ticket] = parked
            queue.peak = max(queue.peak, charge.least if charge.clamp else charge.want)

    def _unwatch(self, parked: Parked) -> None:
        for name in parked.charges:
            queue = self.queues[name]
            del queue.watch[parked.ticket]
            if not queue.watch:
                del self.queues[name]

    def _leave(self, account: str, ticket: int) -> None:
        tickets = self.queues[account].blocked
        index = bisect_left(tickets, ticket)
        del tickets[index]
