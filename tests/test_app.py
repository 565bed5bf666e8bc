"""Tests of app.py: the gateway put together on a ledger of its own, opened and taken apart again."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import app
from gateway.config import Settings, load
from gateway.core.errors import ConfigError, StoreFailed
from gateway.demo.provider import ScriptedProvider
from tests.ledgers import exchange, order
from tests.walking import World, whole


def settings(folder: Path, more: str = "", server: str = "port = 0") -> Settings:
    """A gateway on a free port with its ledger in this folder."""
    path = folder / "meterbox.toml"
    path.write_text(f'[server]\n{server}\n[stores.sqlite]\npath = "{folder}/ledger.db"\n{more}')
    return load(path, {})


async def fetched(url: str, **more: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(more.pop("method", "GET"), url, **more) as answer:
        return answer.status, await answer.json(content_type=None)


def test_each_format_is_spoken_once():
    """Five formats, in the order in which paths are matched."""
    assert [
        "openai-chat",
        "openai-responses",
        "anthropic-messages",
        "openai-embeddings",
        "openai-completions",
    ] == [dialect.name for dialect in app.dialects()]


async def test_a_call_goes_through_all_of_it(tmp_path: Path):
    """From the socket to the provider and the ledger and back, by the control plane's own word."""
    provider = ScriptedProvider()
    await provider.start()
    section = f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n'
    try:
        async with AsyncExitStack() as stack:
            where = (await app.build(settings(tmp_path, section), stack)).where
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
            status, _ = await fetched(
                f"{where}/run/r/scripted/v1/chat/completions", method="POST", data=json.dumps(body)
            )
            assert 200 == status
            _, run = await fetched(f"{where}/api/runs/r")
            assert ("10", "0", 1) == (run["limits"]["usd"], run["held_usd"], run["calls"])
            assert 0 < float(run["spent_usd"])
    finally:
        await provider.stop()


async def test_the_log_names_providers_as_the_file_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The first section that has a dialect is its default, so their order says who serves what."""
    names = ["e", "d", "c", "b", "a"]
    more = "".join(
        f'[providers.{name}]\nbase_url = "http://localhost:1"\ndialects = ["openai-chat"]\n' for name in names
    )
    async with AsyncExitStack() as stack:
        await app.build(settings(tmp_path, more), stack)
    told = capsys.readouterr()
    (started,) = [line for line in (told.err + told.out).splitlines() if '"started"' in line]
    assert "e, d, c, b, a, openai, anthropic" == json.loads(started)["providers"]


async def test_it_is_taken_apart_and_put_together_again(tmp_path: Path):
    """Nothing is left open: the same ledger opens again in the same process."""
    for _ in range(2):
        async with AsyncExitStack() as stack:
            where = (await app.build(settings(tmp_path), stack)).where
            assert 200 == (await fetched(f"{where}/livez"))[0]
        with pytest.raises(aiohttp.ClientConnectionError):
            await fetched(f"{where}/livez")


async def test_a_port_that_is_taken_leaves_nothing_open(tmp_path: Path):
    """OSError, and the ledger is closed again."""
    async with AsyncExitStack() as first:
        where = (await app.build(settings(tmp_path), first)).where
        port = where.rsplit(":", 1)[1]
        other = tmp_path / "other"
        other.mkdir()
        for _ in range(2):
            with pytest.raises(OSError, match="address already in use"):
                async with AsyncExitStack() as stack:
                    await app.build(settings(other, server=f"port = {port}"), stack)


async def test_a_broken_ledger_keeps_the_door_shut(tmp_path: Path):
    """No ledger, no port: StoreFailed names the file, which stays as it is."""
    file = tmp_path / "ledger.db"
    file.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreFailed, match=r"ledger\.db"):
        async with AsyncExitStack() as stack:
            await app.build(settings(tmp_path), stack)
    assert b"not a database" * 1000 == file.read_bytes()


async def test_the_control_plane_moves_to_a_port_of_its_own(tmp_path: Path):
    """With an admin_port the data plane's port tells nothing of runs (http.md section 1)."""
    server = f'port = 0\nadmin_port = 0\nadmin_token = "{"t" * 40}"'
    async with AsyncExitStack() as stack:
        where = (await app.build(settings(tmp_path, server=server), stack)).where
        assert 404 == (await fetched(f"{where}/api/runs"))[0]


async def test_conversations_are_known_again_by_the_newest_calls():
    """Calls only, oldest first: what the index is restored from after a restart."""
    world = World(whole())
    for name in ("c1", "c2", "c3"):
        await world.store.reserve(order(name))
        await world.store.settle(f"{name}/1", {"nusd": 1}, exchange(name, 1))
    assert ["c2", "c3"] == [call.call_id for call in app.calls_of(world.store.reading().newest(2))]


async def test_another_configuration_takes_over_in_one_step(tmp_path: Path):
    """Nothing of it counts before the swap, all of it after; what didn't change stays the same object."""
    async with AsyncExitStack() as stack:
        gateway = await app.build(settings(tmp_path), stack)
        front, parts = gateway.front, gateway.parts
        more = '[runs]\nwait_s = 3\nidle_s = 7\n[prices]\nunknown = "allow"\n'
        swap = await gateway.prepare(settings(tmp_path, more, "port = 0\nmax_body_mb = 1"))
        assert (front, 600) == (gateway.front, gateway.store.idle_s)
        swap()
        assert (7, 3, 1 << 20) == (gateway.store.idle_s, gateway.parts.wait_s, gateway.front.body_bytes)
        assert front.walker is not gateway.front.walker
        for name in ("upstream", "prices", "store", "index", "kin", "live", "tokenizer"):
            assert getattr(parts, name) is getattr(gateway.parts, name), name
        assert (front.routes, front.keys) == (gateway.front.routes, gateway.front.keys)


async def test_what_changed_is_made_anew(tmp_path: Path):
    """Routes and connections for other providers, a list for other prices, a door for other keys."""
    async with AsyncExitStack() as stack:
        gateway = await app.build(settings(tmp_path), stack)
        front, parts = gateway.front, gateway.parts
        more = (
            '[providers.scripted]\nbase_url = "http://127.0.0.1:9"\n[[prices.overrides]]\nmodel = "m"\ninput = 1\n'
            '[[keys]]\nname = "k"\nsecret = "abcdefgh"\nin_flight = 9\n'
        )
        swap = await gateway.prepare(settings(tmp_path, more, "port = 0\nworkers = 4\nunmetered = 'allow'"))
        swap()
        assert gateway.parts.prices is not parts.prices and gateway.parts.upstream is not parts.upstream
        assert "scripted" in gateway.front.routes.sections and front.routes is not gateway.front.routes
        key = gateway.front.keys.find("abcdefgh", 0.0)
        assert key is not None and 3 == key.in_flight  # each of four processes lets in its part of nine


async def test_keys_that_can_not_be_told_apart_change_nothing(tmp_path: Path):
    """What only the making finds out is a ConfigError before the swap."""
    same = '[[keys]]\nname = "k"\nsecret = "aaaa.bbbb"\n[[keys]]\nname = "l"\nsecret = "aaaa.cccc"\n'
    async with AsyncExitStack() as stack:
        gateway = await app.build(settings(tmp_path), stack)
        front = gateway.front
        with pytest.raises(ConfigError, match="same id"):
            await gateway.prepare(settings(tmp_path, same))
        assert front is gateway.front


def test_tuning_may_be_repeated():
    """It changes how memory is kept, not what is in it."""
    import gc

    before = gc.get_threshold()
    try:
        app.tune()
        app.tune()
        assert 20_000 == gc.get_threshold()[0]
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
