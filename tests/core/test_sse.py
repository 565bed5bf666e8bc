"""Event streams come apart the same however they are cut, and lose no byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import sse
from gateway.core.sse import Splitter, data_of, lone_data, name_of

PIECES = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"data: x", b"data:y", b": c", b"event: e"]), max_size=20
)
CUTS = st.lists(st.integers(1, 5), min_size=1, max_size=60)


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        pieces.append(raw[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def run(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """Everything that a splitter makes of them."""
    splitter = Splitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events, splitter.tail()


@given(PIECES, CUTS)
def test_no_byte_is_lost_or_changed(parts, sizes):
    """All that is fed comes out again, in order, under any line ends and any cuts."""
    raw = b"".join(parts)
    events, tail = run(cut(raw, sizes))
    assert raw == b"".join(events) + tail


@given(PIECES, CUTS)
def test_cuts_change_no_event(parts, sizes):
    """The data of the events is the same whole and in pieces."""
    raw = b"".join(parts)
    whole, _ = run([raw])
    pieces, _ = run(cut(raw, sizes))
    assert [data_of(e) for e in whole if data_of(e)] == [data_of(e) for e in pieces if data_of(e)]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_every_blank_line_ends_an_event(end):
    """LF, CRLF, CR and mixtures end an event; one CRLF is one line end, not two."""
    events, tail = run([b"data: a\r\ndata: b" + end, b"data: c" + end])
    assert [b"a\nb", b"c"] == [data_of(event) for event in events]
    assert b"" == tail


def test_a_stray_line_end_is_kept():
    """Three LF in one chunk: the third is a piece of its own, not lost."""
    assert ([b"data: a\n\n", b"\n"], b"") == run([b"data: a\n\n\n"])


def test_a_carriage_return_waits_for_its_line_feed():
    """A chunk that ends inside the CRLF of a blank line is not an event yet."""
    splitter = Splitter()
    assert [] == splitter.feed(b"data: a\r\n\r")
    assert [b"data: a\r\n\r\n"] == splitter.feed(b"\n")


def test_data_lines_are_joined():
    """Several data lines join with LF; one space after the colon goes, a second stays."""
    assert b"a\n b\nc" == data_of(b"event: x\ndata: a\ndata:  b\ndata:c\n\n")
    assert b"event: x" not in data_of(b"event: x\ndata: a\n\n")
    assert b"" == data_of(b": comment\n\n")


def test_a_byte_order_mark_is_tolerated():
    """A BOM in front of the first event hides neither its data nor its name."""
    assert b"x" == data_of(b"\xef\xbb\xbfdata: x\n\n")
    assert b"e" == name_of(b"\xef\xbb\xbfevent: e\ndata: x\n\n")


def test_names_are_read():
    """The event's name, or nothing; the word inside of data is no name."""
    assert b"error" == name_of(b"event: error\r\ndata: {}\r\n\r\n")
    assert b"" == name_of(b"data: an event: x\n\n")


@given(PIECES)
def test_the_short_way_agrees_with_the_long_way(parts):
    """What lone_data reads without a splitter is what the splitter and data_of read."""
    chunk = b"".join(parts)
    if data := lone_data(chunk):
        assert ([chunk], b"") == run([chunk])
        assert data == data_of(chunk)


def test_an_endless_line_is_not_kept(monkeypatch):
    """A line beyond its limit flows on in parts: memory stays bounded, and no byte is lost (security.md section 2)."""
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 1000)
    splitter, out, most = Splitter(), b"", 0
    for _ in range(100):
        out += b"".join(splitter.feed(b"x" * 100))
        most = max(most, splitter.pending)
    assert most <= 1000
    assert 1 == splitter.overlong
    assert b"x" * 10_000 == out + splitter.tail()


def test_an_endless_event_is_not_kept(monkeypatch):
    """Many short lines without a blank one are bounded too; the event after it is read again."""
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 500)
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    splitter = Splitter()
    for _ in range(50):
        splitter.feed(b"data: " + b"x" * 50 + b"\n")
        assert splitter.pending <= 1000
    splitter.feed(b"\n")
    assert [b"data: y\n\n"] == splitter.feed(b"data: y\n\n")


def test_the_limits_are_the_documented_ones():
    """Line 8 MB, event 16 MB (security.md section 2)."""
    assert (8 << 20, 16 << 20) == (sse.MAX_LINE_BYTES, sse.MAX_EVENT_BYTES)
