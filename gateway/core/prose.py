"""Finds tool call ids that were given out anywhere in the bytes of a later request, in prose too.

Invariant: only ids that were given out are found; cost is one scan of the body. Agents that write their calls into the
text (smolagents) send neither tool messages nor ids in fields (design.md section 3, 6b). What never enters: a run.
"""

from __future__ import annotations

from collections.abc import Collection, KeysView
from typing import Any

MOST_BEGINNINGS = 16  # a tenant whose ids begin in more ways has random ones: then every word is looked up
MOST_HITS = 1_000  # places that are looked at for each beginning, the newest first
_BEGINNING = 5  # `call_`, `toolu`, `chatcmpl-tool-`: providers begin all of theirs alike
_LONGEST = 128
_ID_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_WORDS = bytes(i if i in _ID_BYTES else 32 for i in range(256))
_DIGITS = frozenset("0123456789")


def beginning(name: str) -> bytes | None:
    """How an id begins; None for one that counts in fields only: below six characters or without a digit it would occur
    in any prose, and with other characters than these nobody knows where it ends."""
    if len(name) < 6 or len(name) > _LONGEST or not name.isascii() or _DIGITS.isdisjoint(name):
        return None
    raw = name.encode()
    return raw[:_BEGINNING] if b" " not in raw.translate(_WORDS) else None


def ids_in(body: bytes, ids: KeysView[Any], beginnings: Collection[bytes]) -> list[str]:
    """Those of `ids` that occur in a JSON text. `beginnings`: of all ids that may."""
    if len(beginnings) > MOST_BEGINNINGS:
        return [word for word in ids & _words(body) if beginning(word)]
    found: dict[str, None] = {}
    for start in beginnings:
        at, hits = body.rfind(start), 0
        while at >= 0 and hits < MOST_HITS:
            # what stands before is not looked at: in JSON it may be the letter of an escape, as in `\ncall_1`
            word = body[at : at + _LONGEST].translate(_WORDS).split(b" ", 1)[0].decode("ascii")
            if word in ids and beginning(word):
                found[word] = None
            at, hits = body.rfind(start, 0, at), hits + 1
    return list(found)


def _words(body: bytes) -> set[str]:
    if b"\\" in body:
        body = body.replace(b"\\n", b"  ").replace(b"\\t", b"  ").replace(b"\\r", b"  ")
        if b"\\u" in body:
            head, *tails = body.split(b"\\u")
            body = b" ".join([head, *(tail[4:] for tail in tails)])
    return set(body.translate(_WORDS).decode("ascii").split())
