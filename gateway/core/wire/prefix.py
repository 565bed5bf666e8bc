"""Reads arrays that grow from request to request: what stood there before is known by its bytes, only the rest is read.

A conversation of 200 KB is sent again with every step. Its bytes are hashed in blocks (10 us); the deepest block that
was seen before says what all elements up to there amount to, so the cost of a step is that of what is new in it.

Invariant: the same elements come out as if each had been read alone; what is kept is bounded, and holds no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from xxhash import xxh3_128_intdigest

from gateway.core.wire.body import read_list
from gateway.core.wire.history import Memo

T = TypeVar("T")

BLOCK_BYTES = 16 << 10
_MOST_KEPT = 1024
_SEED = (1 << 64) - 1
_BLANK = b" \t\r\n"


class Growing(Generic[T]):
    """What the elements of growing arrays amount to, read by whoever knows their layout."""

    __slots__ = ("_kept", "_known", "_memo", "_seed")

    def __init__(self, most: int = 16384, seed: int = 0, kept: int = _MOST_KEPT) -> None:
        self._memo: Memo[T] = Memo(most, seed)
        self._seed = seed
        self._kept = kept
        self._known: dict[int, tuple[int, tuple[T, ...]]] = {}  # end of the last element, and all up to it

    def __len__(self) -> int:
        return len(self._known)

    def read(self, raw: bytes, name: str, read: Callable[[bytes], T]) -> Sequence[T]:
        """Every element of a JSON array that is known to be well-formed. Raises Undecodable where it is no array."""
        look = self._memo.look
        if len(raw) < 2 * BLOCK_BYTES:
            return [look(item, read) for item in read_list(raw, name)]
        marks = self._marks(raw)
        end = 0
        known: tuple[T, ...] = ()
        for mark in reversed(marks):
            found = self._known.get(mark)
            if found is not None:
                end, known = found
                break
        start = _next(raw, end) if known else 0
        items = read_list(b"[" + raw[start:] if known else raw, name)
        fresh = [look(item, read) for item in items]
        end, count = _last_within(raw, start if known else 1, items, len(marks) * BLOCK_BYTES)
        everything = (*known, *fresh)
        if count:
            self._keep(marks[-1], end, everything[: len(known) + count])
        return everything

    def _marks(self, raw: bytes) -> list[int]:
        """One hash for each block that is full, of all bytes up to its end."""
        view, mark = memoryview(raw), self._seed
        marks = []
        for at in range(0, len(raw) - BLOCK_BYTES + 1, BLOCK_BYTES):
            mark = xxh3_128_intdigest(view[at : at + BLOCK_BYTES], mark & _SEED)
            marks.append(mark)
        return marks

    def _keep(self, mark: int, end: int, known: tuple[T, ...]) -> None:
        self._known.pop(mark, None)
        if len(self._known) >= self._kept:
            del self._known[next(iter(self._known))]
        self._known[mark] = (end, known)


def _next(raw: bytes, at: int) -> int:
    """Where the next element begins, or the closing bracket stands."""
    at = _past_blank(raw, at)
    return at + 1 if raw[at] == ord(",") else at


def _past_blank(raw: bytes, at: int) -> int:
    while raw[at] in _BLANK:
        at += 1
    return at


def _last_within(raw: bytes, at: int, items: Sequence[bytes], limit: int) -> tuple[int, int]:
    """The end of the last element that ends within the limit, and how many there are up to it."""
    end = count = 0
    for item in items:
        at = _past_blank(raw, at) + len(item)
        if at > limit:
            break
        end, count = at, count + 1
        at = _next(raw, at)
    return end, count
