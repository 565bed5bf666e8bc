"""Recorded provider traffic through the real gateway: the same bytes, and the tokens that were really told."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.core.presets import PRESETS
from tests.e2e.replay import BYTES, RANDOM, TRAFFIC, WHOLE, Recorded, answer_of, exchanges, request_of
from tests.play import Gateway

METERED = ("openai-chat", "openai-responses", "openai-completions", "openai-embeddings", "anthropic-messages")
OTHERS = ("gemini", "bedrock-converse", "bedrock-invoke", "cohere-chat", "ollama", "gemini-embeddings", "other")
SPOKEN = '["openai-chat", "openai-responses", "openai-embeddings", "openai-completions", "anthropic-messages"]'

pytestmark = pytest.mark.shared


@pytest.fixture(autouse=True)
def _recorded() -> None:
    if not TRAFFIC.is_dir():
        pytest.skip("../shared is missing: no recorded traffic")


def config(origin: str, providers: set[str], unknown: str = "allow") -> str:
    """One section for each recorded provider, all at the replaying one."""
    budget = '[[budgets]]\nname = "watched"\nscope = "run"\nusd = 1\nmode = "shadow"'
    lines = [f'[prices]\nunknown = "{unknown}"', budget]
    for name in sorted(providers):
        preset = f'preset = "{name}"\n' if name in PRESETS else ""
        lines.append(f'[providers.{name}]\n{preset}base_url = "{origin}"\ndialects = {SPOKEN}')
    return "\n".join(lines)


async def replay(
    gateway: Gateway, recorded: Recorded, found: list[dict[str, Any]], hows: tuple[str, ...]
) -> dict[str, tuple[int, bytes]]:
    """Sends every exchange once for each way of cutting; what the client got, by `id how`."""
    got: dict[str, tuple[int, bytes]] = {}
    gate = asyncio.Semaphore(16)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def one(exchange: dict[str, Any], how: str) -> None:
            mark = f"{exchange['id']} {how}"
            headers = {"x-replay": mark, "x-meterbox-run-id": f"{exchange['id']}-{how}"}
            headers["content-type"] = exchange["request_headers"].get("content-type", "application/json")
            body = request_of(exchange)
            async with gate:
                url = f"{gateway.url}/{exchange['provider']}{exchange['path']}"
                data = body if body or exchange["method"] == "POST" else None
                async with session.request(exchange["method"], url, data=data, headers=headers) as answer:
                    got[mark] = (answer.status, await answer.read())

        recorded.known.update({exchange["id"]: exchange for exchange in found})
        await asyncio.gather(*(one(exchange, how) for exchange in found for how in hows))
    return got


def wrong(exchange: dict[str, Any], calls: list[dict[str, Any]]) -> list[str]:
    """Where a call as the ledger tells it differs from what was on the wire."""
    if len(calls) != 1:
        return [f"{len(calls)} calls listed"]
    call, expected = calls[0], exchange["expected"]
    usage = call["usage"] or {}
    pairs = [
        ("input_tokens", usage.get("input_tokens")),
        ("output_tokens", usage.get("output_tokens")),
        ("cached_tokens", usage.get("cache_read_tokens")),
        ("cache_write_tokens", usage.get("cache_write_tokens")),
        ("reasoning_tokens", usage.get("reasoning_tokens")),
        ("model", call["response_model"]),
        ("finish_reason", call["finish_reason"]),
    ]
    off = [
        f"{name}: {value!r}, expected {expected[name]!r}"
        for name, value in pairs
        if (value or None) != (expected[name] or None)
    ]
    names = [tool["name"] for tool in call["tool_calls"]]
    told = [tool["name"] if isinstance(tool, dict) else tool for tool in expected["tool_calls"]]
    return off if names == told else [*off, f"tool calls: {names}, expected {told}"]


async def test_bytes_and_tokens_equal_the_recording(tmp_path: Path) -> None:
    """Every answer is byte for byte the provider's, under three chunkings, and 99.5 % of the figures are exact (R-060,
    R-063, R-087)."""
    found = [exchange for dialect in METERED for exchange in exchanges(dialect)]
    recorded = Recorded()
    await recorded.start()
    providers = {exchange["provider"] for exchange in found}
    gateway = Gateway(tmp_path, config(recorded.origin, providers), server='unmetered = "allow"')
    try:
        await asyncio.to_thread(gateway.start)
        got = await replay(gateway, recorded, found, (WHOLE, BYTES, RANDOM))
        changed = [
            mark
            for exchange in found
            for mark in (f"{exchange['id']} {how}" for how in (WHOLE, BYTES, RANDOM))
            if got[mark] != (exchange["status"], answer_of(exchange))
        ]
        off: dict[str, list[str]] = {}
        total = 0
        for exchange in found:
            if exchange["status"] >= 400:
                continue
            total += 1
            for how in (WHOLE, BYTES, RANDOM):
                items = await asyncio.to_thread(gateway.items, f"/api/runs/{exchange['id']}-{how}/calls")
                if why := wrong(exchange, items):
                    off.setdefault(exchange["id"], []).extend(f"{how}: {one}" for one in why)
    finally:
        gateway.stop()
        await recorded.stop()
    by_id = {exchange["id"]: exchange for exchange in found}
    for name, why in off.items():
        print(by_id[name]["dialect"], by_id[name]["provider"], by_id[name]["path"], name, "; ".join(why))
    print(f"{total - len(off)} of {total} exact; {Counter(by_id[name]['dialect'] for name in off)}")
    assert [] == changed
    assert len(off) <= total * 0.005


async def test_other_dialects_pass_only_where_the_operator_allows_it(tmp_path: Path) -> None:
    """What isn't understood passes byte for byte with unmetered = "allow", and is refused under a budget otherwise."""
    found = [exchange for dialect in OTHERS for exchange in exchanges(dialect)]
    # an encoded slash gets 400 (http.md section 2): one recorded Bedrock path names an ARN with one
    found = [exchange for exchange in found if "%2f" not in exchange["path"].lower()]
    recorded = Recorded()
    await recorded.start()
    providers = {exchange["provider"] for exchange in found}
    text = config(recorded.origin, providers)
    (tmp_path / "open").mkdir()
    (tmp_path / "shut").mkdir()
    try:
        with Gateway(tmp_path / "open", text, server='unmetered = "allow"') as gateway:
            got = await replay(gateway, recorded, found, (RANDOM,))
        with Gateway(tmp_path / "shut", text) as gateway:
            shut = await replay(gateway, recorded, [e for e in found if e["dialect"] == "gemini"][:40], (WHOLE,))
    finally:
        await recorded.stop()
    changed = [e["id"] for e in found if got[f"{e['id']} {RANDOM}"] != (e["status"], answer_of(e))]
    for name in changed:
        exchange = recorded.known[name]
        print(
            exchange["method"], exchange["provider"], exchange["path"], got[f"{name} {RANDOM}"][0], exchange["status"]
        )
    assert [] == changed
    assert {403} == {status for status, _ in shut.values()}
    assert all(b"unmetered_path" in body for _, body in shut.values())
