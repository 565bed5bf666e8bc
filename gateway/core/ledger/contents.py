"""What was captured of calls, in the ledger: an entry of the journal names a call's messages, each text is kept once.

Invariant: only redacted text comes here, and money never waits for it; a text that is gone (it was too old) leaves a
gap and says so. What never enters: reading a provider's format, redaction, a decision what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.core.ledger.book import Book, Text, whole
from gateway.core.types import Content

KIND: Final = "content"
LISTS: Final = ("system", "input", "output", "tools")

_decode = msgspec.msgpack.Decoder().decode
_read = msgspec.json.Decoder().decode


class Receipt:
    """A reply that nobody awaits: says where an operation could not be carried out."""

    __slots__ = ("_lost",)

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost

    def done(self) -> bool:
        """It still wants to know."""
        return False

    def set_result(self, _: object) -> None:
        """It is written."""

    def set_exception(self, _: BaseException) -> None:
        """It isn't, and won't be."""
        self._lost()


def size_of(content: Content) -> int:
    """About how many characters it takes to write this."""
    names = sum(len(getattr(content, name)) for name in LISTS)
    return 1_024 + 34 * names + sum(map(len, content.texts.values()))


def keep(book: Book, now: float, content: Content) -> None:
    """Writes the entry, or only texts that it will name; a text that is named again is young again."""
    if content.last:
        lists = {name: list(getattr(content, name)) for name in LISTS}
        said = {"call_id": content.call_id, **lists, "truncated": content.truncated, "rules": content.rules}
        book.write(now, KIND, whole(content.run), content.call_id, said)
    book.dirty.texts.extend(Text(name, content.call_id, now, text) for name, text in content.texts.items())


def named(entry: bytes) -> list[str]:
    """The hashes of all texts that an entry names."""
    said = _decode(entry)
    return [name for part in LISTS for name in said.get(part, ())]


def told(entry: bytes, texts: Mapping[str, str]) -> dict[str, Any]:
    """An entry with its texts: system is a list of parts, tools of definitions, input and output of messages."""
    said = _decode(entry)
    found: dict[str, Any] = {part: _values(said.get(part, ()), texts) for part in LISTS}
    found["system"] = [part for parts in found["system"] for part in parts]
    gaps = any(name not in texts for name in named(entry))
    return {**found, "truncated": bool(said.get("truncated")) or gaps, "rules": said.get("rules", 0)}


def _values(names: Sequence[str], texts: Mapping[str, str]) -> list[Any]:
    return [_read(texts[name]) for name in names if name in texts]
