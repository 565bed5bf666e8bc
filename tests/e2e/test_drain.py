"""A stop while clients go on asking on connections that are open: no call is cut that had begun, nobody waits in vain.

Invariant: a real `serve`, a scripted provider whose answers take a while, and clients that keep their connection.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.test_workers import section
from tests.play import Gateway

BODY = {"model": "gpt-4o-mini", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "words "}]}


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """Its answers take half a second."""
    started = ScriptedProvider()
    started.script = Script(output_tokens=20, first_s=0.1, gap_s=0.05)
    await started.start()
    yield started
    await started.stop()


def asks(port: int, run: str, ends: list[bool], began: list[str]) -> None:
    """Call after call on one connection, until it is closed; whether each answer came whole."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as line:
        while True:
            try:
                began.append(run)
                headers = {"x-meterbox-run-id": run, "content-type": "application/json"}
                line.request("POST", "/scripted/v1/chat/completions", json.dumps(BODY), headers)
                answer = line.getresponse()
            except (ConnectionError, http.client.BadStatusLine):
                return  # closed before an answer began: another connection, another gateway
            ends.append(answer.status == 200 and b"[DONE]" in answer.read())


async def test_a_stop_cuts_no_call_of_clients_that_go_on(tmp_path: Path, provider: ScriptedProvider) -> None:
    """All answers that began came whole, all calls were settled at their price, and the stop took no longer."""
    gateway = Gateway(tmp_path, section(provider))
    ends: list[bool] = []
    began: list[str] = []
    try:
        await asyncio.to_thread(gateway.start)
        clients = [asyncio.to_thread(asks, gateway.port, f"r{number}", ends, began) for number in range(4)]
        going = asyncio.gather(*clients)
        while len(began) < 10:  # noqa: ASYNC110  the clients are threads
            await asyncio.sleep(0.01)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        await going
        assert 0 == await asyncio.to_thread(gateway.process.wait, 20)
        assert time.monotonic() - stopped_at < 12
    finally:
        await asyncio.to_thread(gateway.stop)
    assert ends and all(ends)
    assert [] == gateway.said("drain_cut")
    with closing(sqlite3.connect(gateway.ledger)) as ledger:
        states = dict(ledger.execute("SELECT state, count(*) FROM reservation GROUP BY state").fetchall())
    assert {"settled": len(ends)} == states
