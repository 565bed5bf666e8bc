"""The two agents: one finishes, one runs away until it is stopped or its own bound ends it."""

import asyncio
import itertools

import aiohttp
import pytest

from gateway.demo.agents import Client, finish_task, run_away, watch_streams
from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script


@pytest.fixture
async def provider():
    """A provider on a free port."""
    provider = ScriptedProvider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def client(provider):
    """An agent's client, straight to the provider."""
    async with aiohttp.ClientSession() as http:
        yield Client(http, provider.origin, "sk-me")


async def test_the_task_is_finished_after_its_tools(provider, client):
    """Three tool calls, then the answer: four calls, and it stops."""
    provider.script = Script(tool_steps=3)
    report = await finish_task(client)
    assert (True, 4, 0) == (report.finished, report.calls, report.refused)
    assert 4 == provider.bill.calls("sk-me")


async def test_a_refusal_ends_the_task(provider, client):
    """One attempt, no retry."""
    provider.script = Script(status=402)
    report = await finish_task(client)
    assert (False, 0, 1) == (report.finished, report.calls, report.refused)
    assert "scripted" in report.said


async def test_the_runaway_goes_on_until_its_bound(provider, client):
    """Nobody stops it: every sub-agent makes every step, and each step is dearer than the one before."""
    provider.script = Script(tool_steps=-1)
    report = await run_away(client, 3, 4)
    assert (True, 12) == (report.finished, report.calls)
    sizes = sorted(row.input_tokens for row in provider.calls)[::3]
    assert all(later > earlier + 900 for earlier, later in itertools.pairwise(sizes))


async def test_a_refusal_ends_each_sub_agent(provider, client):
    """As many attempts as there are sub-agents."""
    provider.script = Script(status=402)
    report = await run_away(client, 5, 10)
    assert (0, 5, 5) == (report.calls, report.refused, provider.bill.calls())


async def test_streams_say_when_all_flow(provider, client):
    """`flowing` is set once every stream has begun; ends and breaks are counted."""
    flowing = asyncio.Event()
    provider.script = Script(output_tokens=20)
    report = await watch_streams(client, 3, flowing)
    assert (True, 3, 0) == (flowing.is_set(), report.calls, report.broken)
    provider.script = Script(output_tokens=200, cut_after=100)
    report = await watch_streams(client, 3, asyncio.Event())
    assert (0, 3) == (report.calls, report.broken)
