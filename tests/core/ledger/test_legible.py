"""Names with half surrogates: harmless everywhere in the ledger, and nothing else is touched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ledger.legible import legible_facts, legible_order
from gateway.core.types import Reservation
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import AnyStore, charge, exchange, facts, opened, order, sqlite

HALF = "a\ud800b"


def test_what_can_be_written_stays_as_it_is() -> None:
    """The very same object for plain names; letters of any language stay."""
    plain = order("c1", gates=("run/R",), about=("d", "p", "chat", "m", True))
    assert plain is legible_order(plain)
    assert plain.run is legible_facts(plain.run)
    greek = order("c1", charge("agent/λ/nusd"), run="日本", about=("d", "p", "chat", "ü", True))
    assert greek == legible_order(greek)


def test_half_a_letter_is_a_question_mark() -> None:
    """In every name that an order carries."""
    known = facts(HALF, agent=HALF, user=HALF, session=HALF, parent=HALF)
    made = legible_order(
        order("c1", charge(f"run/{HALF}/nusd"), gates=(f"run/{HALF}",), about=("d", "p", "chat", HALF, True), run=HALF)
    )
    assert ("run/a?b/nusd", ("run/a?b",), "a?b", "a?b") == (
        made.charges[0].account,
        made.gates,
        made.about[3],
        made.run.key,
    )
    assert facts("a?b", agent="a?b", user="a?b", session="a?b", parent="a?b") == legible_facts(known)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_no_name_fails_the_store(tmp_path: Path, kind: str) -> None:
    """Every word of the socket takes them, and they all mean the same run."""

    async def walk(store: AnyStore) -> None:
        await store.make_run(facts(HALF), 0.0)
        held = await store.reserve(
            order(
                "c1",
                charge(f"run/{HALF}/nusd"),
                run=HALF,
                gates=(f"run/{HALF}",),
                about=("d", "p", "chat", HALF, False),
            )
        )
        assert isinstance(held, Reservation)
        told: dict[str, Any] = {"run": HALF, "response_id": HALF}
        assert 7 == (await store.settle("c1/1", {"nusd": 7}, exchange("c1", 7, **told))).charged
        assert 2 == (await store.settle(None, None, exchange("c2", 0, "refused", **told))).step
        assert 9 == (await store.set_limit(f"run/{HALF}/nusd", 9)).limit
        await store.note("transition", HALF, {"to": HALF}, 0.0)
        assert None is await store.true_up(HALF, "", exchange("c3", 1))
        await store.close_account(f"agent/{HALF}", HALF)
        await store.open_account(f"agent/{HALF}")
        ended = await store.end_run(HALF, "killed", HALF, HALF, 0.0)
        assert ended is not None and ("a?b", "a?b", 1) == (ended.key, ended.reason, ended.calls)
        assert ended == await store.run("a?b") == await store.run(HALF)
        assert store.failed() is None
        assert [] == store.audit()

    async def both() -> None:
        clock = FakeClock()
        if kind == "memory":
            await walk(MemoryStore(clock.now))
        else:
            async with opened(sqlite(tmp_path, clock)) as store:
                await walk(store)

    asyncio.run(both())
