"""Tests of edge/watch.py."""

from typing import Any

from gateway.edge.watch import StoreWatch


class Sick:
    """A store that says how it is."""

    def __init__(self) -> None:
        self.why: str | None = None

    def failed(self) -> str | None:
        return self.why


async def test_an_outage_is_told_once_and_its_end_too():
    """One line when the ledger fails, with the reason, and one when it works again."""
    said: list[tuple[str, dict[str, Any]]] = []
    store = Sick()
    watch = StoreWatch(store, lambda event, fields: said.append((event, fields)))  # type: ignore[arg-type]  # one method is asked
    await watch.look()
    assert said == []
    store.why = "disk full"
    await watch.look()
    await watch.look()
    store.why = None
    await watch.look()
    assert ["store_failed", "store_recovered"] == [event for event, _ in said]
    assert said[0][1]["why"] == "disk full"
