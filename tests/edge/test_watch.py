"""Tests of edge/watch.py."""

from typing import Any

from gateway.edge.log import ERRORS
from gateway.edge.watch import AuditWatch, StoreWatch


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


async def test_an_audit_is_told_once_with_what_it_found():
    """Nothing between audits; a sound ledger in one short line; else an error with the first ten sentences."""
    said: list[tuple[str, dict[str, Any]]] = []
    results: list[list[str] | None] = [None, [], [f"I3 account {number}" for number in range(12)], None]
    watch = AuditWatch(lambda: results.pop(0), lambda event, fields: said.append((event, fields)))
    for _ in range(4):
        await watch.look()
    assert ["audited", "audit_failed"] == [event for event, _ in said]
    assert {"findings": 0} == said[0][1]
    assert 12 == said[1][1]["findings"] and 11 == len(said[1][1])
    assert "I3 account 0" == said[1][1]["finding_1"]
    assert "audit_failed" in ERRORS
