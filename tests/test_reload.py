"""Tests of reload.py: what changes, what waits for a restart, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings, load
from gateway.core.errors import ConfigError
from gateway.reload import Reload, changes, held_back

TOKEN = "t" * 40
FILE = Path("meterbox.toml")


def read(text: str) -> Settings:
    return load(FILE, {"HOME": "."}, text=text.encode())


class House:
    """Remembers what was put in force."""

    def __init__(self) -> None:
        self.now: list[Settings] = []
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.preparing = 0
        self.most = 0

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        self.preparing += 1
        self.most = max(self.most, self.preparing)
        await self.gate.wait()
        self.preparing -= 1
        if self.fails is not None:
            raise self.fails
        return lambda: self.now.append(settings)


def reloading(text: str) -> tuple[Reload, House, list[tuple[str, dict[str, Any]]]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    house = House()
    return Reload(read(text), house, lambda *line: lines.append(line)), house, lines


def budget(name: str, usd: int) -> str:
    return f'[[budgets]]\nname = "{name}"\nscope = "run"\nusd = {usd}\n'


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (budget("a", 1), budget("a", 2), ["budgets.a"]),
        (budget("a", 1), budget("b", 1), ["budgets.a", "budgets.b"]),
        ("", "[runs]\nidle_s = 5\n", ["runs.idle_s"]),
        ("", "[prices]\nunknown = 'allow'\n", ["prices.unknown"]),
        ("", "[[prices.overrides]]\nmodel = 'm'\ninput = 1\n", ["prices.overrides"]),
        ("[providers.openai]\napi_key = 'aaaa'\n", "[providers.openai]\napi_key = 'bbbb'\n", ["providers.openai"]),
        ("[[keys]]\nname = 'k'\nsecret = 'abcdefgh'\n", "", ["keys.k"]),
        ("[server]\nport = 1\n", "[server]\nport = 2\nmax_body_mb = 1\n", ["server.max_body_mb", "server.port"]),
        ("", "[stores.sqlite]\npath = 'x'\n", ["stores.sqlite"]),
        (
            "[providers.openai]\n[providers.anthropic]\n",
            "[providers.anthropic]\n[providers.openai]\n",
            ["providers (order)"],
        ),
        ("", "", []),
    ],
)
def test_changes_are_named_and_never_quoted(before: str, after: str, names: list[str]) -> None:
    """Sections, keys and budgets by their names, single settings by their path."""
    assert names == changes(read(before), read(after))


async def test_a_reload_puts_in_force_and_says_what() -> None:
    """All but what needs a restart, which is named and stays as it was."""
    reload, house, lines = reloading(budget("a", 1))
    text = "[server]\nport = 9\nunmetered = 'allow'\n[stores.sqlite]\npath = 'else'\n" + budget("a", 2)
    assert "" == await reload.take(lambda: read(text))
    (now,) = house.now
    assert (8787, "allow", None, 2_000_000_000) == (
        now.server.port,
        now.server.unmetered,
        now.stores.sqlite.path,
        now.budgets[0].usd,
    )
    told = {"changed": "budgets.a, server.unmetered", "needs_restart": "server.port, stores.sqlite"}
    assert [("reloaded", told)] == lines
    assert "" == await reload.take(lambda: read(text))
    assert "nothing" == lines[-1][1]["changed"]


@pytest.mark.parametrize("where", ["read", "prepare"])
async def test_an_error_changes_nothing(where: str) -> None:
    """Whoever finds it: it is said, with its sentence, and what was in force stays."""
    reload, house, lines = reloading("")
    if where == "prepare":
        house.fails = ConfigError("keys: k has the same id as another key")
    text = "[runs]\nidle = 5\n" if where == "read" else "[runs]\nidle_s = 5\n"
    why = await reload.take(lambda: read(text))
    assert ("meterbox.toml:2: runs.idle: unknown key" in why) if where == "read" else ("same id" in why)
    assert ([], 600) == (house.now, reload.settings.runs.idle_s)
    assert [("reload_failed", {"why": why, "in_force": "what was before"})] == lines


async def test_a_file_that_says_nothing_any_more_is_refused() -> None:
    """A copy that is under way leaves it empty for a moment: that would lift every budget."""
    reload, house, _ = reloading(budget("a", 1))
    assert "says nothing any more" in await reload.take(lambda: read("# later\n"))
    assert [] == house.now
    reload, house, _ = reloading("")
    assert "" == await reload.take(lambda: read("")) and 1 == len(house.now)


async def test_reloads_come_one_after_the_other() -> None:
    """The last one counts, however long the first one takes."""
    reload, house, _ = reloading("")
    house.gate.clear()
    takes = [asyncio.ensure_future(reload.take(partial(read, f"[runs]\nidle_s = {s}\n"))) for s in (1, 2, 3)]
    for _ in range(200):
        await asyncio.sleep(0)
    house.gate.set()
    await asyncio.gather(*takes)
    assert ([1, 2, 3], 1) == ([now.runs.idle_s for now in house.now], house.most)


async def test_doubts_are_said_again() -> None:
    """A warning of the start is one of a reload, too."""
    reload, _, lines = reloading("")
    await reload.take(lambda: read(budget("a", 5_000)))
    assert "warning" == lines[-1][0] and "$5,000" in lines[-1][1]["what"]


def test_an_open_door_does_not_lose_its_token() -> None:
    """The old host stays until a restart: a new file that is safe only with its own host is refused."""
    before = read(f"[server]\nhost = '0.0.0.0'\nadmin_token = '{TOKEN}'\n")
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is not loopback: set admin_token"):
        held_back(before, read(""))
    after = held_back(before, read(f"[server]\nadmin_token = '{'n' * 40}'\n"))
    assert ("0.0.0.0", "n" * 40) == (after.server.host, after.server.admin_token and after.server.admin_token.reveal())
