"""Names of accounts are read back as they were spelled."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from gateway.core.ledger.names import Name, read, spell


@given(st.sampled_from(["agent", "user", "key"]), st.text(min_size=1), st.sampled_from(["nusd", "calls"]))
def test_any_owner_is_read_back(kind: str, owner: str, unit: str) -> None:
    """An agent may be called a/b, or even 100%."""
    assert Name(kind, owner, unit) == read(spell(kind, owner, unit))
    assert Name(kind, owner, unit, "2026-11-20") == read(spell(kind, owner, unit) + "/2026-11-20")


def test_two_owners_never_share_an_account() -> None:
    """What is escaped can't be mistaken for what was there."""
    assert spell("agent", "a%2Fb", "nusd") != spell("agent", "a/b", "nusd")


def test_a_gate_has_no_unit() -> None:
    """run/R is the gate of a run, global the gate of all."""
    assert Name("run", "R", "") == read("run/R")
    assert Name("global", "", "") == read("global")
