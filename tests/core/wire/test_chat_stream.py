"""A streamed answer passes byte for byte, with its end held back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.types import Call, Provider, Refusal, Reply
from gateway.core.wire import chat_stream
from gateway.core.wire.chat_stream import Stream, is_own_error, read_whole

CALL = Call("openai-chat", Provider("openai", "openai", "https://x", ()), "metered", "chat", "m", True)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def event(chunk: object, end: str = "\n") -> bytes:
    """An event of one data line."""
    return f"data: {json.dumps(chunk, ensure_ascii=False)}{end}{end}".encode()


def say(text: str, finish: str | None = None) -> dict[str, object]:
    """A chunk of text."""
    return {
        "id": "i",
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
        "usage": None,
    }


ONLY_USAGE = event({"id": "i", "model": "m", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
BODY = event(say("hé")) + b": keep-alive\n\n" + event(say("llo", "stop"))


def read(pieces: list[bytes], hide: bool = False) -> tuple[bytes, bytes, Reply]:
    """What goes out at once, what is held back, and the reply as it stood before."""
    stream = Stream(CALL, hide)
    out = b"".join(stream.feed(piece) for piece in pieces)
    reply = stream.reply()
    return out, stream.rest(), reply


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_any_cut_gives_the_same(sizes, end, hide):
    """The same bytes and the same Reply, under any line ends."""
    done = f"data: [DONE]{end}{end}".encode()
    usage = event({"id": "i", "model": "m", "choices": [], "usage": USAGE}, end)
    raw = event(say("hé"), end) + event(say("x", "stop"), end) + usage + done
    pieces: list[bytes] = []
    at = 0
    while at < len(raw):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(raw[at : at + size])
        at += size
    out, rest, reply = read(pieces, hide)
    whole = read([raw], hide)
    assert (whole[0] + whole[1], whole[2]) == (out + rest, reply)
    assert (raw.replace(usage, b"") if hide else raw) == out + rest


def test_the_end_is_held_back():
    """[DONE] and everything after it wait; what came before has gone out."""
    out, rest, reply = read([BODY + ONLY_USAGE + DONE + b"\n: bye\n\n", b"more"])
    assert (BODY + ONLY_USAGE, DONE + b"\n: bye\n\nmore") == (out, rest)
    assert (True, True) == (reply.ended, reply.usage_complete)


def test_only_the_extra_chunk_is_hidden():
    """Usage beside choices, Azure's first chunk without choices, and null usage all stay."""
    azure = event({"choices": [], "prompt_filter_results": []})
    beside = event({**say("x", "stop"), "usage": USAGE})
    out, rest, reply = read([azure + BODY + beside + ONLY_USAGE + DONE], hide=True)
    assert azure + BODY + beside + DONE == out + rest
    assert reply.usage_complete
    alone = read([ONLY_USAGE], hide=True)
    assert b"" == alone[0] + alone[1]


def test_a_stream_without_done_is_complete():
    """Writer ends with the connection: finish_reason and usage say that it was all."""
    out, rest, reply = read([BODY + ONLY_USAGE])
    assert (BODY + ONLY_USAGE, b"") == (out, rest)
    assert (False, True) == (reply.ended, reply.usage_complete)


@pytest.mark.parametrize("missing", [1, 2])
def test_an_end_without_its_blank_line_counts(missing):
    """A body may end right behind [DONE], or behind the usage; no byte is lost, nothing counted twice."""
    out, rest, reply = read([BODY + ONLY_USAGE + DONE[:-missing]])
    assert (BODY + ONLY_USAGE, DONE[:-missing], True) == (out, rest, reply.ended)
    out, rest, reply = read([BODY + ONLY_USAGE[:-missing]])
    assert (BODY, ONLY_USAGE[:-missing], True) == (out, rest, reply.usage_complete)


def test_a_reply_asked_early_counts_nothing_twice():
    """`reply` may be asked at any time, also between an event and its blank line."""
    stream = Stream(CALL, False)
    first = event(say("abc"))
    stream.feed(first[:-1])
    assert 3 == stream.reply().output_bytes == stream.reply().output_bytes
    assert first == stream.feed(first[-1:])
    assert 3 == stream.reply().output_bytes


def test_a_cut_stream_is_not_complete():
    """The provider broke off: a part-way report is no final figure."""
    _, _, reply = read([event({**say("x"), "usage": USAGE})])
    assert (False, False) == (reply.ended, reply.usage_complete)


def test_garbage_passes():
    """Foreign events, broken JSON, lines of no field: untouched, and what follows is still read."""
    garbage = b'event: message_start\ndata: {"type":"message_start"}\n\ndata: {oops\n\nnonsense\n\ndata:\n\nid: 5\n\n'
    out, rest, reply = read([garbage + BODY + ONLY_USAGE + DONE])
    assert garbage + BODY + ONLY_USAGE + DONE == out + rest
    assert reply.usage_complete


def test_a_plain_body_under_the_content_type_of_a_stream_is_read():
    """Some providers answer an error or a whole answer so."""
    raw = json.dumps(
        {"id": "i", "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": USAGE}
    ).encode()
    out, rest, reply = read([raw])
    assert (raw, True, "stop") == (out + rest, reply.usage_complete, reply.finish_reason)


def test_a_long_event_flows(monkeypatch):
    """Beyond the hold an unfinished event goes out as it comes, once; it is still read (ports.Reader.feed)."""
    monkeypatch.setattr(chat_stream, "HOLD_BYTES", 100)
    raw = event(say("x" * 1000))
    stream = Stream(CALL, False)
    sent = [stream.feed(raw[at : at + 64]) for at in range(0, len(raw), 64)]
    assert b"" == sent[0] and any(sent[1:-1])
    assert raw == b"".join(sent) + stream.rest()
    assert 1000 == stream.output_bytes


def test_the_hold_is_the_documented_one():
    """64 KiB (ports.Reader.feed)."""
    assert 64 * 1024 == chat_stream.HOLD_BYTES


def test_visible_output_is_taken_once():
    """What came since the last take."""
    stream = Stream(CALL, False)
    stream.feed(event(say("ab")))
    assert "ab" == stream.take()
    stream.feed(event(say("c")))
    assert ("c", "") == (stream.take(), stream.take())
    assert 3 == stream.output_bytes


def test_a_cut_is_an_error_event(monkeypatch):
    """Never a polite end; an event that is half out is ended first, so that the error can be read."""
    refusal = Refusal(402, "insufficient_quota", "Stop.")
    stream = Stream(CALL, False)
    cut = stream.cut(refusal)
    assert cut.startswith(b'data: {"error":') and cut.endswith(b"\n\n")
    assert "budget_exceeded" == json.loads(cut[6:])["error"]["type"]
    monkeypatch.setattr(chat_stream, "HOLD_BYTES", 10)
    assert b"data: {" == stream.feed(b"data: {" + b"x" * 50)[:7]
    assert stream.cut(refusal).startswith(b"\n\ndata: ")


def test_a_whole_answer_may_begin_with_blank_lines():
    """DeepSeek's keep-alive (wire-formats.md section 2)."""
    reply = read_whole(CALL, 200, b"\n\n \r\n" + json.dumps({"id": "i", "usage": USAGE}).encode())
    assert (True, True, "i") == (reply.ended, reply.usage_complete, reply.response_id)


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"{", b"\xff", b"null", b"[]"])
def test_garbage_is_no_answer(body):
    """Never an exception; ended stays False."""
    assert Reply() == read_whole(CALL, 200, body)
    assert "http_502" == read_whole(CALL, 502, body).error


def test_errors_are_called_by_name():
    """JSON errors of a status of 400 and more, in Google's array too."""
    error = b'{"error":{"code":"model_not_found","message":"m"}}'
    assert "model_not_found" == read_whole(CALL, 404, error).error
    assert "model_not_found" == read_whole(CALL, 404, b"[" + error + b"]").error
    assert "http_422" == read_whole(CALL, 422, b'{"detail":"x"}').error


def test_the_providers_own_error_is_told_from_a_proxys_page():
    """ledger.md section 6: only the dialect's own JSON error voids a 500."""
    for body in (
        b'{"error":{"message":"m"}}',
        b'{"message":"m"}',
        b'{"detail":"d"}',
        b'[{"error":{}}]',
        b' {"errors":[]}',
    ):
        assert is_own_error(body)
    for page in (b"", b"<html>error</html>", b'{"error":', b'{"ok":1}', b"Bad Gateway"):
        assert not is_own_error(page)
