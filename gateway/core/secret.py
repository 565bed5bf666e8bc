"""A secret as an opaque value: what holds one may be printed, logged and compared, the text itself only on purpose.

Invariant: repr, str, format, pickles and error messages show `***`; only `reveal` gives the text away. What never
enters: where the text comes from (config reads files and environments), and any masking that shows a part of it.
"""

from __future__ import annotations

import hashlib
import hmac

_SHOWN = "***"


class Secret:
    """A credential in memory. Equality takes the same time wherever the texts begin to differ."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: call it only where it is sent or digested."""
        return self._text

    def __len__(self) -> int:
        """Length in bytes of UTF-8, which is what a least length is about."""
        return len(self._text.encode())

    def __repr__(self) -> str:
        return _SHOWN

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(hashlib.sha256(self._text.encode()).digest())

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret is not pickled or copied to anywhere")
