"""A few values that outlive a process: the latest so many, as rows of a notebook.

Invariant: never more than `most`; the ones that were put longest ago go first, whatever order they are read back in.
What never enters: the notebook itself (rows come in, changed rows go out).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by name, under a prefix of their own."""

    def __init__(self, prefix: str, kind: type[T], most: int, rows: Iterable[tuple[str, bytes]] = ()) -> None:
        self._prefix = prefix
        self._most = most
        self._values: OrderedDict[str, tuple[int, T]] = OrderedDict()
        self._dirty: set[str] = set()
        decode = msgspec.msgpack.Decoder(tuple[int, kind]).decode  # type: ignore[valid-type]  # a type at run time
        found = [(key[len(prefix) :], decode(row)) for key, row in rows if key.startswith(prefix)]
        for name, value in sorted(found, key=lambda item: item[1][0]):
            self._values[name] = value
        self._next = max([order for _, (order, _) in found], default=0) + 1

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str) -> T | None:
        """What was put last under this name."""
        found = self._values.get(name)
        return None if found is None else found[1]

    def put(self, name: str, value: T) -> None:
        """Makes it the youngest; the oldest goes where there are too many."""
        self._values[name] = (self._next, value)
        self._values.move_to_end(name)
        self._next += 1
        self._dirty.add(name)
        if len(self._values) > self._most:
            self._dirty.add(self._values.popitem(last=False)[0])

    def drop(self, name: str) -> None:
        """Forgets it."""
        if self._values.pop(name, None) is not None:
            self._dirty.add(name)

    def changed(self) -> dict[str, bytes | None]:
        """Rows that differ from what was written last; after this they count as written."""
        found: dict[str, bytes | None] = {}
        for name in self._dirty:
            value = self._values.get(name)
            found[self._prefix + name] = None if value is None else msgspec.msgpack.encode(value)
        self._dirty.clear()
        return found
