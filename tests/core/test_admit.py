"""Tests of core/admit.py."""

from __future__ import annotations

from gateway.core.admit import admit, gates
from gateway.core.ports import Rule
from gateway.core.presets import PRESETS
from gateway.core.quote import Ask, Quote
from gateway.core.types import Call, Charge, Exchange, Grant, Labels, Pending, Refusal, RunFacts

RUN = RunFacts(key="r", id="r", tenant="", source="header", agent="a", user="u")
ASK = Ask(Call("d", PRESETS["openai"], "metered"), RUN, ("p", "g"), Labels(), Quote(card=None), 0.0)
NO = Refusal(403, "tool_denied", "no")
WAIT = Pending("ask a person", 1.0)


def charge(name: str) -> list[Charge]:
    return [Charge(f"run/{name}/nusd", "nusd", 1, 1)]


class Says:
    """A rule with one answer."""

    def __init__(self, said: Refusal | Pending | list[Charge]) -> None:
        self.said = said
        self.asked = 0

    def check(self, ask: Ask) -> Refusal | Pending | list[Charge]:
        assert ask is ASK
        self.asked += 1
        return self.said

    def note(self, exchange: Exchange) -> None:
        raise AssertionError("admission learns nothing")


def rules(*said: Refusal | Pending | list[Charge]) -> list[Rule]:
    return [Says(one) for one in said]


def test_without_rules_a_call_goes():
    """Nothing asked, nothing to hold."""
    assert Grant(()) == admit((), ASK)


def test_all_charges_are_held_together_in_the_order_of_the_rules():
    """One grant carries what every rule wants held, so that it is held in one step (ledger.md P1)."""
    assert Grant((*charge("a"), *charge("b"))) == admit(rules(charge("a"), charge("b")), ASK)


def test_the_first_refusal_wins_and_ends_the_asking():
    """A later rule isn't asked any more: it might learn from a call that never was."""
    later = Says(charge("b"))
    assert NO is admit([*rules(charge("a"), NO), later], ASK)
    assert 0 == later.asked


def test_a_refusal_outranks_a_person():
    """Nobody is asked about a call that is refused anyway."""
    assert NO is admit(rules(WAIT, NO), ASK)


def test_a_person_outranks_a_grant():
    """Charges don't let a call go that waits for a person, and the first who asks is the one."""
    assert WAIT is admit(rules(charge("a"), WAIT, Pending("again", 9.0), charge("b")), ASK)


def test_a_kill_may_close_any_gate_of_a_call():
    """Run, ancestors nearest first, agent, user, everything (R-084)."""
    assert ("run/r", "run/p", "run/g", "agent/a", "user/u", "global") == gates(ASK)


def test_a_call_without_names_has_only_its_runs_gates():
    """No agent and no user: no gate for them."""
    bare = Ask(ASK.call, RunFacts("k~r", "r", "k", "path"), (), Labels(), ASK.quote, 0.0)
    assert ("run/k~r", "global") == gates(bare)
