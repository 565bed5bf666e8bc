"""Claims about tool call ids that are found in the bytes of a request."""

from __future__ import annotations

from gateway.core.prose import MOST_BEGINNINGS, MOST_HITS, beginning, ids_in


def found(body: bytes, *names: str) -> list[str]:
    ids = dict.fromkeys(names)
    return sorted(ids_in(body, ids.keys(), {start for name in names if (start := beginning(name))}))


def test_both_ways_of_looking_find_the_same() -> None:
    """A few known beginnings, or every word where ids are random."""
    body = b'{"a":"\\ncall_1x and (toolu_9) \\u0027aB3dE6gH9\\u0027, call_1"}'
    names = ("call_1x", "toolu_9", "aB3dE6gH9", "call_2x")
    many = [f"{number:05d}x" for number in range(MOST_BEGINNINGS + 1)]
    assert ["aB3dE6gH9", "call_1x", "toolu_9"] == found(body, *names) == found(body, *names, *many)


def test_only_what_looks_like_an_id_counts_in_prose() -> None:
    """Six characters, a digit, letters and digits and - _ only."""
    assert [None] * 4 == [beginning(name) for name in ("call1", "callback", "functions.run:0", "cäll_123")]
    assert [] == found(b'"call1 callback"', "call1", "callback")


def test_places_are_bounded() -> None:
    """A body full of beginnings costs a bounded number of looks, the newest first."""
    body = b"call_1x " + b"call_ " * (MOST_HITS + 1)
    assert [] == found(body, "call_1x")
    assert ["call_1x"] == found(body + b" call_1x", "call_1x")
