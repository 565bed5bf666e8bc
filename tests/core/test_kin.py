"""Tests of core/kin.py."""

from gateway.core.kin import Kin
from gateway.core.types import Run, RunFacts


def facts(key: str, parent: str | None = None, agent: str | None = None) -> RunFacts:
    return RunFacts(key=key, id=key, tenant="", source="header", parent=parent, agent=agent)


def test_what_was_known_of_a_run_stays():
    """A later call without a parent still belongs under it (R-017)."""
    kin = Kin()
    kin.merge(facts("child", parent="root", agent="a"))
    again = kin.merge(facts("child"))
    assert again.parent == "root"
    assert again.agent == "a"
    assert kin.parent_of("child") == "root"


def test_a_later_call_adds_what_was_missing():
    """A parent that a later call names is learned."""
    kin = Kin()
    kin.merge(facts("child"))
    assert kin.merge(facts("child", parent="root")).parent == "root"


def test_the_first_parent_wins():
    """A run can't be moved to another purse."""
    kin = Kin()
    kin.merge(facts("child", parent="root"))
    assert kin.merge(facts("child", parent="rich")).parent == "root"


def test_what_the_key_says_stands():
    """An agent that a header named before its key named one is that of the key from then on; its user stays."""
    kin = Kin()
    kin.merge(RunFacts("r", "r", "k", "header", agent="free", user="u"))
    assert ("boxed", "u") == _who(kin.merge(RunFacts("r", "r", "k", "header", agent="boxed", user="v", fixed="agent")))
    assert ("boxed", "w") == _who(kin.merge(RunFacts("r", "r", "k", "header", agent="x", user="w", fixed="user")))
    kin.learn(Run(key="r", id="r", agent="free"))
    assert ("boxed", "w") == _who(kin.merge(RunFacts("r", "r", "k", "header", agent="boxed", fixed="agent")))


def _who(facts: RunFacts) -> tuple[str | None, str | None]:
    return facts.agent, facts.user


def test_memory_is_bounded():
    """The oldest run is forgotten first; the store still knows it."""
    kin = Kin(most=2)
    for key in ("a", "b", "c"):
        kin.merge(facts(key))
    assert len(kin) == 2
    assert not kin.seen("a")
    assert kin.seen("c")


def test_the_store_teaches_it():
    """A run from the store is known with its parent."""
    kin = Kin()
    kin.learn(Run(key="k", id="k", parent="p"))
    assert kin.parent_of("k") == "p"
