"""Forgetting: what is too old leaves the ledger in small chunks, and every balance stays explained (ADR 0009).

What was captured of messages goes after SAID_S: a text when it was named last so long ago, and of its entry nothing
stays but the number, so that who reads the journal late doesn't take it for a gap.
Ended reservations go after HOLDS_S, journal entries and rows after ROWS_S; the rows of an account that go are added up
in one row of kind `carried`, so that what was spent is still the sum of its rows. Accounts of windows that ended ROWS_S
ago go once nothing but that sum explains them. Each chunk is one short transaction of the store's thread, begins with
the oldest and needs no memory of the chunks before it: a kill between two of them costs nothing.
Invariant: the audit is clean after every chunk; no hold, no run and no run's account is ever touched. What never
enters: a decision about money, a walk over what is not old.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

DAY_S: Final = 86_400.0
HOLDS_S: Final = 40 * DAY_S  # a month's invoice is booked on its calls, and comes days after the month
ROWS_S: Final = 90 * DAY_S
SAID_S: Final = 7 * DAY_S
TEXTS: Final = 64  # captured texts, which may have many pages each
CHUNK: Final = 500  # rows that one transaction looks at: a few milliseconds
ASK_S: Final = 60.0  # between two questions whether anything is old

Execute = Callable[[str, Sequence[Any]], sqlite3.Cursor]

# The oldest of each kind are first in their tables: ids of calls begin with their time, numbers rise. `held` is never
# old, and `carried` rows have negative numbers. Accounts are walked once a day, if the oldest run is old enough.
ANY_OLD: Final = """
SELECT EXISTS (SELECT 1 FROM (SELECT deadline_at FROM reservation ORDER BY id LIMIT 1) WHERE deadline_at < :holds)
    OR EXISTS (SELECT 1 FROM (SELECT at FROM ledger WHERE seq >= 0 ORDER BY seq LIMIT 1) WHERE at < :rows)
    OR EXISTS (SELECT 1 FROM (SELECT at FROM journal ORDER BY seq LIMIT 1) WHERE at < :rows)
    OR EXISTS (SELECT 1 FROM content WHERE at < :said)
    OR EXISTS (SELECT 1 FROM (SELECT at FROM journal WHERE kind = 'content' AND call_id > '' ORDER BY call_id LIMIT 1)
               WHERE at < :said)
    OR (:day > coalesce((SELECT value FROM meta WHERE name = 'walked_at'), 0)
        AND EXISTS (SELECT 1 FROM (SELECT started_at FROM run ORDER BY started_at LIMIT 1) WHERE started_at < :rows))
"""
WALKED: Final = "INSERT OR REPLACE INTO meta VALUES ('walked_at', ?)"

NEXT_HOLDS: Final = "SELECT id, deadline_at FROM reservation WHERE id > ? ORDER BY id LIMIT ?"
DROP_HOLDS: Final = "DELETE FROM reservation WHERE id > ? AND id <= ? AND state <> 'held' AND deadline_at < ?"

NEXT_ROWS: Final = "SELECT seq, at FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?"
# A row stays as long as its reservation: together they explain what a call was charged.
_LOOSE: Final = (
    "seq > :after AND seq <= :last AND at < :rows"
    " AND NOT EXISTS (SELECT 1 FROM reservation WHERE reservation.id = ledger.reservation)"
)
CARRY: Final = f"""
INSERT INTO ledger (seq, account, unit, kind, delta, at, note)
SELECT min(0, (SELECT min(seq) FROM ledger)) - row_number() OVER (), account, unit, 'carried', delta, at, ''
FROM (SELECT account, max(unit) AS unit, sum(delta) AS delta, max(at) AS at FROM ledger
      WHERE {_LOOSE} GROUP BY account HAVING sum(delta) <> 0)
WHERE true
ON CONFLICT (account) WHERE kind = 'carried' DO UPDATE SET delta = delta + excluded.delta, at = excluded.at
"""  # noqa: S608 - constants only
DROP_ROWS: Final = f"DELETE FROM ledger WHERE {_LOOSE}"  # noqa: S608 - constants only

NEXT_ENTRIES: Final = "SELECT seq, at FROM journal WHERE seq > ? ORDER BY seq LIMIT ?"
DROP_ENTRIES: Final = "DELETE FROM journal WHERE seq > ? AND seq <= ? AND at < ?"

DROP_TEXTS: Final = "DELETE FROM content WHERE hash IN (SELECT hash FROM content WHERE at < ? ORDER BY at LIMIT ?)"
NEXT_SAID: Final = "SELECT call_id, at FROM journal WHERE kind = 'content' AND call_id > ? ORDER BY call_id LIMIT ?"
EMPTY_SAID: Final = (  # an empty map in msgpack
    "UPDATE journal SET call_id = NULL, data = x'80' WHERE kind = 'content' AND call_id > ? AND call_id <= ? AND at < ?"
)

NEXT_ACCOUNTS: Final = "SELECT name FROM account WHERE name > ? AND name < ? ORDER BY name LIMIT ?"
# What was never written down, or only in rows that are still there, makes an account stay: I3.
SPENT_OUT: Final = """
SELECT name FROM account WHERE name > ? AND name <= ? AND ends_at < ? AND held = 0 AND open = 0
    AND spent = coalesce((SELECT delta FROM ledger WHERE kind = 'carried' AND ledger.account = account.name), 0)
"""
DROP_CARRIED: Final = (
    "DELETE FROM ledger WHERE kind = 'carried' AND account IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
)
DROP_ACCOUNTS: Final = "DELETE FROM account WHERE name IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
# Names of accounts with windows: all kinds but `run`, which lies between; '0' is the character after '/'.
RANGES: Final = (("", "run/"), ("run0", "\U0010ffff"))


class Keeper:
    """One chunk at a time, for `SqliteStore.chores`: each process has one, and each takes what is oldest."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._busy = False
        self._begin()

    def _begin(self) -> None:
        self._hold = ""
        self._row = -1  # below the first ordinary row, above the carried ones
        self._entry = 0
        self._said = ""
        self._range, self._account = 0, ""
        # rows wait for their reservations
        self._steps = [self._texts, self._contents, self._holds, self._rows, self._entries, self._accounts]

    def chore(self, execute: Execute, now: float) -> bool:
        """Forgets at most one chunk, in the caller's transaction. True: there may be more."""
        if not self._busy:
            if abs(now - self._asked_at) < ASK_S:
                return False
            self._asked_at = now
            asked = {"holds": now - HOLDS_S, "rows": now - ROWS_S, "day": now - DAY_S, "said": now - SAID_S}
            self._busy = bool(execute(ANY_OLD, asked).fetchone()[0])  # type: ignore[arg-type]  # named values
            self._begin()
            return self._busy
        while self._steps:
            if self._steps[0](execute, now):
                return True
            self._steps.pop(0)
        self._busy = False
        return False

    def _texts(self, execute: Execute, now: float) -> bool:
        return execute(DROP_TEXTS, (now - SAID_S, min(TEXTS, CHUNK))).rowcount > 0

    def _contents(self, execute: Execute, now: float) -> bool:
        before = now - SAID_S
        found = execute(NEXT_SAID, (self._said, CHUNK)).fetchall()
        if not any(at < before for _, at in found):
            return False
        execute(EMPTY_SAID, (self._said, found[-1][0], before))
        self._said = found[-1][0]
        return True

    def _holds(self, execute: Execute, now: float) -> bool:
        before = now - HOLDS_S
        found = execute(NEXT_HOLDS, (self._hold, CHUNK)).fetchall()
        if not any(deadline_at < before for _, deadline_at in found):
            return False
        execute(DROP_HOLDS, (self._hold, found[-1][0], before))
        self._hold = found[-1][0]
        return True

    def _rows(self, execute: Execute, now: float) -> bool:
        before = now - ROWS_S
        found = execute(NEXT_ROWS, (self._row, CHUNK)).fetchall()
        if not any(at < before for _, at in found):
            return False
        chunk: Any = {"after": self._row, "last": found[-1][0], "rows": before}
        execute(CARRY, chunk)
        execute(DROP_ROWS, chunk)
        self._row = found[-1][0]
        return True

    def _entries(self, execute: Execute, now: float) -> bool:
        before = now - ROWS_S
        found = execute(NEXT_ENTRIES, (self._entry, CHUNK)).fetchall()
        if not any(at < before for _, at in found):
            return False
        execute(DROP_ENTRIES, (self._entry, found[-1][0], before))
        self._entry = found[-1][0]
        return True

    def _accounts(self, execute: Execute, now: float) -> bool:
        if self._range == len(RANGES):
            execute(WALKED, (now,))
            return False
        first, end = RANGES[self._range]
        after = max(first, self._account)
        found = [name for (name,) in execute(NEXT_ACCOUNTS, (after, end, CHUNK))]
        if found:
            names = [name for (name,) in execute(SPENT_OUT, (after, found[-1], now - ROWS_S))]
            if names:
                doomed = (msgspec.json.encode(names),)
                execute(DROP_CARRIED, doomed)
                execute(DROP_ACCOUNTS, doomed)
            self._account = found[-1]
        if len(found) < CHUNK:
            self._range += 1
        return True
