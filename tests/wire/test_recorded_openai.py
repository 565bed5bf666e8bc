"""Recorded traffic of the OpenAI formats: the same bytes and the same Reply under any cut, and figures as recorded."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ports import Dialect
from gateway.core.types import Call, Edits, Inbound, Labels, Provider, Quirks, Reply, Usage
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.dialects.openai_embeddings import OpenAIEmbeddings

TRAFFIC = Path(__file__).resolve().parents[2] / "../shared/traffic"
KINDS: dict[str, type[Any]] = {
    "openai-chat": OpenAIChat,
    "openai-completions": OpenAICompletions,
    "openai-embeddings": OpenAIEmbeddings,
}
QUIRKS = {
    "openai": Quirks(usage_option=True, openai_tokenizer=True),
    "azure": Quirks(usage_option=True, openai_tokenizer=True, path_model=True),
    "openrouter": Quirks(states_cost=True),
    "xai": Quirks(states_cost=True, reasoning_outside=True),
}
BYTEWISE = 20_000  # longer streams are fed byte by byte only at their two ends
LEAST = 0.995  # of the exchanges must equal what was recorded; the rest is printed with its reason
pytestmark = pytest.mark.shared


@cache
def records(kind: str) -> tuple[dict[str, Any], ...]:
    """Every recorded exchange of a format."""
    path = TRAFFIC / f"{kind}.jsonl.gz"
    if not path.exists():
        pytest.skip("../shared is missing: no recorded traffic")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


def ask(dialect: Dialect, record: dict[str, Any]) -> Call:
    """The recorded request, decoded."""
    name, path = record["provider"], record["path"].partition("?")[0]
    assert dialect.matches(record["method"], path), path
    provider = Provider(name, name, "https://x", (record["dialect"],), quirks=QUIRKS.get(name, Quirks()))
    body = json.dumps(record["request_body"], ensure_ascii=False).encode()
    call = dialect.decode(Inbound(record["method"], None, path, path, "", (), body, Labels(), "t", None, 0.0), provider)
    assert body is dialect.rewrite(call, body, Edits())
    return call


def is_stream(record: dict[str, Any]) -> bool:
    """By its content type, as the walk decides it."""
    return "event-stream" in record["response_headers"].get("content-type", "")


def read(dialect: Dialect, call: Call, pieces: list[bytes]) -> tuple[bytes, Reply]:
    """What a client gets in all, and the reply as it stands when the body ends."""
    reader = dialect.reader(call, False)
    out = b"".join(reader.feed(piece) for piece in pieces)
    reply = reader.reply()
    return out + reader.rest(), reply


def bytewise(raw: bytes) -> list[bytes]:
    """Single bytes; of a long body only 4,000 at each end."""
    if len(raw) <= BYTEWISE:
        return [raw[at : at + 1] for at in range(len(raw))]
    ends = 4_000
    head, tail = raw[:ends], raw[-ends:]
    return [head[at : at + 1] for at in range(ends)] + [raw[ends:-ends]] + [tail[at : at + 1] for at in range(ends)]


def at_random(raw: bytes, seed: str) -> list[bytes]:
    """Cut anywhere, the same way at each run."""
    chance, pieces, at = random.Random(seed), [], 0
    while at < len(raw):
        size = chance.choice((1, 2, 7, 64, 500, 4096))
        pieces.append(raw[at : at + size])
        at += size
    return pieces


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_streams_pass_under_any_cut(kind):
    """Whole, byte by byte and at random: identical bytes, identical Reply."""
    dialect = KINDS[kind]()
    for record in records(kind):
        if not is_stream(record):
            continue
        call, raw = ask(dialect, record), record["response_body"].encode()
        out, reply = read(dialect, call, [raw])
        assert raw == out, record["id"]
        for pieces in (bytewise(raw), at_random(raw, record["id"])):
            assert (raw, reply) == read(dialect, call, pieces), record["id"]


def told(reply: Reply) -> dict[str, Any]:
    """What the recording states, in its words."""
    usage = reply.usage or Usage()
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "tool_calls": [tool.name for tool in reply.tool_calls],
    }


def reason(name: str, want: Any) -> str:
    """Why a figure may differ."""
    return "the provider wrote an empty model, which names none" if (name, want) == ("model", "") else "NOT EXPLAINED"


def reply_of(dialect: Dialect, record: dict[str, Any]) -> Reply:
    """The recorded answer, read as the walk would read it."""
    call, raw = ask(dialect, record), record["response_body"].encode()
    return read(dialect, call, [raw])[1] if is_stream(record) else dialect.whole(call, record["status"], raw)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_equal_the_recorded_ones(kind, capsys):
    """Tokens, model, finish reason and tool call names; what differs is listed with its reason."""
    dialect, equal, lines = KINDS[kind](), 0, []
    for record in records(kind):
        got, expected = told(reply_of(dialect, record)), record["expected"]
        odd = [name for name, value in got.items() if value != expected[name]]
        equal += not odd
        lines += [
            f"  {record['id']} {record['provider']} {n}: {got[n]!r}, recorded {expected[n]!r}: {reason(n, expected[n])}"
            for n in odd
        ]
    total = len(records(kind))
    with capsys.disabled():
        print(f"\n{kind}: {equal} of {total} exchanges equal what was recorded", *lines, sep="\n")
    assert LEAST * total <= equal
    assert not [line for line in lines if "NOT EXPLAINED" in line]


@pytest.mark.parametrize("kind", KINDS)
def test_usage_is_complete_where_it_was_told(kind):
    """No recorded figure is taken for a part-way report, and no silence for a figure; errors are seen."""
    dialect = KINDS[kind]()
    for record in records(kind):
        reply, expected = reply_of(dialect, record), record["expected"]
        assert (expected["usage_raw"] is not None) == reply.usage_complete, record["id"]
        assert bool(expected["error"]) == (reply.error is not None), record["id"]
