"""What this process remembers of the runs it has seen: parent, agent, user. Bounded; the store knows the rest."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import structs

from gateway.core.types import Run, RunFacts


class Kin:
    """A run's facts as first seen; a later call adds what was missing, and changes only what its key says."""

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._facts: OrderedDict[str, RunFacts] = OrderedDict()

    def __len__(self) -> int:
        return len(self._facts)

    def parent_of(self, key: str) -> str | None:
        """The parent's run key, as far as it is remembered here."""
        facts = self._facts.get(key)
        return facts.parent if facts is not None else None

    def seen(self, key: str) -> bool:
        """Is there no need to ask the store?"""
        return key in self._facts

    def merge(self, facts: RunFacts) -> RunFacts:
        """The run's facts with what was known before."""
        had = self._facts.get(facts.key)
        if had is None:
            self._facts[facts.key] = facts
            if len(self._facts) > self._most:
                self._facts.popitem(last=False)
            return facts
        self._facts.move_to_end(facts.key)
        if had is facts or (had.parent, had.agent, had.user) == (facts.parent, facts.agent, facts.user):
            return facts
        merged = structs.replace(
            facts,
            parent=had.parent or facts.parent,
            agent=facts.agent if "agent" in facts.fixed else had.agent or facts.agent,
            user=facts.user if "user" in facts.fixed else had.user or facts.user,
        )
        self._facts[facts.key] = merged
        return merged

    def learn(self, run: Run) -> None:
        """A run as the store knows it: what it says stands, whatever was thought here before."""
        had = self._facts.pop(run.key, None)
        self.merge(
            RunFacts(
                key=run.key,
                id=run.id,
                tenant=run.tenant,
                source=run.source,
                parent=run.parent,
                agent=run.agent,
                user=run.user,
            )
        )
        if had is not None:
            self.merge(had)
