"""What the gateway remembers of conversations, so that a call without any name is known again (design.md section 3, 6).

Invariant: tenants are kept apart; every map is bounded, and the run that was used least lately is forgotten first; a
call that could belong to several runs belongs to none of them. Only hashes, tool call ids and response ids are kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from gateway.core.likeness import Latest, Turn, after, asked_alike, said_in, seen_alike
from gateway.core.prose import MOST_BEGINNINGS, beginning, ids_in
from gateway.core.tools import fresh
from gateway.core.types import Call, Exchange, Lineage, Reply
from gateway.core.wire.history import fold

# An SDK repeats a failed call within seconds; the longest Retry-After that openai and anthropic obey is 60 s.
RETRY_S = 120.0
_CROWD = 256  # a key that so many runs share tells none of them apart, and must not cost time
_MOST_IDS = 64  # newest ids of a request that are looked up
_MOST_FIRSTS = 8  # conversations with different beginnings inside of one run, e.g. a lead and its workers
_MOST_TWINS = 16  # equal calls that have failed in different runs


class Match(Struct, frozen=True):
    """A run that a call continues, and by which link: chain, ids, prose, trimmed or likeness."""

    run_key: str
    how: str


class _Trail:
    """What one run has left in the maps of its tenant: needed to take it all out again."""

    __slots__ = ("house", "latest", "links", "run_key")

    def __init__(self, house: _House, run_key: str) -> None:
        self.house = house
        self.run_key = run_key
        self.links: deque[tuple[_Book, Any]] = deque()
        self.latest: dict[int, Latest] = {}  # by the first message of the conversation


_Pool = dict[_Trail, None]
_Found = _Trail | _Pool | None
_Book = dict[Any, _Trail | _Pool]  # one run in nearly all cases: the set is made for the second


class _House:
    """The maps of one tenant."""

    __slots__ = ("beginnings", "chains", "ids", "lasts", "name", "named", "trails")

    def __init__(self, name: str) -> None:
        self.name = name
        self.chains: _Book = {}  # chain hash after an answer
        self.ids: _Book = {}  # tool call id that was given out
        self.beginnings: set[bytes] = set()  # how those ids begin that count in prose too
        self.lasts: _Book = {}  # (first message, latest answer)
        self.named: _Book = {}  # response id or conversation id; one run each
        self.trails = 0


class Index:
    """Bounded memory of conversations. `note` learns from an answer, `find` knows a call again; both are pure."""

    def __init__(
        self, most_runs: int = 10_000, most_links: int = 200_000, most_per_run: int = 1_024, most_failed: int = 4_096
    ) -> None:
        self._most_runs = most_runs
        self._most_links = most_links
        self._most_per_run = most_per_run
        self._most_failed = most_failed
        self._houses: dict[str, _House] = {}
        self._trails: OrderedDict[tuple[str, str], _Trail] = OrderedDict()
        self._failed: OrderedDict[tuple[Any, ...], dict[str, float]] = OrderedDict()
        self._links = 0

    def __len__(self) -> int:
        """Runs that are remembered."""
        return len(self._trails)

    @property
    def links(self) -> int:
        """Entries that are remembered, over all runs."""
        return self._links

    @property
    def failures(self) -> int:
        """Calls without an answer whose repeat would be known."""
        return len(self._failed)

    def find(self, tenant: str, call: Call, body: bytes) -> Match | None:
        """The run whose conversation this call continues; None: none or several, so a new run.

        Each step is asked only if the one before names no run; where it names several, the next step narrows them.
        """
        house = self._houses.get(tenant)
        if house is None:
            return None
        line = call.lineage
        found: _Found
        found, how, whole = _by_chain(house, line), "chain", True
        if found is None:
            found, how, whole = _by_ids(house, line.ids), "ids", False
            if found is None and house.beginnings:
                found, how = _by_ids(house, ids_in(body, house.ids.keys(), house.beginnings)), "prose"
        if not isinstance(found, _Trail):
            found, how = _by_latest(house, line, found), "trimmed"
        if isinstance(found, dict):
            found, how = _alike(found, call, body, whole), "likeness"
        if found is None:
            return None
        self._trails.move_to_end((tenant, found.run_key))
        return Match(found.run_key, how)

    def note(self, tenant: str, run_key: str, call: Call, reply: Reply, at: float) -> None:
        """Learns from an answer, before its last byte leaves; where it said nothing, waits for a repeat (`retried`)."""
        if reply.response_id:
            self.own(tenant, reply.response_id, run_key)
        if reply.links or reply.tool_calls:
            turn = Turn(call.lineage, call.model, reply.links, reply.tool_calls, fresh(call))
            self._learn((tenant, run_key), turn)
        elif call.lineage.chain:
            self._fail((tenant, *_question(call.lineage, call.model, call.dialect)), run_key, at)

    def restore(self, exchange: Exchange) -> None:
        """Learns from the journal what `note` learned before a restart, or in another process; in their order."""
        line = exchange.lineage
        if line is None:
            return
        if line.chain and not exchange.links and not exchange.tool_calls:
            question = _question(line, exchange.request_model, exchange.dialect)
            self._fail((exchange.tenant, *question), exchange.run, exchange.ended_at)
        if exchange.outcome in ("refused", "upstream_error"):
            return
        if exchange.links or exchange.tool_calls:
            turn = Turn(line, exchange.request_model, exchange.links, exchange.tool_calls, exchange.results)
            self._learn((exchange.tenant, exchange.run), turn)
        for name in (exchange.response_id, line.previous):
            if name:
                self.own(exchange.tenant, name, exchange.run)

    def owner(self, tenant: str, name: str) -> str | None:
        """The run that gave out this response id, or that was the first to use it or this conversation id."""
        house = self._houses.get(tenant)
        trail = house.named.get(name) if house is not None else None
        return trail.run_key if isinstance(trail, _Trail) else None

    def own(self, tenant: str, name: str, run_key: str) -> None:
        """From now on calls that name this response or conversation belong to the run. The first owner stays."""
        trail = self._trail((tenant, run_key))
        if name not in trail.house.named:
            self._link(trail, trail.house.named, name)
            self._bound()

    def retried(self, tenant: str, call: Call, at: float) -> str | None:
        """The run of the same question that failed a moment ago; None where several runs failed with it."""
        twins = self._failed.get((tenant, *_question(call.lineage, call.model, call.dialect)))
        if not twins:
            return None
        recent = [run_key for run_key, failed_at in twins.items() if at - failed_at <= RETRY_S]
        if len(recent) != 1:
            return None
        del twins[recent[0]]
        return recent[0]

    def _learn(self, owner: tuple[str, str], turn: Turn) -> None:
        trail, line = self._trail(owner), turn.line
        house = trail.house
        at = line.chain[-1] if line.chain else 0
        for link in turn.links:
            at = fold(at, link)
            self._link(trail, house.chains, at)
        for tool in turn.tools:
            if tool.id and self._link(trail, house.ids, tool.id) and len(house.beginnings) <= MOST_BEGINNINGS:
                start = beginning(tool.id)
                if start is not None:
                    house.beginnings.add(start)
        if turn.links:
            _renew(trail, turn)
        self._bound()

    def _fail(self, question: tuple[Any, ...], run_key: str, at: float) -> None:
        twins = self._failed.setdefault(question, {})
        twins[run_key] = at
        if len(twins) > _MOST_TWINS:
            del twins[next(iter(twins))]
        self._failed.move_to_end(question)
        if len(self._failed) > self._most_failed:
            self._failed.popitem(last=False)

    def _trail(self, owner: tuple[str, str]) -> _Trail:
        trail = self._trails.get(owner)
        if trail is not None:
            self._trails.move_to_end(owner)
            return trail
        house = self._houses.get(owner[0])
        if house is None:
            house = self._houses[owner[0]] = _House(owner[0])
        trail = self._trails[owner] = _Trail(house, owner[1])
        house.trails += 1
        return trail

    def _link(self, trail: _Trail, book: _Book, key: Any) -> bool:
        if not _add(book, key, trail):
            return False
        trail.links.append((book, key))
        self._links += 1
        if len(trail.links) > self._most_per_run:
            _drop(*trail.links.popleft(), trail)
            self._links -= 1
        return True

    def _bound(self) -> None:
        while len(self._trails) > self._most_runs or (self._links > self._most_links and len(self._trails) > 1):
            (tenant, _), trail = self._trails.popitem(last=False)
            house = trail.house
            for book, key in trail.links:
                _drop(book, key, trail)
            for first, latest in trail.latest.items():
                _drop(house.lasts, (first, latest.answer), trail)
            self._links -= len(trail.links)
            house.trails -= 1
            if not house.trails:
                del self._houses[tenant]


def _question(line: Lineage, model: str, dialect: str) -> tuple[Any, ...]:
    """What a repeat has in common with its original: the whole conversation, and whom it asks."""
    return (line.chain[-1] if line.chain else 0, len(line.chain), line.system, model, dialect)


def _renew(trail: _Trail, turn: Turn) -> None:
    """The run's latest answer in the conversation that begins so."""
    lasts, first = trail.house.lasts, turn.line.first
    had = trail.latest.pop(first, None)
    if had is not None:
        _drop(lasts, (first, had.answer), trail)
    elif len(trail.latest) >= _MOST_FIRSTS:
        oldest = next(iter(trail.latest))
        _drop(lasts, (oldest, trail.latest.pop(oldest).answer), trail)
    now = trail.latest[first] = after(turn, had)
    _add(lasts, (first, now.answer), trail)


def _by_chain(house: _House, line: Lineage) -> _Found:
    """(a) The runs whose answer ends the longest part of this history."""
    chains, chain = house.chains, line.chain
    for position in reversed(line.answers):
        found = chains.get(chain[position])
        if found is None:
            continue
        if isinstance(found, dict) and position != line.answers[-1]:
            # (b) newer answers than the shared ones may tell them apart; where all are shared, their ids are too
            return _meet(found, _by_ids(house, line.ids)) or found
        return found
    return None


def _by_ids(house: _House, ids: Iterable[str]) -> _Found:
    """(b) All runs that gave out one of these tool call ids: real runs use an id again, within and between them."""
    found: _Pool = {}
    for name in list(ids)[-_MOST_IDS:]:
        holders = house.ids.get(name)
        if isinstance(holders, _Trail):
            found[holders] = None
        elif holders is not None and len(holders) <= _CROWD:
            found.update(holders)
    return _one(found)


def _by_latest(house: _House, line: Lineage, pool: _Pool | None) -> _Found:
    """(c) The runs whose latest answer is the last one quoted here, in a conversation that began the same."""
    last = house.lasts.get((line.first, line.last_answer)) if line.last_answer else None
    return last if pool is None else _meet(pool, last)


def _alike(pool: _Pool, call: Call, body: bytes, whole: bool) -> _Trail | None:
    """The one run that had seen the same tool results, and whose tool calls had the arguments that are quoted here."""
    if len(pool) > _CROWD:
        return None
    first = call.lineage.first
    known = [(trail, latest) for trail in pool if (latest := trail.latest.get(first)) and seen_alike(latest, call)]
    if len(known) > 1 and any(latest.asked for _, latest in known):
        said = said_in(body)
        known = [(trail, latest) for trail, latest in known if asked_alike(latest, said, whole)]
    return known[0][0] if len(known) == 1 else None


def _meet(pool: _Pool, other: _Found) -> _Found:
    if isinstance(other, _Trail):
        return other if other in pool else None
    if other is None:
        return None
    few, many = (pool, other) if len(pool) <= len(other) else (other, pool)
    return _one({trail: None for trail in few if trail in many}) if len(few) <= _CROWD else None


def _one(pool: _Pool) -> _Found:
    if len(pool) == 1:
        return next(iter(pool))
    return pool or None


def _add(book: _Book, key: Any, trail: _Trail) -> bool:
    had = book.get(key)
    if had is None:
        book[key] = trail
    elif had is trail or (isinstance(had, dict) and trail in had):
        return False
    elif isinstance(had, dict):
        had[trail] = None
    else:
        book[key] = {had: None, trail: None}
    return True


def _drop(book: _Book, key: Any, trail: _Trail) -> None:
    had = book.get(key)
    if had is trail:
        del book[key]
    elif isinstance(had, dict) and trail in had:
        del had[trail]
        if len(had) == 1:
            book[key] = next(iter(had))
