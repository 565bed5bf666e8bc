"""Content through a real gateway: nothing on the disk while it is off, redacted messages once it is on (R-083).

Invariant: `serve` with two workers, a scripted provider on the wire; every file of the gateway's folder is searched.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.stores.reader import LedgerReader
from tests.e2e.observing import Receiver
from tests.e2e.test_workers import section, until
from tests.play import Gateway, fetch

CANARY = "sk-" + "canary" * 6
PHRASE = "an entirely harmless request"
ON = '[capture]\ncontent = "on"\n'


def on_disk(gateway: Gateway) -> bytes:
    """Everything that the gateway wrote, its log and its notebooks too."""
    return b"".join(path.read_bytes() for path in gateway.folder.rglob("*") if path.is_file())


async def ask(gateway: Gateway, run: str, stream: bool) -> None:
    """One call that says something harmless, and something that must never be kept."""
    said = [{"role": "user", "content": f"{PHRASE} of {run}: {CANARY}, card 4111 1111 1111 1111"}]
    body = {"model": "gpt-4o-mini", "max_tokens": 50, "stream": stream, "messages": said}
    headers = {"x-meterbox-run-id": run, "authorization": f"Bearer {CANARY}x"}
    answer = await fetch(gateway.port, "/scripted/v1/chat/completions", body, headers)
    assert 200 == answer.status, answer.body


def contents(gateway: Gateway) -> list[dict[str, Any]]:
    """What a reader finds, of each call that the journal says was captured."""
    with closing(LedgerReader(gateway.ledger)) as reading:
        named = [(entry.call_id, entry.run) for entry in reading.entries(0, limit=1_000) if entry.kind == "content"]
        found = [reading.content(call_id, run) for call_id, run in named if call_id is not None]
        return [one for one in found if one is not None]


async def test_content_is_kept_only_where_it_is_asked_for_and_never_raw(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    """Off: no word of it. On by SIGHUP: messages of whole and streamed answers, each once, without their secrets."""
    gateway = Gateway(tmp_path, section(provider), workers=2)
    try:
        await asyncio.to_thread(gateway.start)
        for stream in (False, True):
            await ask(gateway, "off", stream)
        assert [] == contents(gateway)
        assert PHRASE.encode() not in on_disk(gateway)
        gateway.write(section(provider) + ON)
        assert "capture.content" in (await asyncio.to_thread(gateway.hup))["changed"]
        for number in range(6):
            await ask(gateway, "on", number % 2 == 1)
        await until(lambda: len(contents(gateway)) == 6)
    finally:
        await asyncio.to_thread(gateway.stop)
    found = contents(gateway)
    asked = f"{PHRASE} of on: [redacted:api-key], card [redacted:card]"
    assert [asked] * 6 == [one["input"][0]["parts"][0]["content"] for one in found]
    assert ["assistant"] * 6 == [one["output"][0]["role"] for one in found]
    assert [False] * 6 == [one["truncated"] for one in found]
    raw = on_disk(gateway)
    assert PHRASE.encode() in raw
    assert not [word for word in (CANARY, "4111 1111") if word.encode() in raw]
    assert [] == gateway.said("content_lost") == gateway.said("defect")


async def test_content_that_leaves_is_what_was_captured(tmp_path: Path, provider: ScriptedProvider) -> None:
    """On the call's span at a real receiver of OTLP: the messages, the version of the redaction, and no secret."""
    receiver = Receiver()
    to = f'[projections.otlp.destinations.lab]\nendpoint = "{receiver.origin}"\ncompression = "none"\n'
    gateway = Gateway(tmp_path, section(provider) + ON + '[projections.otlp]\ncontent = "SPAN_ONLY"\n' + to)
    try:
        await asyncio.to_thread(gateway.start)
        await ask(gateway, "told", True)
        sent = f"{PHRASE} of told: [redacted:api-key], card [redacted:card]".encode()
        await until(lambda: sent in b"".join(receiver.bodies), 30)
    finally:
        await asyncio.to_thread(gateway.stop)
        receiver.stop()
    told = b"".join(receiver.bodies)
    for name in (b"gen_ai.input.messages", b"gen_ai.output.messages", b"meterbox.content.redaction"):
        assert name in told
    assert CANARY.encode() not in told and b"4111 1111" not in told


@pytest.mark.parametrize("content", ["SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"])
def test_a_gateway_that_has_nothing_to_send_does_not_start(tmp_path: Path, content: str) -> None:
    """An operator who asks for content to leave is told what else to write."""
    gateway = Gateway(tmp_path, f'[projections.otlp]\ncontent = "{content}"\n')
    with pytest.raises(AssertionError, match=r'write \[capture\] content = "on"'):
        gateway.start()
    assert json.dumps(content) in gateway.file.read_text()
