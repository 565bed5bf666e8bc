"""What the walk is made of: one value that the composition root fills and the pipeline reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct, field

from gateway.core.capture import Ear
from gateway.core.identify import Index
from gateway.core.kin import Kin
from gateway.core.learn import Learned
from gateway.core.live import Live
from gateway.core.ports import Clock, Prices, Rule, Store, Tokenizer, Upstream
from gateway.core.quote import Policy


class Parts(Struct, frozen=True):
    """Everything that one walk may use. `log(event, fields)` writes a line for refusals and errors only."""

    store: Store
    upstream: Upstream
    prices: Prices
    tokenizer: Tokenizer
    rules: Sequence[Rule]
    clock: Clock
    index: Index
    kin: Kin
    live: Live
    policy: Policy
    log: Callable[[str, dict[str, Any]], None]
    wait_s: float = 30.0
    learned: Learned = field(default_factory=Learned)
    capture: Ear | None = None  # who collects what calls say; None: nobody
    # with several processes: learns what the others answered, before a call that names no run is identified
    catch_up: Callable[[], Awaitable[None]] | None = None
    latest: Callable[[], Parts] | None = None  # what is in force by now: whoever isn't admitted yet goes by it

    def in_force(self) -> Parts:
        """The parts that calls are admitted by at this moment."""
        return self if self.latest is None else self.latest()
