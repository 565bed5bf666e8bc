"""Captured texts in the ledger: each once, named by entries; a gap where one is gone."""

from __future__ import annotations

import msgspec

from gateway.core.errors import StoreFailed
from gateway.core.ledger import contents
from gateway.core.ledger.book import Book
from gateway.core.types import Content

TEXTS = {
    "s": '[{"type":"text","content":"be brief"}]',
    "m": '{"role":"user","parts":[{"type":"text","content":"hi"}]}',
    "a": '{"role":"assistant","parts":[{"type":"text","content":"yes"}]}',
    "t": '{"type":"function","name":"add"}',
}
CONTENT = Content("c1", "r", ("s",), ("m", "m"), ("a",), ("t",), rules=1, texts=TEXTS)


def test_an_entry_names_its_texts_and_comes_back_whole() -> None:
    """System is a list of parts; a message that was said twice is named twice and kept once."""
    book = Book("i")
    contents.keep(book, 5.0, CONTENT)
    dirty = book.take_dirty()
    assert bool(dirty)
    (entry,) = dirty.journal
    assert (5.0, "content", "r", "c1") == (entry.at, entry.kind, entry.run, entry.call_id)
    assert TEXTS == {text.hash: text.text for text in dirty.texts}
    assert {("c1", 5.0)} == {(text.first_call, text.at) for text in dirty.texts}
    assert sorted("smmat") == sorted(contents.named(entry.data))
    message = msgspec.json.decode(TEXTS["m"])
    assert {
        "system": [{"type": "text", "content": "be brief"}], "input": [message, message],
        "output": [msgspec.json.decode(TEXTS["a"])], "tools": [{"type": "function", "name": "add"}],
        "truncated": False, "rules": 1,
    } == contents.told(entry.data, TEXTS)  # fmt: skip


def test_a_text_that_is_gone_leaves_a_gap_and_says_so() -> None:
    """Whoever reads late sees that something is missing; an emptied entry says nothing."""
    book = Book("i")
    contents.keep(book, 5.0, CONTENT)
    (entry,) = book.take_dirty().journal
    told = contents.told(entry.data, {name: text for name, text in TEXTS.items() if name != "m"})
    assert ([], True) == (told["input"], told["truncated"])
    assert {"system": [], "input": [], "output": [], "tools": [], "truncated": False, "rules": 0} == contents.told(
        b"\x80", {}
    )


def test_a_receipt_tells_of_what_was_not_written() -> None:
    """And only of that."""
    lost: list[int] = []
    receipt = contents.Receipt(lambda: lost.append(1))
    assert not receipt.done()
    receipt.set_result(None)
    assert [] == lost
    receipt.set_exception(StoreFailed("no"))
    assert [1] == lost
