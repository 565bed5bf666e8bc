"""No affordable call is refused: storms of parallel calls on runs that can pay for all of them, or for half.

"Can pay for N" counts what N such calls really cost at the provider, not what the gateway has to hold for them. What
waiting adds is the time of a call in the storm less what it takes, at the median, in the same storm on a run with
plenty: so that only the wait for money counts, not that for the machine. It can't be nothing. The worst case of a call
(its input by its bytes or the tokenizer's bound, at least 256 tokens of output, at the dearest tier that it may be
billed at) is more than it costs, so that not all of them can be held at once, and who comes second waits one call's
time. The claim is that this is the exception: at the median, and on average, waiting adds less than a call takes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.spending import CHAT, CLAUDE, MESSAGES, MODEL, Storm, call, scripted, settled, storm
from tests.play import Gateway

CALLS = 100
UNKNOWN = "house-model"  # its greatest output is not known: a limit has to be set
PRICED = f'[[prices.overrides]]\nmodel = "{UNKNOWN}"\ninput = 1\noutput = 4\n'  # as the provider bills what it lacks


@pytest.fixture
def gateway(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Gateway]:
    """A gateway in front of the provider; its tokenizer is cold."""
    with Gateway(tmp_path, scripted(provider, PRICED)) as started:
        yield started


def kilobyte(model: str, stream: bool, **more: Any) -> dict[str, Any]:
    """A request of about 1 KB."""
    body = {"model": model, "messages": [{"role": "user", "content": "word " * 180}], "stream": stream, **more}
    assert 950 <= len(json.dumps(body)) <= 1100
    return body


def answers(stream: bool, seconds: float) -> Script:
    """500 tokens; a stream takes its time over them, a whole answer comes at the end."""
    if not stream:
        return Script(output_tokens=500, first_s=seconds)
    return Script(output_tokens=500, chunk_tokens=50, first_s=seconds / 5, gap_s=seconds * 4 / 5 / 14)


async def rage(gateway: Gateway, provider: ScriptedProvider, body: Any, pays_for: int, path: str = CHAT) -> Storm:
    """A storm on a run that can pay for so many of these calls; the provider's bill stays within that."""
    await call(gateway, "one", body, path=path)
    limit = provider.bill_nusd("one") * pays_for
    came = await storm(gateway, body, CALLS, limit, path)
    _, bill = await settled(gateway, provider, "r")
    assert 0 < bill <= limit
    return came


@pytest.mark.parametrize("stream", [False, True])
async def test_a_storm_that_can_be_paid_hardly_waits(
    gateway: Gateway, provider: ScriptedProvider, stream: bool
) -> None:
    """100 parallel calls without a limit on money for 100: none refused, and waiting adds less than the calls take."""
    provider.script = answers(stream, 2.0)
    came = await rage(gateway, provider, kilobyte(MODEL, stream), CALLS)
    assert CALLS == came.served
    waits = came.waits()
    assert statistics.median(waits) < came.usual_s
    assert sum(waits) < CALLS * came.usual_s


@pytest.mark.parametrize("stream", [False, True])
async def test_half_the_money_serves_half_the_storm(gateway: Gateway, provider: ScriptedProvider, stream: bool) -> None:
    """100 parallel calls on money for 50: at least 49 are served, the others are told what the run has spent."""
    provider.script = answers(stream, 0.2)
    came = await rage(gateway, provider, kilobyte(MODEL, stream), CALLS // 2)
    assert 49 <= came.served < CALLS
    refused = [answer for answer in came.answers if answer.status != 200]
    assert {402} == {answer.status for answer in refused}
    assert {"insufficient_quota"} == {answer.json()["error"]["code"] for answer in refused}


@pytest.mark.parametrize(("model", "path"), [(UNKNOWN, CHAT), (CLAUDE, MESSAGES)])
async def test_other_models_and_dialects_are_served_too(
    gateway: Gateway, provider: ScriptedProvider, model: str, path: str
) -> None:
    """Where the model's greatest output isn't known, and where the dialect asks for a limit: none is refused."""
    provider.script = answers(False, 0.1)
    more = {"max_tokens": 1024} if path == MESSAGES else {}
    assert CALLS == (await rage(gateway, provider, kilobyte(model, False, **more), CALLS, path)).served


async def test_one_call_alone_hardly_stands_aside(gateway: Gateway, provider: ScriptedProvider) -> None:
    """A lone call on a tight run isn't kept waiting for company: one after another they take no longer than 0.1 s."""
    provider.script = Script(output_tokens=20)
    took = []
    for _ in range(5):
        begun = asyncio.get_running_loop().time()
        answer = await call(gateway, "r", kilobyte(MODEL, False), x_meterbox_limit_usd="0.01")
        took.append(asyncio.get_running_loop().time() - begun)
        assert 200 == answer.status
    assert statistics.median(took) < 0.1
