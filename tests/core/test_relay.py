"""Tests of core/relay.py: an answer on its way, and the words for one that doesn't arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core import relay
from gateway.core.errors import UpstreamFailed
from gateway.core.live import OpenCall, killed
from gateway.core.meter import Meter
from gateway.core.outcome import Ending
from gateway.core.relay import Relay, Watch
from gateway.core.types import Refusal, Reply
from tests.core.speaking import Speaking
from tests.fakes import RecordingOutlet, Scripted, ScriptedStream


class Letters:
    """A reader for which every byte is visible output, `.` ends the answer, and `#` tells 7 tokens of input."""

    def __init__(self) -> None:
        self.ended = False
        self.output_bytes = 0
        self.input_told: int | None = None
        self._new = self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        if b"#" in chunk:
            self.input_told = 7
        ready, dot, rest = chunk.partition(b".")
        self._rest += dot + rest
        self.ended = self.ended or bool(dot)
        self._new += ready
        self.output_bytes += len(ready)
        return ready

    def take(self) -> str:
        new, self._new = self._new, b""
        return new.decode()

    def rest(self) -> bytes:
        return self._rest

    def cut(self, refusal: Refusal) -> bytes:
        return refusal.code.encode()

    def reply(self) -> Reply:
        return Reply(ended=self.ended)


class Bytes:
    """A tokenizer for which each byte is a token."""

    def ready(self, encoding: str) -> bool:
        return True

    def warm(self, encoding: str) -> None:
        """Nothing to load."""

    async def count(self, encoding: str, text: str) -> int | None:
        return len(text)


def opened() -> OpenCall:
    return OpenCall("c", ("r",), None, None)


def made(*chunks: bytes, status: int = 200, **more: Any) -> tuple[Relay, ScriptedStream, RecordingOutlet]:
    stream = ScriptedStream(Scripted(status=status, chunks=chunks, **more))
    outlet = RecordingOutlet()
    return Relay(stream, outlet, opened()), stream, outlet


async def passed(
    way: Relay, outlet: RecordingOutlet, granted: int | None = None, on_input: Any = None
) -> tuple[Ending, Letters]:
    await outlet.start(200, ())
    reader = Letters()
    ending = await way.events(reader, Watch(Meter(granted), Bytes(), "e"), on_input)
    return ending, reader


async def test_events_pass_until_the_terminal_one():
    """What the reader lets go is written at once, in order; what comes from the end on stays with it."""
    way, stream, outlet = made(b"ab", b"c", b"d.e", b"never read")
    ending, reader = await passed(way, outlet)
    assert (Ending(status=200, chunks=3), [b"ab", b"c", b"d"], b".e", 3) == (
        ending,
        outlet.writes,
        reader.rest(),
        stream.pulled,
    )


async def test_exact_input_is_told_once():
    """`on_input` is asked the first time that the reader knows, and never again."""
    told: list[int] = []

    async def on_input(tokens: int) -> None:
        told.append(tokens)

    way, _, outlet = made(b"a", b"#", b"#", b".")
    await passed(way, outlet, on_input=on_input)
    assert [7] == told


async def test_what_passes_the_grant_is_cut_within_a_slice():
    """Nothing of the slice that was over goes out; the stream is let go, and what came is counted for the bill."""
    way, stream, outlet = made(*[b"x" * 100] * 50)
    ending, reader = await passed(way, outlet, granted=500)
    assert [relay.LINGER_S] == stream.lingers
    assert ("cut", "output_over_grant") == (ending.way, ending.reason)
    assert 500 <= len(outlet.body) <= 500 + 256 + 100
    assert 5000 == reader.output_bytes, "what the provider had written by then is on its bill"


async def test_a_flood_after_the_cut_is_not_read_for_ever():
    """Reading on to know the bill has a limit: a provider that floods is left at LINGER_BYTES."""
    way, stream, outlet = made(*[b"x" * 10_000] * 100)
    ending, reader = await passed(way, outlet, granted=500)
    assert ("cut", True) == (ending.way, stream.closed)
    assert relay.LINGER_BYTES <= reader.output_bytes <= relay.LINGER_BYTES + 30_000


async def test_who_keeps_the_grant_is_not_cut():
    """Exactly as much as was granted passes."""
    way, _, outlet = made(*[b"x" * 100] * 5, b".")
    ending, _ = await passed(way, outlet, granted=500)
    assert ("done", 500) == (ending.way, len(outlet.body))


async def grown(*says: bool, chunks: int = 20) -> tuple[Ending, RecordingOutlet, list[int]]:
    """An answer of 100 bytes a chunk on a grant of 500 that may grow, each time as told."""
    way, _, outlet = made(*[b"x" * 100] * chunks, b".")
    asked: list[int] = []
    paid = 500

    async def top_up(tokens: int) -> int:
        nonlocal paid
        asked.append(tokens)
        assert len(outlet.body) <= paid, "asked before it passes"
        paid += tokens if len(asked) <= len(says) and says[len(asked) - 1] else 0
        return paid

    await outlet.start(200, ())
    ending = await way.events(Letters(), Watch(Meter(500, most=10_000), Bytes(), "e", top_up), None)
    assert len(outlet.body) <= paid
    return ending, outlet, asked


async def test_a_hold_grows_before_what_it_pays_for_goes_out():
    """Slice by slice, as long as the ledger gives; nothing is asked while there is room."""
    ending, outlet, asked = await grown(*[True] * 20)
    assert ("done", 2000) == (ending.way, len(outlet.body))
    assert 1500 // 256 <= len(asked) <= 1500 // 256 + 1
    ending, outlet, asked = await grown(chunks=5)
    assert ("done", 500, []) == (ending.way, len(outlet.body), asked)


async def test_an_answer_ends_where_its_hold_can_grow_no_more():
    """Nothing of the chunk goes out that is not paid for; the reason is not the provider's doing."""
    ending, outlet, asked = await grown(True, False)
    assert ("cut", "budget_ended", 700, 2) == (ending.way, ending.reason, len(outlet.body), len(asked))
    ending, outlet, _ = await grown()
    assert ("cut", 500) == (ending.way, len(outlet.body))


async def test_a_huge_chunk_is_passed_in_small_pieces_near_the_grant():
    """One chunk of a megabyte doesn't slip through whole (`NEAR_BYTES`)."""
    way, _, outlet = made(b"x" * 1_000_000)
    ending, _ = await passed(way, outlet, granted=500)
    assert "cut" == ending.way and len(outlet.body) <= 500 + 256 + relay.NEAR_BYTES


@pytest.mark.parametrize(("how", "way_", "reason"), [("kill", "cut", "run_killed"), ("leave", "left", "client_left")])
async def test_an_end_from_outside_is_told_apart_from_the_providers(how: str, way_: str, reason: str):
    """The same broken stream is a cut, a client that left, or the provider's failure."""
    way, stream, outlet = made(b"a", b"b", chunk_gate=asyncio.Event())
    way._open.on_stop(stream.close)
    going = asyncio.ensure_future(passed(way, outlet))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    way._open.stop(killed("x")) if how == "kill" else way._open.leave()
    ending, _ = await going
    assert (way_, reason) == (ending.way, ending.reason)
    way, _, outlet = made(b"a", breaks=UpstreamFailed("gone"))
    assert Ending("broken", 200, "upstream_reset", chunks=1) == (await passed(way, outlet))[0]


async def test_a_whole_answer_is_read_to_its_end():
    """Parts are put together; the head waits until all is there."""
    way, _, outlet = made(b'{"a"', b":1}", status=201)
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)

    assert (b'{"a":1}', Ending(status=201)) == await way.whole(begin)
    assert ([], False, None) == (begun, way.began, outlet.status)


async def test_blank_lines_are_a_sign_of_life():
    """The head goes out once, before the first blank; blanks inside of the body belong to it."""
    way, _, outlet = made(b" \n", b"\n", b"{}", b"\n")
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)
        await outlet.start(200, ())

    assert (b"{}\n", Ending(status=200)) == await way.whole(begin)
    assert ([1], True, [b" \n", b"\n"]) == (begun, way.began, outlet.writes)


async def test_a_whole_answer_has_a_limit(monkeypatch: pytest.MonkeyPatch):
    """What is larger is broken off and presumed, not kept in memory."""
    monkeypatch.setattr(relay, "MOST_WHOLE_BYTES", 10)
    way, stream, _ = made(*[b"xxxx"] * 9)

    async def begin() -> None:
        raise AssertionError("nothing has begun")

    body, ending = await way.whole(begin)
    assert (12, "broken", "answer_too_large", 3) == (len(body), ending.way, ending.reason, stream.pulled)


async def test_what_follows_the_end_passes_and_may_break():
    """After the terminal event nothing is an error any more."""
    way, _, outlet = made(b"tail", breaks=UpstreamFailed("gone"))
    await outlet.start(200, ())
    await way.drain()
    assert b"tail" == outlet.body


def test_an_answer_that_never_came_says_who_ended_it():
    """Killed, left, not sent or broken: the words and the money follow from here."""
    gone, stopped = opened(), opened()
    gone.leave()
    stopped.stop(killed("x"))
    sent, unsent = UpstreamFailed(kind="timeout"), UpstreamFailed(kind="connect", sent=False)
    assert Ending("broken", None, "upstream_timeout") == relay.never_came(sent, opened())
    assert Ending("unsent", None, "upstream_connect", sent=False) == relay.never_came(unsent, opened())
    assert Ending("left", None, "upstream_timeout") == relay.never_came(sent, gone)
    assert Ending("left", None, "upstream_connect", sent=False) == relay.never_came(unsent, gone)
    assert Ending("cut", None, "run_killed") == relay.never_came(sent, stopped)
    assert Ending("cut", None, "run_killed", sent=False) == relay.never_came(unsent, stopped)


def test_the_client_is_told_whether_it_may_have_been_billed():
    """502 or 504, retryable; a killed run reads that it was killed instead."""
    late = relay.unreachable(UpstreamFailed("slow", kind="timeout"), opened(), "r")
    assert (504, "upstream_timeout", True) == (late.status, late.code, late.retryable)
    assert "may have been billed" in late.message
    refused = relay.unreachable(UpstreamFailed("no", kind="connect", sent=False), opened(), "r")
    assert (502, True) == (refused.status, "nothing is billed" in refused.message)
    stopped = opened()
    stopped.stop(killed("loop"))
    why = relay.unreachable(UpstreamFailed("x", kind="closed"), stopped, "r")
    assert (403, "run_killed", "r", False) == (why.status, why.code, why.run_id, why.retryable)


def test_a_stream_that_ends_badly_gets_its_sentence():
    """Killed: the operator's reason; over the grant: the tokens; else the provider broke off."""
    stopped = opened()
    stopped.stop(killed("loop"))
    assert "loop" in relay.why_cut(Ending("cut"), stopped, "r", 5).message
    ended = relay.why_cut(Ending("cut", 200, relay.BUDGET_ENDED), opened(), "r", 512, "tokens")
    assert (402, "limit_tokens", "tokens", True) == (
        ended.status,
        ended.code,
        ended.unit,
        "no more than" in ended.message,
    )
    over = relay.why_cut(Ending("cut", 200, "output_over_grant"), opened(), "r", 512)
    assert (402, "insufficient_quota", True) == (over.status, over.code, "512 output tokens" in over.message)
    off = relay.why_cut(Ending("broken", 200, "upstream_reset"), opened(), "r", 5)
    assert (502, "upstream_reset", True) == (off.status, off.code, off.retryable)


def test_only_a_successful_event_stream_is_read_as_one():
    """The content type decides, parameters and case aside; an error never is a stream."""

    def says(kind: str, status: int = 200) -> bool:
        return relay.is_events(ScriptedStream(Scripted(status=status, headers=[("content-type", kind)])))

    assert says("text/event-stream") and says("Text/Event-Stream; charset=utf-8")
    assert not says("application/json") and not says("text/event-stream", 500)
    assert not relay.is_events(ScriptedStream(Scripted(headers=())))


async def test_an_apology_never_looks_like_the_end_of_an_answer():
    """One final 500 where nothing had begun; else, or where no format is known, the line breaks."""
    fresh, begun, unknown = RecordingOutlet(), RecordingOutlet(), RecordingOutlet()
    await begun.start(200, ())
    await relay.apologise(fresh, Speaking(), "")
    await relay.apologise(begun, Speaking(), "")
    await relay.apologise(unknown, None, "")
    assert (500, b"internal_error", False) == (fresh.status, fresh.body, fresh.aborted)
    assert (True, True) == (begun.aborted, unknown.aborted)
