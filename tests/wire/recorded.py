"""Recorded provider traffic for the tests in this folder: exchanges as values, and three ways to cut a stream."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.types import Call, Inbound, Labels, Provider, Quirks, Reply

# Prompts that a provider adds for tools and structured output (wire-formats.md section 9: 403 tokens for one tool).
HIDDEN_TOKENS = 1024
SHARED = Path(__file__).resolve().parents[2] / "../shared"


def exchanges(dialect: str) -> list[dict[str, Any]]:
    """All recorded exchanges of a dialect; skips aloud where the data is not there."""
    path = SHARED / "traffic" / f"{dialect}.jsonl.gz"
    if not path.exists():
        pytest.skip("../shared is missing: recorded traffic can't be replayed")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def provider_of(row: dict[str, Any], dialect: str) -> Provider:
    """The section that such an exchange would go to."""
    preset = row["provider"]
    quirks = Quirks(states_cost=preset in ("openrouter", "xai"))
    return Provider(preset, preset, f"https://{row['host']}", (dialect,), quirks=quirks)


def inbound_of(row: dict[str, Any]) -> Inbound:
    """The recorded request as the edge would hand it on."""
    body = b"" if row["request_body"] is None else json.dumps(row["request_body"]).encode()
    path, _, query = row["path"].partition("?")
    return Inbound(
        method=row["method"],
        section=None,
        path=path,
        match=path,
        query=query,
        headers=(),
        body=body,
        labels=Labels(),
        tenant="",
        key=None,
        at=0.0,
    )


def cuts(body: bytes, seed: str) -> Iterator[list[bytes]]:
    """The body whole, byte by byte (a long one in small pieces), and cut at random places."""
    yield [body]
    step = 1 if len(body) < 60_000 else 7
    yield [body[at : at + step] for at in range(0, len(body), step)]
    chance = random.Random(seed)
    places = sorted(chance.randrange(len(body) + 1) for _ in range(12))
    yield [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def differences(reply: Reply, expected: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where a Reply differs from the ground truth: name -> (expected, got)."""
    usage = reply.usage
    got = {
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
        "cached_tokens": usage and usage.cache_read_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "response_id": reply.response_id,
        "tool_calls": [call.name for call in reply.tool_calls],
    }
    return {name: (expected[name], value) for name, value in got.items() if expected[name] != value}


def read_stream(reader: Any, pieces: list[bytes]) -> tuple[bytes, Reply]:
    """What a client gets of a stream, and what was understood of it."""
    out = [reader.feed(piece) for piece in pieces]
    reply = reader.reply()
    out.append(reader.rest())
    return b"".join(out), reply


def bounded_by_bytes(call: Call) -> bool:
    """Does all input of a call stand in its body, as text?"""
    size = call.size
    return not (size.images or size.other_media or size.unseen or size.hosted)


def unoffered(reply: Reply) -> list[str]:
    """Names of tool calls that the request did not offer."""
    return [made.name for made in reply.tool_calls if not made.known]
