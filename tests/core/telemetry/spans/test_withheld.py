"""What waits for content: bounds that the weaver's tests don't reach."""

from __future__ import annotations

import pytest

from gateway.core.telemetry.spans.withheld import WAIT_S, Withheld
from gateway.core.types import Exchange
from tests.core.telemetry.spans.spanning import World
from tests.ledgers import exchange


@pytest.mark.parametrize("later", [0.0, WAIT_S + 2])
async def test_an_old_backlog_waits_for_nothing(later):
    """Content is forgotten after days: a destination that was away that long gets its calls at once."""
    world = World()
    await world.call("c1", content=True)
    one = Withheld(world.store.reading(), world.notebook)
    entries = world.store.reading().entries(0)
    found = [entry.kind for entry in one.ready(entries, entries[-1].seq, world.clock.now() + later)]
    assert (["run"] if later == 0.0 else ["run", "call"]) == found
    assert ({"wait/R": b"1"} if later == 0.0 else {}) == one.changes()


async def test_nothing_is_looked_up_for_calls_that_were_not_captured():
    """`content` says whether an entry follows."""
    world = World()
    one = Withheld(world.store.reading(), world.notebook)
    odd: tuple[object, ...] = (None, False, {"input": []}, "x")
    for content in odd:
        told: Exchange = exchange("c1", 1, content=content)
        assert None is one.laid(told)
