"""The flow of events: what goes on, what waits."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.sse import MAX_LINE_BYTES
from gateway.core.wire.flow import MAX_HELD_BYTES, Flow, looks_streamed, payload


class Noting(Flow):
    """Remembers the data it is shown; `end` is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def see(self, data: bytes) -> bool:
        self.seen.append(data.strip())
        return self.is_last(data)

    def is_last(self, data: bytes) -> bool:
        return data.strip() == b'{"end"}'

    def stays_whole(self, head: bytes) -> bool:
        return head.startswith(b"event: end")


def test_whole_events_go_on_and_the_last_one_waits():
    """What stands in front of the last event goes on; the last event and all after it wait in rest()."""
    flow = Noting()
    assert b"data: {1}\n\n: ping\n\n" == flow.feed(b'data: {1}\n\n: ping\n\nevent: end\ndata: {"end"}\n\ndata: x\n\n')
    assert flow.ended
    assert b"" == flow.feed(b"more")
    assert b'event: end\ndata: {"end"}\n\ndata: x\n\nmore' == flow.rest()
    assert b"" == flow.rest()


def test_a_last_event_without_its_blank_line_ends_the_answer():
    """A server that closes the connection instead of sending a blank line has ended its answer, too."""
    flow = Noting()
    assert b"" == flow.feed(b'data: {"end"}')
    assert (True, [b'{"end"}']) == (flow.ended, flow.seen)
    assert b'data: {"end"}' == flow.rest()


def test_an_unfinished_event_waits_up_to_its_limit_then_flows():
    """64 KiB of an unfinished event are held; beyond that it flows, and its end follows without a repeat."""
    flow = Noting()
    head = b"data: " + b"x" * (MAX_HELD_BYTES - 6)
    assert b"" == flow.feed(head)
    assert head + b"y" == flow.feed(b"y")
    assert b"\n\n" == flow.broken_off()
    assert b"z\n\n" == flow.feed(b"z\n\n")
    assert b"" == flow.broken_off()
    assert 1 == len(flow.seen)


def test_a_long_last_event_stays_whole():
    """A terminal event can be large; none of it may leave before its call is settled."""
    flow = Noting()
    long = b"event: end\ndata: " + b" " * 3 * MAX_HELD_BYTES
    assert b"" == flow.feed(long[:70_000])
    assert b"" == flow.feed(long[70_000:])
    assert b"" == flow.feed(b'{"end"}\n\n')
    assert flow.ended
    assert long + b'{"end"}\n\n' == flow.rest()


def test_an_overlong_event_flows_in_parts_without_a_repeat():
    """Beyond 8 MB the splitter gives an event up; its bytes still pass once and in order, also in tiny pieces."""
    flow = Noting()
    parts = [b"data: ".ljust(MAX_LINE_BYTES, b"a"), b"b", b"c", b"d" * 70_000, b"e\n", b"\n", b"data: {1}\n\n"]
    out = b"".join(flow.feed(part) for part in parts)
    assert b"".join(parts) == out + flow.rest()
    assert b"{1}" == flow.seen[-1]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 60), max_size=8))
def test_any_cut_gives_the_same_bytes(places):
    """However the network cuts a stream, feed and rest together give its own bytes and show the same events."""
    body = b': hi\r\n\r\nevent: a\ndata: {1}\n\ndata:{2}\r\rdata: {"end"}\n\n\ndata: 3\n\n'
    bounds = sorted({0, *(min(place, len(body)) for place in places), len(body)})
    flow, out = Noting(), b""
    for start, end in pairwise(bounds):
        out += flow.feed(body[start:end])
    assert body == out + flow.rest()
    assert [b"{1}", b"{2}", b'{"end"}'] == flow.seen


def test_payload_reads_every_order_of_lines():
    """The data of an event, whichever of `event:` and `data:` comes first, in one line or several."""
    assert b"{1}" == payload(b"event: a\ndata: {1}\n\n").strip()
    assert b"{1}" == payload(b"data: {1}\nevent: a\n\n")
    assert b"{1}" == payload(b"event: a\r\ndata: {1}\r\n\r\n").strip()
    assert b"{\n1}" == payload(b"event: a\ndata: {\ndata: 1}\n\n")
    assert b"{1}" == payload(b"event: a\nid: 7\ndata: {1}\n\n")
    assert b"" == payload(b": comment\n\n")


def test_a_body_that_is_a_stream_is_told_from_json():
    """A stream under a wrong content type is known by its first bytes."""
    assert looks_streamed(b"event: x\ndata: 1\n\n")
    assert looks_streamed(b"\n\ndata: 1\n\n")
    assert not looks_streamed(b'  {"data": 1}')
