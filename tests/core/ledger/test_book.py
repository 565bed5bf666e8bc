"""The book: what it reads from its shelf, what it remembers as changed, what it forgets."""

from __future__ import annotations

import msgspec

from gateway.core.ledger.book import HELD, SETTLED, Account, Book, Hold, whole
from gateway.core.types import Run


class Cupboard:
    """A shelf with a few rows that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def account(self, name: str, /) -> Account | None:
        self.asked.append(name)
        return Account(name, spent=7) if name == "run/R/nusd" else None

    def hold(self, hold_id: str, /) -> Hold | None:
        self.asked.append(hold_id)
        return a_hold(hold_id) if hold_id == "c1/1" else None

    def run(self, key: str, /) -> Run | None:
        self.asked.append(key)
        return Run(key, key) if key == "R" else None

    def due(self, now: float, limit: int) -> list[str]:
        return []

    def held_by(self, instance: str, limit: int) -> list[str]:
        return []

    def idle(self, before: float, limit: int) -> list[str]:
        return []

    def below(self, run: str) -> list[str]:
        return []

    def presumed(self, response_id: str, tenant: str) -> str | None:
        return None


def a_hold(hold_id: str, state: str = HELD) -> Hold:
    return Hold(hold_id, hold_id[:-2], "R", "", 1, "i", state, 0.0, 9.0, [("run/R/nusd", "nusd")], {"nusd": 5})


def test_a_row_is_read_once() -> None:
    """An account that the shelf lacks is an empty one; what a prefetch did not find isn't asked for again."""
    book = Book("i", Cupboard())
    for _ in range(2):
        assert 7 == book.account("run/R/nusd").spent
        assert Account("new") == book.account("new")
        assert book.hold("c1/1") is not None
        assert book.run("R") is not None
    book.absent = {"c2/1"}
    assert None is book.hold("c2/1")
    assert isinstance(book.shelf, Cupboard)
    assert ["run/R/nusd", "new", "c1/1", "R"] == book.shelf.asked


def test_what_changed_is_taken_once() -> None:
    """After that the book is clean; dropping forgets what was not taken."""
    book = Book("i")
    assert not book.dirty
    book.write(1.0, "feedback", "R", None, {"score": 1})
    assert ["feedback"] == [entry.kind for entry in book.take_dirty().journal]
    assert not book.take_dirty()
    book.account("a").spent = 5
    book.dirty.accounts.add("a")
    book.absent.add("x")
    book.drop()
    assert (0, set(), False) == (book.account("a").spent, book.absent, bool(book.dirty))


def test_an_entry_is_written_as_it_was_told() -> None:
    """The caller may change its object afterwards; what no file can hold is tamed."""
    book = Book("i")
    told = {"n": 1}
    book.write(1.0, "feedback", "R", None, told)
    told["n"] = 2
    book.write(1.0, "feedback", "R", None, {"n": 10**40, "m": -(10**40), "s": "a\ud800", "l": [True, None, 1.5]})
    first, second = (msgspec.msgpack.decode(entry.data) for entry in book.take_dirty().journal)
    assert {"n": 1} == first
    assert {"n": 2**64 - 1, "m": -(2**63), "s": "a?", "l": [True, None, 1.5]} == second
    assert "é" == whole("é")


def test_rows_at_rest_are_let_go_first() -> None:
    """Open holds stay as long as they are few; all of it can be read again."""
    book = Book("i")
    book.holds = {f"c{n}/1": a_hold(f"c{n}/1", SETTLED) for n in range(20)} | {"open/1": a_hold("open/1")}
    book.accounts = {f"a{n}": Account(f"a{n}") for n in range(20)}
    book.trim(30)
    assert (21, 20) == (len(book.holds), len(book.accounts))
    for n in range(20):
        book.keep_run(Run(f"r{n}", f"r{n}"))
    book.trim(10)
    assert (["open/1"], {}) == (list(book.holds), book.accounts)
    assert ({}, {}) == (book.runs, book.indexed)


def test_thresholds_are_not_remembered_for_ever() -> None:
    """Where others write, rows go before they are many; what was told of them must not stay, a run each."""
    book = Book("i")
    for n in range(20):
        book.account(f"a{n}")
        book.marks[f"a{n}"] = ()
        book.drop()
        book.trim(10)
    assert len(book.marks) <= 10


def test_questions_to_a_book_without_a_shelf() -> None:
    """It looks through what it has in mind."""
    book = Book("i")
    book.holds = {"c1/1": a_hold("c1/1"), "c2/1": a_hold("c2/1", SETTLED)}
    assert (["c1/1"], []) == (book.shelf.due(9.1, 5), book.shelf.due(9.0, 5))
    assert (["c1/1"], []) == (book.shelf.held_by("i", 5), book.shelf.held_by("j", 5))
    book.runs = {"R": Run("R", "R", last_at=1.0), "Q": Run("Q", "Q", last_at=1.0)}
    assert ["Q"] == book.shelf.idle(2.0, 5)
    book.runs |= {"C": Run("C", "C", parent="R"), "D": Run("D", "D", parent="C")}
    assert (["C", "D"], []) == (book.shelf.below("R"), book.shelf.below("D"))
    assert None is book.shelf.presumed("resp", "")
