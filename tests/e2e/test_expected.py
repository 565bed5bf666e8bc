"""A real gateway under mode `expected`: streams that the worst case would clamp, and a bound on what they overspend."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.spending import call, chat, scripted
from tests.play import NUSD, Answer, Gateway, nusd

LIMIT = NUSD // 50
SLICE = 256
OUT_NUSD = 1000  # a token of output at the dearest tier that a call may be billed at
BUDGET = f'[[budgets]]\nname = "likely"\nscope = "run"\nusd = {LIMIT / NUSD}\nmode = "expected"\n'


async def storm(gateway: Gateway, run: str, calls: int, knobs: str) -> list[Answer]:
    """So many streams at once; no output limit is named, so the worst case is the model's greatest."""
    body: dict[str, Any] = chat(True, 20)
    return list(await asyncio.gather(*(call(gateway, run, body, x_scripted=knobs) for _ in range(calls))))


async def test_parallel_streams_go_at_once_and_stay_within_the_bound(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    """Ten answers teach the run what is likely. Then twelve streams go at once, unclamped, where the worst case of one
    fits twice; and when forty run long (800 tokens a second), the limit is passed by a slice for each at most."""
    provider.script = Script(output_tokens=100, chunk_tokens=16)
    with Gateway(tmp_path, scripted(provider, BUDGET)) as gateway:
        for _ in range(10):
            assert 200 == (await call(gateway, "r", chat(True, 20))).status
        answers = await storm(gateway, "r", 12, '{"gap_s": 0.05}')
        assert {(200, None)} == {(answer.status, answer.headers.get("x-meterbox-clamped")) for answer in answers}
        assert all(answer.body.endswith(b"[DONE]\n\n") for answer in answers)
        long = await storm(gateway, "r", 40, '{"output_tokens": 1500, "gap_s": 0.02}')
        served = [answer for answer in long if answer.status == 200]
        cut = [answer for answer in served if b"insufficient_quota" in answer.body]
        assert cut and all(b"pays for no more than" in answer.body for answer in cut)
        await asyncio.wait_for(provider.quiet(), 20)
        told = await asyncio.to_thread(gateway.quiet, "r")
        spent, bill = nusd(told["spent_usd"]), provider.bill_nusd("r")
        assert 0 == nusd(told["held_usd"]) and bill <= spent
        assert spent <= LIMIT + len(served) * SLICE * OUT_NUSD
