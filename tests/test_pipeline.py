"""Tests of pipeline.py: how each way in which a call may end shows in the ledger and at the client (ledger.md 6)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import UpstreamFailed
from tests.fakes import Scripted
from tests.walking import CLAUDE, COST, DONE, JSON, STREAMED, World, answered, chat, piece, streamed, whole

OWN = json.dumps({"error": {"message": "no", "type": "server_error", "code": "oops"}}).encode()
PAGE = b"<html>Bad gateway</html>"
HTML = (("content-type", "text/html"),)


def failed(status: int, body: bytes = OWN, headers: Any = JSON) -> Scripted:
    return Scripted(status=status, headers=headers, chunks=[body] * bool(body))


def broke(kind: str = "reset", sent: bool = True) -> UpstreamFailed:
    return UpstreamFailed("it broke", kind=kind, sent=sent)


VOID, HELD = "void", "presumed"
# the provider's answer; how the hold ends; outcome
REFUSED = {
    "400": (failed(400), VOID),
    "401 page": (failed(401, PAGE, HTML), VOID),
    "404": (failed(404), VOID),
    "429": (failed(429), VOID),
    "500 own": (failed(500), VOID),
    "500 page": (failed(500, PAGE, HTML), HELD),
    "500 empty": (failed(500, b""), HELD),
    "502 own": (failed(502), HELD),
    "503 page": (failed(503, PAGE, HTML), VOID),
    "504": (failed(504, PAGE, HTML), HELD),
    "529": (failed(529), VOID),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
async def test_an_upstream_error_passes_and_costs_what_it_may_have_cost(name: str, stream: bool) -> None:
    """Status and bytes pass as they came; 4xx, 429, 503, 529 and an own 500 are void, all else is presumed and said."""
    script, end = REFUSED[name]
    world = World(script)
    outlet = await world.call(chat(stream))
    assert (script.status, b"".join(script.chunks)) == (outlet.status, outlet.body)
    assert [end] == world.ends() and world.sound()
    assert ("presumed" if end == HELD else "refused", "upstream_error") == (world.last.cost_source, world.last.outcome)
    assert (world.last.hold_nusd if end == HELD else 0) == world.spent() == world.last.cost_nusd
    assert (end == HELD) == ("hold is charged" in (outlet.header("x-meterbox-warning") or ""))
    assert ("r", world.last.call_id) == (outlet.header("x-meterbox-run-id"), outlet.header("x-meterbox-call-id"))
    assert script.status == world.last.status == world.last.attempts[0].status


NEVER = {
    "connect": (broke("connect", sent=False), 502, VOID),
    "dns": (broke("dns", sent=False), 502, VOID),
    "tls": (broke("tls", sent=False), 502, VOID),
    "reset before anything was written": (broke(sent=False), 502, VOID),
    "reset before the head": (broke(), 502, HELD),
    "protocol": (broke("protocol"), 502, HELD),
    "no head in time": (broke("timeout"), 504, HELD),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", NEVER)
async def test_an_answer_that_never_came_costs_the_hold_only_if_something_was_sent(name: str, stream: bool) -> None:
    """Connect, DNS and TLS failures are void; once a byte may have left, the hold is charged, and that is said."""
    failure, status, end = NEVER[name]
    world = World(Scripted(fails=failure))
    outlet = await world.call(chat(stream))
    error = json.loads(outlet.body)["error"]
    assert (status, f"upstream_{failure.kind}") == (outlet.status, error["code"])
    assert [end] == world.ends() and world.sound()
    assert (world.last.hold_nusd if end == HELD else 0) == world.spent() == world.last.cost_nusd
    assert (end == HELD) == (outlet.header("x-meterbox-warning") is not None)
    assert ("r", world.last.call_id) == (outlet.header("x-meterbox-run-id"), outlet.header("x-meterbox-call-id"))
    assert (None, "true") == (world.last.status, outlet.header("x-should-retry"))


async def test_a_whole_answer_is_settled_before_it_leaves() -> None:
    """Told usage is charged exactly; the answer's head says what it cost, what is spent, what remains (R-087)."""
    world = World(whole())
    outlet = await world.call()
    assert (200, answered()) == (outlet.status, outlet.body)
    assert (["settle"], COST, "price_list", "ok") == (
        world.ends(),
        world.spent(),
        world.last.cost_source,
        world.last.outcome,
    )
    assert ("0.0000135", "0.0000135", "9.9999865") == tuple(
        outlet.header(f"x-meterbox-{name}-usd") for name in ("cost", "spent", "remaining")
    )
    assert not outlet.streamed and outlet.header("x-meterbox-warning") is None
    assert world.sound()


async def test_a_streamed_answer_passes_byte_for_byte() -> None:
    """All bytes but the hidden usage chunk arrive; what it told is charged; no cost is in the head (R-087)."""
    world = World(streamed())
    outlet = await world.call(chat(True))
    assert (200, STREAMED[0] + STREAMED[1] + DONE) == (outlet.status, outlet.body)
    assert outlet.streamed and outlet.ended and outlet.header("x-meterbox-cost-usd") is None
    assert (["settle"], COST, "price_list") == (world.ends(), world.spent(), world.last.cost_source)
    assert world.sound()


@pytest.mark.parametrize("asked", [True, False, None])
async def test_the_usage_chunk_is_hidden_only_from_who_did_not_ask(asked: bool | None) -> None:
    """Who asked for usage sees the chunk and its body goes on untouched; for who did not, we ask and keep it back."""
    world = World(streamed())
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    body = chat(True, **options)
    outlet = await world.call(body)
    sent = world.upstream.sent[0].body
    assert {"include_usage": True} == json.loads(sent)["stream_options"]
    assert (asked is True) == (b'"usage"' in outlet.body) == (json.dumps(body).encode() == sent)
    assert COST == world.spent()


GARBAGE = {
    "no usage": answered(usage=None),
    "not JSON": b"{oops",
    "empty": b"",
    "a list": b"[1]",
    "usage of a strange shape": answered(usage="many"),
    "null tokens": answered(usage={"prompt_tokens": None, "completion_tokens": None}),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_a_whole_answer_without_usage_costs_its_hold(name: str) -> None:
    """What tells no usage passes as it came and is presumed at its hold, never free (section 13, item 7)."""
    world = World(whole(GARBAGE[name]))
    outlet = await world.call()
    assert (200, GARBAGE[name]) == (outlet.status, outlet.body)
    assert ([HELD], "presumed", True) == (world.ends(), world.last.cost_source, world.last.estimated)
    assert 0 < world.last.hold_nusd == world.spent()
    assert "hold is charged" in (outlet.header("x-meterbox-warning") or "")
    assert world.sound()


CUT_SHORT = {
    "no usage": ((piece("hi", "stop"), DONE), None, "ok"),
    "no end": ((piece("hi"),), None, "unknown"),
    "reset": ((piece("hi"),), "reset", "upstream_error"),
    "stall": ((piece("hi"),), "timeout", "upstream_error"),
    "nothing": ((), "reset", "upstream_error"),
    "garbage": ((b"data: {oops\n\n",), None, "unknown"),
}


@pytest.mark.parametrize("name", CUT_SHORT)
async def test_a_stream_without_usage_costs_its_hold(name: str) -> None:
    """A stream that breaks off, stalls or tells no usage is presumed; one that breaks off ends with an error event."""
    chunks, breaks, outcome = CUT_SHORT[name]
    world = World(Scripted(headers=streamed().headers, chunks=chunks, breaks=broke(breaks) if breaks else None))
    outlet = await world.call(chat(True))
    assert ([HELD], "presumed", outcome) == (world.ends(), world.last.cost_source, world.last.outcome)
    assert 0 < world.last.hold_nusd == world.spent()
    passed = b"".join(chunks)
    assert outlet.body.startswith(passed) and outlet.ended and world.sound()
    left = outlet.body[len(passed) :]
    if breaks is None:
        assert b"" == left
    else:
        assert f"upstream_{breaks}" == json.loads(left.removeprefix(b"data: "))["error"]["code"]


@pytest.mark.parametrize("kind", ["reset", "timeout"])
async def test_a_whole_answer_that_breaks_off_is_never_made_to_look_whole(kind: str) -> None:
    """Half a body becomes a 502 in the caller's dialect, presumed, with the provider's bytes left out."""
    world = World(Scripted(headers=JSON, chunks=[b'{"id"'], breaks=broke(kind)))
    outlet = await world.call()
    assert (502, f"upstream_{kind}") == (outlet.status, json.loads(outlet.body)["error"]["code"])
    assert ([HELD], 200) == (world.ends(), world.last.status)
    assert "hold is charged" in (outlet.header("x-meterbox-warning") or "")
    assert world.sound()


async def test_an_error_event_after_output_began_is_presumed() -> None:
    """The provider's own in-band error passes as it came, and says nothing of what was billed (section 11)."""
    oops = b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
    world = World(streamed(piece("hi"), oops))
    outlet = await world.call(chat(True))
    assert piece("hi") + oops == outlet.body
    assert ([HELD], "upstream_error", "server_error") == (world.ends(), world.last.outcome, world.last.reason)


async def test_part_way_usage_is_not_the_bill() -> None:
    """Anthropic's message_start tells input only: a stream that stops there lowers the hold, and is charged at it."""
    message = {"id": "m", "model": CLAUDE, "usage": {"input_tokens": 9, "output_tokens": 1}}
    start = {"type": "message_start", "message": message}
    chunk = b"event: message_start\ndata: " + json.dumps(start).encode() + b"\n\n"
    world = World(Scripted(headers=streamed().headers, chunks=[chunk], breaks=broke()))
    said = [{"role": "user", "content": "x" * 4000}]
    body = {"model": CLAUDE, "max_tokens": 100, "stream": True, "messages": said}
    outlet = await world.call(body, "/v1/messages")
    assert b"event: error" in outlet.body
    # the dearest of all classes counts for the 9 tokens: a cache write of an hour, twice the plain price
    assert 9 * 3000 + 100 * 15_000 <= world.spent() <= 9 * 2 * 3000 * 2 + 100 * 15_000 * 2
    assert [HELD] == world.ends() and world.sound()


async def test_blank_lines_before_a_body_go_out_at_once() -> None:
    """A sign of life passes with the head, so the head can't say what it cost; the body follows once it has settled."""
    world = World(Scripted(headers=JSON, chunks=[b"\n", b"\n ", answered()]))
    outlet = await world.call()
    assert (200, [b"\n", b"\n ", answered()]) == (outlet.status, outlet.writes)
    assert outlet.streamed and outlet.ended
    assert (None, "r") == (outlet.header("x-meterbox-cost-usd"), outlet.header("x-meterbox-run-id"))
    assert (COST, True) == (world.spent(), world.sound())


async def test_a_body_that_breaks_off_after_blank_lines_breaks_the_line() -> None:
    """The head is out and nothing can be taken back: the connection is broken, never ended politely."""
    world = World(Scripted(headers=JSON, chunks=[b"\n", b'{"id"'], breaks=broke()))
    outlet = await world.call()
    assert (True, False, [b"\n"]) == (outlet.aborted, outlet.ended, outlet.writes)
    assert [HELD] == world.ends() and world.sound()


async def test_what_is_asked_as_a_stream_may_come_whole_and_the_other_way_round() -> None:
    """The answer's content type decides how it is read, not what was asked."""
    world = World(whole(), streamed())
    assert (answered(), False) == ((first := await world.call(chat(True))).body, first.streamed)
    assert (b"".join(STREAMED), True) == ((second := await world.call(chat(False))).body, second.streamed)
    assert 2 * COST == world.spent()


async def test_what_is_not_understood_reaches_nobody() -> None:
    """A body that can't be read is 400 in the caller's dialect; nothing is sent, held or listed."""
    world = World()
    outlet = await world.call(b'{"model": "a", "model": "b"}')
    assert (400, "invalid_request") == (outlet.status, json.loads(outlet.body)["error"]["code"])
    assert ([], [], 0) == (world.upstream.sent, world.calls, world.held())
