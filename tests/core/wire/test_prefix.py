"""Tests of core/prefix.py."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Undecodable
from gateway.core.wire.prefix import BLOCK_BYTES, Growing


def reading(log: list[bytes]):
    """Reads an element as its own bytes, and notes that it was asked."""

    def read(raw: bytes) -> bytes:
        log.append(raw)
        return raw

    return read


def spelled(items: list[str], separator: str = ", ") -> bytes:
    return ("[" + separator.join(json.dumps({"content": item}) for item in items) + "]").encode()


def plain(items: list[str]) -> list[bytes]:
    return [json.dumps({"content": item}).encode() for item in items]


@pytest.mark.parametrize("separator", [",", ", ", " ,\n  "])
def test_a_step_reads_only_what_is_new(separator):
    """A conversation that grows is not taken apart again, however its client writes commas and blanks."""
    growing: Growing[bytes] = Growing(most=1)  # no memory of single elements: what is read is seen
    items = [f"{number} " + "x" * 1500 for number in range(60)]
    log: list[bytes] = []
    assert plain(items) == list(growing.read(spelled(items, separator), "messages", reading(log)))
    log.clear()
    items += ["new one", "new two"]
    assert plain(items) == list(growing.read(spelled(items, separator), "messages", reading(log)))
    assert len(log) <= 2 + BLOCK_BYTES // 1500 + 1


def test_a_change_early_on_is_seen():
    """The same length with another beginning is another conversation."""
    growing: Growing[bytes] = Growing()
    items = ["x" * 1500 for _ in range(60)]
    growing.read(spelled(items), "messages", reading([]))
    items[3] = "y" * 1500
    assert plain(items) == list(growing.read(spelled(items), "messages", reading([])))


def test_what_is_kept_is_bounded():
    """The oldest conversation is forgotten first."""
    growing: Growing[bytes] = Growing(kept=2)
    for number in range(5):
        growing.read(spelled([f"{number}" + "x" * 1500] * 60), "messages", reading([]))
    assert len(growing) == 2


def test_what_is_no_array_is_undecodable():
    """An object in an array's place is the caller's fault."""
    with pytest.raises(Undecodable):
        Growing[bytes]().read(b'{"a": 1}', "messages", reading([]))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9000)), max_size=5), max_size=6),
    separator=st.sampled_from([",", ", ", "\n, "]),
)
def test_any_growth_gives_what_reading_each_alone_gives(steps, separator):
    """Whatever is added, in whatever sizes, the elements are those of the array."""
    growing: Growing[bytes] = Growing()
    items: list[str] = []
    for step in steps:
        items += [text + "x" * size for text, size in step]
        assert plain(items) == list(growing.read(spelled(items, separator), "messages", reading([])))
