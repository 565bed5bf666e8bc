"""Runs as pure functions; tests/contracts/test_store.py has them through the socket."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.ledger import runs
from gateway.core.ledger.book import Book
from gateway.core.types import Run
from tests.ledgers import exchange, facts


@pytest.mark.parametrize(("key", "tenant", "run_id"), [("R", "", "R"), ("team~R", "team", "R"), ("a~b~R", "a~b", "R")])
def test_a_bare_key_says_whose_it_is(key: str, tenant: str, run_id: str) -> None:
    """With virtual keys a run key is `key name~id`."""
    found = runs.facts_of(key)
    assert (key, tenant, run_id) == (found.key, found.tenant, found.id)


def test_a_circle_of_parents_is_never_made() -> None:
    """Not by itself, not over many generations; a tree deeper than can be followed gets no further parent."""
    book = Book("i")
    assert None is runs.make(book, facts("R", parent="R"), 0.0).parent
    for number in range(runs.ANCESTORS_MOST + 5):
        runs.make(book, facts(f"r{number}", parent=f"r{number + 1}"), 0.0)
    assert None is runs.make(book, facts("r64", parent="r0"), 0.0).parent or "r65" == book.runs["r64"].parent
    last = f"r{runs.ANCESTORS_MOST + 5}"
    assert None is runs.make(book, facts(last, parent="r0"), 0.0).parent


def test_telling_a_call_again_replaces_what_it_added() -> None:
    """The counters are sums of the latest word on each call."""
    run = Run("R", "R")
    first = runs.tally_of(exchange("c1", 100))
    runs.count(run, first, ())
    runs.count(run, runs.tally_of(exchange("c1", 30, outcome="upstream_error")), first)
    assert (1, 1, 30) == (run.calls, run.errors, run.own_spent_nusd)


def test_ends_are_told_once() -> None:
    """A repeat writes nothing; a killed run isn't ended by /end; an unknown one is None."""
    book = Book("i")
    runs.make(book, facts(), 0.0)
    for state in ("paused", "paused", "ended", "ended", "paused", "killed", "killed", "ended", "active", "active"):
        runs.end(book, 5.0, "R", state, None, "why")
    kinds = [(entry.kind, msgspec.msgpack.decode(entry.data)["state"]) for entry in book.dirty.journal]
    assert [
        ("run", "active"),
        ("transition", "paused"),
        ("end", "ended"),
        ("kill", "killed"),
        ("resume", "active"),
    ] == kinds
    assert (2, None) == (book.runs["R"].episode, book.runs["R"].ended_at)
    assert None is runs.end(book, 5.0, "nobody", "ended", None, None)


def test_an_outcome_that_was_given_is_kept() -> None:
    """The caller knows better than the rule for idle runs."""
    book = Book("i")
    runs.make(book, facts(), 0.0)
    run = runs.end(book, 5.0, "R", "ended", "gave_up", "tired")
    assert run is not None and ("gave_up", "tired", 5.0) == (run.outcome, run.reason, run.ended_at)
