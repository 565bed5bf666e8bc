"""How the ledger is asked by its readers: over SQL rows, or over a book in memory.

Invariant: reads only, and only what is committed; `amend` and `correct` entries are laid over the calls they concern.
What never enters: a connection (a `query` function comes in), HTTP, formatting of amounts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.core.ledger import contents
from gateway.core.ledger.book import HELD, Account, Book, Hold
from gateway.core.ledger.schema import account_from, entry_from, hold_from, run_from
from gateway.core.ports import OpenCall, RunFilter, Standing
from gateway.core.types import Balance, Entry, Exchange, Finding, Run

Query = Callable[[str, Sequence[Any]], list[Any]]

_decode = msgspec.msgpack.Decoder().decode
_exchange = msgspec.msgpack.Decoder(Exchange).decode
_finding = msgspec.msgpack.Decoder(Finding).decode
_encode_json = msgspec.json.Encoder().encode
_STANDINGS: Final = "SELECT * FROM account WHERE name IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
_MANY_ACCOUNTS: Final = "SELECT * FROM account WHERE name IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
_OPEN_CALLS: Final = (  # reservation_open begins with the run
    "SELECT data FROM reservation WHERE state = 'held' AND run IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
)
_ENDS: Final = (  # each by itself is one step down the tree, both in one SELECT would read all of it
    "SELECT coalesce((SELECT min(seq) FROM journal), 0), coalesce((SELECT max(seq) FROM journal), 0)"
)
# The plus keeps it from walking a long run by journal_run.
_CONTENT: Final = "SELECT data FROM journal WHERE kind = 'content' AND call_id = ? AND +run = ?"
_TEXTS: Final = "SELECT hash, text FROM content WHERE hash IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
_ACTIVE: Final = (  # run_active holds the live ones only
    "SELECT agent, count(*) FROM (SELECT agent FROM run WHERE state = 'active' LIMIT ?) GROUP BY agent"
)
_SORTS: Final = {"started_at": "r.started_at", "last_at": "r.last_at", "spent": "coalesce(a.spent, 0)"}


def purse_of(key: str) -> str:
    """The account that shows what a run and its descendants spent."""
    return f"run/{key}/nusd"


def after_run(run: Run) -> str:
    """The cursor of a page of runs, the newest first, that ended with this one."""
    return f"{run.started_at!r}|{run.key}"


def laid_over(call: bytes, amends: Sequence[bytes]) -> Exchange:
    """A call with what was learnt of it later."""
    if not amends:
        return _exchange(call)
    whole = _decode(call)
    for amend in amends:
        whole.update(_decode(amend))
    return msgspec.convert(whole, Exchange)


class SqlReading:
    """Reading over the tables of `schema`."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def runs(
        self, wanted: RunFilter, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[tuple[Run, Balance]], str | None]:
        """See `ports.Reading`."""
        column, falling = _order_of(wanted.sort)
        sql = f"SELECT {column}, r.data, a.* FROM run r LEFT JOIN account a ON a.name = 'run/' || r.key || '/nusd'"  # noqa: S608 - column is one of _SORTS
        where, values = _conditions(wanted)
        if cursor is not None:
            value, key = _read_cursor(cursor)
            where.append(f"({column}, r.key) {'<' if falling else '>'} (?, ?)")
            values += [value, key]
        if where:
            sql += " WHERE " + " AND ".join(where)
        turn = "DESC" if falling else "ASC"
        rows = self._query(f"{sql} ORDER BY {column} {turn}, r.key {turn} LIMIT ?", [*values, limit + 1])
        found = [(run_from(row[1]), row) for row in rows[:limit]]
        items = [(run, _purse(run.key, row[2:])) for run, row in found]
        last = f"{found[-1][1][0]!r}|{found[-1][0].key}" if len(rows) > limit else None
        return items, last

    def get_run(self, key: str) -> tuple[Run, Balance] | None:
        """See `ports.Reading`."""
        rows = self._query(
            "SELECT r.data, a.* FROM run r LEFT JOIN account a ON a.name = ? WHERE r.key = ?", [purse_of(key), key]
        )
        return (run_from(rows[0][0]), _purse(key, rows[0][1:])) if rows else None

    def children(self, key: str) -> list[str]:
        """See `ports.Reading`."""
        return [row[0] for row in self._query("SELECT key FROM run WHERE parent = ? ORDER BY key", [key])]

    def active(self, most: int) -> dict[str | None, int]:
        """See `ports.Reading`."""
        return dict(self._query(_ACTIVE, (most,)))

    def calls(self, run: str, limit: int = 100, cursor: str | None = None) -> tuple[list[Exchange], str | None]:
        """See `ports.Reading`."""
        rows = self._query(
            "SELECT seq, call_id, data FROM journal WHERE run = ? AND kind = 'call' AND seq > ? ORDER BY seq LIMIT ?",
            [run, _read_seq(cursor), limit + 1],
        )
        later = self._query(
            "SELECT call_id, data FROM journal WHERE run = ? AND kind IN ('amend', 'correct') ORDER BY seq", [run]
        )
        amends: dict[str, list[bytes]] = {}
        for call_id, data in later:
            amends.setdefault(call_id, []).append(data)
        items = [laid_over(data, amends.get(call_id, ())) for _, call_id, data in rows[:limit]]
        return items, str(rows[limit - 1][0]) if len(rows) > limit else None

    def entries(self, after_seq: int, run: str | None = None, limit: int = 100) -> list[Entry]:
        """See `ports.Reading`."""
        if run is None:
            rows = self._query("SELECT * FROM journal WHERE seq > ? ORDER BY seq LIMIT ?", [after_seq, limit])
        else:
            rows = self._query(
                "SELECT * FROM journal WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?", [run, after_seq, limit]
            )
        return [entry_from(row) for row in rows]

    def newest(self, most: int) -> list[Entry]:
        """See `ports.Reading`."""
        rows = self._query("SELECT * FROM journal WHERE kind = 'call' ORDER BY seq DESC LIMIT ?", [most])
        return [entry_from(row) for row in reversed(rows)]

    def call_before(self, run: str, call_id: str, seq: int) -> Exchange | None:
        """See `ports.Reading`."""
        rows = self._query(
            "SELECT data FROM journal WHERE run = ? AND kind IN ('call', 'amend', 'correct') AND call_id = ?"
            " AND seq < ? ORDER BY seq",
            [run, call_id, seq],
        )
        return laid_over(rows[0][0], [row[0] for row in rows[1:]]) if rows else None

    def content(self, call_id: str, run: str) -> dict[str, Any] | None:
        """See `ports.Reading`."""
        rows = self._query(_CONTENT, (call_id, run))
        if not rows:
            return None
        texts = self._query(_TEXTS, (_encode_json(contents.named(rows[-1][0])),))
        return contents.told(rows[-1][0], dict(texts))

    def ends(self) -> tuple[int, int]:
        """See `ports.Reading`."""
        rows = self._query(_ENDS, ())
        return rows[0][0], rows[0][1]

    def account(self, name: str) -> Balance | None:
        """See `ports.Reading`."""
        rows = self._query("SELECT * FROM account WHERE name = ?", [name])
        return account_from(rows[0]).balance() if rows and _counts(account_from(rows[0])) else None

    def accounts(
        self, kind: str, limit: int = 100, cursor: str | None = None, now: float = 0.0
    ) -> tuple[list[Standing], str | None]:
        """See `ports.Reading`."""
        # '0' is the character after '/': every name that begins with `kind/` lies between
        rows = self._query(
            "SELECT * FROM account WHERE name > ? AND name < ?"
            " AND (in_force IS NOT NULL OR spent > 0 OR held > 0)"
            " AND (ends_at IS NULL OR ends_at > ? OR held > 0) ORDER BY name LIMIT ?",
            [cursor or f"{kind}/", f"{kind}0", now, limit + 1],
        )
        items = [_standing(account_from(row)) for row in rows[:limit]]
        return items, items[-1].account if len(rows) > limit else None

    def standings(self, names: Sequence[str]) -> dict[str, Standing]:
        """See `ports.Reading`."""
        accounts = map(account_from, self._query(_STANDINGS, (_encode_json(names),)))
        return {account.name: _standing(account) for account in accounts if _counts(account)}

    def open_calls(self, runs: Sequence[str], limit: int = 100) -> list[OpenCall]:
        """See `ports.Reading`."""
        rows = self._query(_OPEN_CALLS, (_encode_json(runs),))
        return _open([hold_from(row[0]) for row in rows], limit)

    def findings(self, run: str, limit: int = 100) -> list[Finding]:
        """See `ports.Reading`."""
        rows = self._query("SELECT data FROM finding WHERE run = ? ORDER BY at LIMIT ?", [run, limit])
        return [_finding(row[0]) for row in rows]


class BookReading:
    """Reading over a book that has everything in mind, and the journal that was written from it."""

    def __init__(
        self, book: Book, journal: Sequence[Entry], findings: Sequence[Finding], texts: Mapping[str, str] | None = None
    ) -> None:
        self._texts = {} if texts is None else texts
        self._book = book
        self._journal = journal
        self._findings = findings

    def runs(
        self, wanted: RunFilter, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[tuple[Run, Balance]], str | None]:
        """See `ports.Reading`."""
        _, falling = _order_of(wanted.sort)
        name = wanted.sort.lstrip("-")
        kept = [pair for pair in map(self._pair, list(self._book.runs.values())) if _fits(wanted, pair[0])]
        ranked = sorted(((_rank(name, pair), pair[0].key), pair) for pair in kept)
        if falling:
            ranked.reverse()
        if cursor is not None:
            at = _read_cursor(cursor)
            ranked = [entry for entry in ranked if (entry[0] < at if falling else entry[0] > at)]
        page = ranked[:limit]
        last = f"{page[-1][0][0]!r}|{page[-1][0][1]}" if len(ranked) > limit else None
        return [pair for _, pair in page], last

    def _pair(self, run: Run) -> tuple[Run, Balance]:
        account = self._book.accounts.get(purse_of(run.key))
        return run, account.balance() if account is not None else Balance(purse_of(run.key), None, 0, 0)

    def get_run(self, key: str) -> tuple[Run, Balance] | None:
        """See `ports.Reading`."""
        run = self._book.runs.get(key)
        return None if run is None else self._pair(run)

    def children(self, key: str) -> list[str]:
        """See `ports.Reading`."""
        return sorted(run.key for run in list(self._book.runs.values()) if run.parent == key)

    def active(self, most: int) -> dict[str | None, int]:
        """See `ports.Reading`."""
        live = [run.agent for run in list(self._book.runs.values()) if run.state == "active"]
        return dict(Counter(live[:most]))

    def calls(self, run: str, limit: int = 100, cursor: str | None = None) -> tuple[list[Exchange], str | None]:
        """See `ports.Reading`."""
        after = _read_seq(cursor)
        mine = [entry for entry in self._journal if entry.run == run]
        calls = [entry for entry in mine if entry.kind == "call" and entry.seq > after]
        items = [
            laid_over(call.data, [e.data for e in mine if e.call_id == call.call_id and e.kind in {"amend", "correct"}])
            for call in calls[:limit]
        ]
        return items, str(calls[limit - 1].seq) if len(calls) > limit else None

    def entries(self, after_seq: int, run: str | None = None, limit: int = 100) -> list[Entry]:
        """See `ports.Reading`."""
        return [entry for entry in self._journal[after_seq:] if run is None or entry.run == run][:limit]

    def newest(self, most: int) -> list[Entry]:
        """See `ports.Reading`."""
        return [entry for entry in self._journal if entry.kind == "call"][-most:]

    def call_before(self, run: str, call_id: str, seq: int) -> Exchange | None:
        """See `ports.Reading`."""
        mine = [e for e in self._journal if e.call_id == call_id and e.run == run and e.seq < seq]
        told = [e.data for e in mine if e.kind in {"call", "amend", "correct"}]
        return laid_over(told[0], told[1:]) if told else None

    def content(self, call_id: str, run: str) -> dict[str, Any] | None:
        """See `ports.Reading`."""
        found = [e.data for e in self._journal if (e.kind, e.call_id, e.run) == (contents.KIND, call_id, run)]
        return contents.told(found[-1], self._texts) if found else None

    def ends(self) -> tuple[int, int]:
        """See `ports.Reading`."""
        return (self._journal[0].seq, self._journal[-1].seq) if self._journal else (0, 0)

    def account(self, name: str) -> Balance | None:
        """See `ports.Reading`."""
        account = self._book.accounts.get(name)
        return account.balance() if account is not None and _counts(account) else None

    def accounts(
        self, kind: str, limit: int = 100, cursor: str | None = None, now: float = 0.0
    ) -> tuple[list[Standing], str | None]:
        """See `ports.Reading`."""
        first = cursor or f"{kind}/"
        kept = [a for a in list(self._book.accounts.values()) if _counts(a) and first < a.name < f"{kind}0"]
        kept = [a for a in kept if a.ends_at is None or a.ends_at > now or a.held > 0]
        items = [_standing(account) for account in sorted(kept, key=lambda account: account.name)[:limit]]
        return items, items[-1].account if len(kept) > limit else None

    def standings(self, names: Sequence[str]) -> dict[str, Standing]:
        """See `ports.Reading`."""
        found = (self._book.accounts.get(name) for name in names)
        return {a.name: _standing(a) for a in found if a is not None and _counts(a)}

    def open_calls(self, runs: Sequence[str], limit: int = 100) -> list[OpenCall]:
        """See `ports.Reading`."""
        return _open([h for h in list(self._book.holds.values()) if h.state == HELD and h.run in runs], limit)

    def findings(self, run: str, limit: int = 100) -> list[Finding]:
        """See `ports.Reading`."""
        return [finding for finding in self._findings if finding.run == run][:limit]


def _counts(account: Account) -> bool:
    """A gate (open or closed, nothing else) is no budget."""
    return account.limit is not None or account.spent > 0 or account.held > 0


def _standing(account: Account) -> Standing:
    known = account.balance()
    return Standing(known.account, known.limit, known.spent, known.held, known.overrun, account.cap, account.ends_at)


def _open(holds: list[Hold], limit: int) -> list[OpenCall]:
    holds.sort(key=lambda hold: (hold.created_at, hold.id))
    return [
        OpenCall(hold.call_id, hold.run, hold.about[3], hold.created_at, hold.deadline_at, dict(hold.held))
        for hold in holds[:limit]
    ]


def _read_seq(cursor: str | None) -> int:
    """The number behind which a page begins; what we gave is plain digits."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise ValueError("the cursor is not one that a page gave")
    return int(cursor)


def _order_of(sort: str) -> tuple[str, bool]:
    column = _SORTS.get(sort.removeprefix("-"))
    if column is None:
        raise ValueError(f"sort is one of {', '.join(_SORTS)}, with - in front for falling; not {sort!r}")
    return column, sort.startswith("-")


def _read_cursor(cursor: str) -> tuple[float, str]:
    value, bar, key = cursor.partition("|")
    if not bar:
        raise ValueError("the cursor is not one that a page gave")
    return (float(value) if "." in value or "e" in value else int(value)), key


def _conditions(wanted: RunFilter) -> tuple[list[str], list[Any]]:
    given = {"state": wanted.state, "agent": wanted.agent, "user": wanted.user, "parent": wanted.parent}
    where = [f"r.{name} = ?" for name, value in given.items() if value is not None]
    values: list[Any] = [value for value in given.values() if value is not None]
    if wanted.since is not None:
        where.append("r.started_at >= ?")
        values.append(wanted.since)
    return where, values


def _fits(wanted: RunFilter, run: Run) -> bool:
    given = {"state": wanted.state, "agent": wanted.agent, "user": wanted.user, "parent": wanted.parent}
    if any(value is not None and getattr(run, name) != value for name, value in given.items()):
        return False
    return wanted.since is None or run.started_at >= wanted.since


def _rank(name: str, pair: tuple[Run, Balance]) -> float:
    run, purse = pair
    return purse.spent if name == "spent" else getattr(run, name)


def _purse(key: str, row: Sequence[Any]) -> Balance:
    return account_from(row).balance() if row[0] is not None else Balance(purse_of(key), None, 0, 0)
