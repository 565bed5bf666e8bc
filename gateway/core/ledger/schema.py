"""The ledger's tables as SQL text, and how the book's values become their rows and come back.

Invariant: the schema is changed only by appending a migration; `user_version` is the number of those applied, and a
file with a higher one is refused. Amounts are INTEGER nano-dollars (or the unit's own number), instants REAL epoch
seconds; what is only ever read whole lies as msgpack in `data`. What never enters: a connection, a decision.

Room for what comes: units and windows are part of an account's name; `instance` knows several processes; `content`
has captured messages (redacted, each once, by its text's hash); a projection keeps its cursor in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import msgspec

from gateway.core.ledger.book import Account, Book, Dirty, Hold, Row, Written, indexed_of
from gateway.core.ledger.shared import SharedLine
from gateway.core.types import Entry, Finding, Run

ROWS_MOST: Final = 64  # rows that one statement writes; 13 columns stay below SQLite's oldest limit of 999 values
APPLICATION_ID: Final = 0x4D425831  # "MBX1": tells our files from other SQLite databases

_FIRST: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE account (
    name TEXT PRIMARY KEY,
    spent INTEGER NOT NULL CHECK (spent >= 0),
    held INTEGER NOT NULL CHECK (held >= 0),
    open INTEGER NOT NULL CHECK (open >= 0),
    overrun INTEGER NOT NULL CHECK (overrun >= 0),
    lowered INTEGER NOT NULL,
    cap INTEGER,
    in_force INTEGER,
    closed TEXT,
    asked INTEGER
) WITHOUT ROWID;
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('held', 'settled', 'void', 'presumed')),
    run TEXT NOT NULL,
    instance TEXT NOT NULL,
    deadline_at REAL NOT NULL,
    tenant TEXT NOT NULL,
    response_id TEXT,
    data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservation_open ON reservation (run, deadline_at, instance) WHERE state = 'held';
CREATE INDEX reservation_late ON reservation (response_id, tenant) WHERE state = 'presumed' AND response_id IS NOT NULL;
CREATE TABLE ledger (
    seq INTEGER PRIMARY KEY,
    reservation TEXT,
    account TEXT NOT NULL,
    unit TEXT NOT NULL,
    kind TEXT NOT NULL,
    delta INTEGER NOT NULL,
    at REAL NOT NULL,
    note TEXT NOT NULL
);
CREATE TABLE run (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    parent TEXT,
    agent TEXT,
    user TEXT,
    started_at REAL NOT NULL,
    last_at REAL NOT NULL,
    data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX run_active ON run (key) WHERE state = 'active';
CREATE INDEX run_parent ON run (parent, state) WHERE parent IS NOT NULL;
CREATE INDEX run_started ON run (started_at, key);
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    run TEXT NOT NULL,
    call_id TEXT,
    data BLOB NOT NULL
);
CREATE INDEX journal_run ON journal (run, kind, seq);
CREATE TABLE finding (
    finding_id TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    call_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    at REAL NOT NULL,
    data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX finding_run ON finding (run, at);
CREATE TABLE instance (id TEXT PRIMARY KEY, lease_until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE content (hash BLOB PRIMARY KEY, first_call TEXT NOT NULL, at REAL NOT NULL, text TEXT NOT NULL)
    WITHOUT ROWID;
"""

# Units, windows and several processes. last: the order that used the account's last call; marks: thresholds that were
# recorded; ends_at: end of its window. parked: who waits, in all processes; a ticket is a place in line, blocks: the
# account stands in its way.
_SECOND: Final = """
ALTER TABLE account ADD COLUMN last TEXT;
ALTER TABLE account ADD COLUMN marks TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN ends_at REAL;
CREATE TABLE parked (
    ticket INTEGER NOT NULL,
    account TEXT NOT NULL,
    instance TEXT NOT NULL,
    blocks INTEGER NOT NULL,
    PRIMARY KEY (ticket, account)
) WITHOUT ROWID;
"""

# What was spent before the oldest row: one row of kind `carried` for an account. No other row is in this index.
_THIRD: Final = "CREATE UNIQUE INDEX ledger_carried ON ledger (account) WHERE kind = 'carried'"

# What was captured: found by its call, forgotten by its age. Neither index has a row where nothing is captured.
_FOURTH: Final = """
CREATE INDEX journal_content ON journal (call_id) WHERE kind = 'content' AND call_id IS NOT NULL;
CREATE INDEX content_at ON content (at);
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST, _SECOND, _THIRD, _FOURTH)
VERSION: Final = len(MIGRATIONS)

PUT_META: Final = "INSERT OR REPLACE INTO meta VALUES ('last_now', ?)"
PUT_LEASE: Final = "INSERT OR REPLACE INTO instance VALUES (?, ?)"
END_LEASES: Final = (  # an instance is forgotten once nothing is held in its name
    "DELETE FROM instance WHERE lease_until < ? AND id NOT IN (SELECT instance FROM reservation WHERE state = 'held')"
)

END_LINES: Final = "DELETE FROM parked WHERE instance NOT IN (SELECT id FROM instance WHERE lease_until >= ?)"
BURY: Final = ("DELETE FROM parked WHERE instance = ?", "DELETE FROM instance WHERE id = ?")
NEWS: Final = (  # what a process must know of the others' writes before it decides: the time, and who waits elsewhere
    "SELECT '', value, 0, 0 FROM meta WHERE name = 'last_now' UNION ALL"
    " SELECT account, min(CASE WHEN blocks THEN ticket END), max(ticket), count(*) FROM parked WHERE instance <> ?"
    " GROUP BY account"
)

Into = tuple[str, int, str]
# Head of each writing statement, columns of a row, tail. A batch writes many rows with one statement: every step
# lets go of the interpreter lock, and getting it back from a busy loop is what takes long.
INTO_ACCOUNT: Final = (  # in a batch half as dear as REPLACE, which takes a row out and puts it in again
    "INSERT INTO account VALUES ",
    13,
    " ON CONFLICT (name) DO UPDATE SET spent = excluded.spent, held = excluded.held, open = excluded.open,"
    " overrun = excluded.overrun, lowered = excluded.lowered, cap = excluded.cap, in_force = excluded.in_force,"
    " closed = excluded.closed, asked = excluded.asked, last = excluded.last, marks = excluded.marks,"
    " ends_at = excluded.ends_at",
)
INTO_RESERVATION: Final = ("INSERT OR REPLACE INTO reservation VALUES ", 8, "")
INTO_LEDGER: Final = ("INSERT INTO ledger (reservation, account, unit, kind, delta, at, note) VALUES ", 7, "")
INTO_RUN: Final = (
    "INSERT INTO run VALUES ",
    8,
    " ON CONFLICT (key) DO UPDATE SET state = excluded.state, parent = excluded.parent, agent = excluded.agent,"
    " user = excluded.user, last_at = excluded.last_at, data = excluded.data",
)
# A run whose columns in an index stand there already: naming them would write a page of each index again.
INTO_RUN_BESIDE: Final = (
    INTO_RUN[0],
    8,
    " ON CONFLICT (key) DO UPDATE SET last_at = excluded.last_at, data = excluded.data",
)
INTO_JOURNAL: Final = ("INSERT INTO journal (at, kind, run, call_id, data) VALUES ", 5, "")
INTO_FINDING: Final = ("INSERT OR IGNORE INTO finding VALUES ", 7, "")
INTO_CONTENT: Final = ("INSERT INTO content VALUES ", 4, " ON CONFLICT (hash) DO UPDATE SET at = excluded.at")
INTO_PARKED: Final = ("INSERT OR REPLACE INTO parked VALUES ", 4, "")
_FROM_PARKED: Final = (
    "DELETE FROM parked WHERE instance = ? AND ticket IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
)


def migrations_after(version: int) -> Iterator[str]:
    """Statements that bring a file of this schema number up to date."""
    for number in range(version, VERSION):
        yield from (statement for statement in MIGRATIONS[number].split(";") if statement.strip())
        yield f"PRAGMA user_version = {number + 1}"
        yield f"PRAGMA application_id = {APPLICATION_ID}"


_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_run_of = msgspec.msgpack.Decoder(Run).decode
_hold_of = msgspec.msgpack.Decoder(Hold).decode


def account_row(account: Account) -> Sequence[Any]:
    """Columns of `account`."""
    return msgspec.structs.astuple(account)


def hold_row(hold: Hold) -> Sequence[Any]:
    """Columns of `reservation`."""
    return (
        hold.id, hold.state, hold.run, hold.instance, hold.deadline_at, hold.tenant, hold.response_id, _encode(hold),
    )  # fmt: skip


def run_row(run: Run) -> Sequence[Any]:
    """Columns of `run`."""
    return (run.key, run.state, run.parent, run.agent, run.user, run.started_at, run.last_at, _encode(run))


def ledger_row(row: Row) -> Sequence[Any]:
    """Columns of `ledger` without its number."""
    return (row.hold, row.account, row.unit, row.kind, row.delta, row.at, row.note)


def journal_row(entry: Written) -> Sequence[Any]:
    """Columns of `journal` without its number."""
    return (entry.at, entry.kind, entry.run, entry.call_id, entry.data)


def finding_row(finding: Finding) -> Sequence[Any]:
    """Columns of `finding`."""
    return (
        finding.finding_id, finding.run, finding.call_id, finding.kind, finding.severity, finding.at, _encode(finding),
    )  # fmt: skip


def account_from(row: Sequence[Any]) -> Account:
    """An account from a whole row."""
    return Account(*row)


def hold_from(data: bytes) -> Hold:
    """A hold from its `data`."""
    return _hold_of(data)


def run_from(data: bytes) -> Run:
    """A run from its `data`."""
    return _run_of(data)


def statements_of(book: Book, dirty: Dirty) -> Iterator[tuple[str, Sequence[Any]]]:
    """What a batch changed, as few statements with their values."""
    if dirty.accounts:
        yield from _many(INTO_ACCOUNT, [account_row(book.accounts[name]) for name in sorted(dirty.accounts)])
    if dirty.holds:
        yield from _many(INTO_RESERVATION, [hold_row(book.holds[hold_id]) for hold_id in sorted(dirty.holds)])
    if dirty.runs:
        yield from _run_statements(book, [book.runs[key] for key in sorted(dirty.runs)])
    if dirty.rows:
        yield from _many(INTO_LEDGER, [ledger_row(row) for row in dirty.rows])
    if dirty.journal:
        yield from _many(INTO_JOURNAL, [journal_row(entry) for entry in dirty.journal])
    if dirty.findings:
        yield from _many(INTO_FINDING, [finding_row(finding) for finding in dirty.findings])
    if dirty.texts:
        yield from _many(INTO_CONTENT, [msgspec.structs.astuple(text) for text in dirty.texts])


def _run_statements(book: Book, runs: Sequence[Run]) -> Iterator[tuple[str, Sequence[Any]]]:
    moved: list[Sequence[Any]] = []
    beside: list[Sequence[Any]] = []
    for run in runs:
        indexed = indexed_of(run)
        (beside if book.indexed.get(run.key) == indexed else moved).append(run_row(run))
        book.indexed[run.key] = indexed
    for into, rows in ((INTO_RUN, moved), (INTO_RUN_BESIDE, beside)):
        if rows:
            yield from _many(into, rows)


def statements_of_line(instance: str, line: SharedLine) -> Iterator[tuple[str, Sequence[Any]]]:
    """What became of those who wait here."""
    if line.start_over:
        yield BURY[0], [instance]
        line.start_over = False
    gone, rows = line.take_untold()
    if gone:
        yield _FROM_PARKED, [instance, _encode_json(gone)]
    yield from _many(INTO_PARKED, [(ticket, account, instance, blocks) for ticket, account, blocks in rows])


def _many(into: Into, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Sequence[Any]]]:
    if len(rows) == 1:  # a lone operation
        yield _statement(into, 1), rows[0]
        return
    at = 0
    while at < len(rows):
        many = min(ROWS_MOST, 1 << ((len(rows) - at).bit_length() - 1))  # few lengths: statements stay prepared
        yield _statement(into, many), list(chain.from_iterable(rows[at : at + many]))
        at += many


@lru_cache(maxsize=64)  # seven tables, seven lengths
def _statement(into: Into, rows: int) -> str:
    head, columns, tail = into
    one = f"({', '.join('?' * columns)})"
    return head + ", ".join([one] * rows) + tail


def entry_from(row: Sequence[Any]) -> Entry:
    """A journal entry from a whole row."""
    return Entry(*row)
