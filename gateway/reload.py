"""A configuration that takes the place of another while calls flow: what may change, what must wait, in one step.

Invariant: a call is served by the configuration that was in force when it was admitted, whole; a file with an error
changes nothing; what isn't known to be changeable waits for a restart and is said so by name, never by value. What
never enters: how the parts are made (gateway/app.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from gateway.config import Settings
from gateway.config_tables import Server
from gateway.core.errors import ConfigError, MeterboxError

Log = Callable[[str, dict[str, Any]], None]
Read = Callable[[], Settings]

# What a reload puts in force; all else is made once, at the start.
LIVE = ("budgets", "capture", "keys", "prices", "projections", "providers", "runs")
LIVE_SERVER = frozenset({"admin_token", "behind_tls", "max_body_mb", "unmetered"})


class House(Protocol):
    """What runs by a configuration."""

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Makes the parts that the settings decide; the function that is given back puts them in force, in one step."""
        ...


class Reload:
    """Takes configurations over, one at a time; those that come meanwhile wait."""

    def __init__(self, settings: Settings, house: House, log: Log) -> None:
        self.settings = settings  # in force
        self._house = house
        self._log = log
        self._turn = asyncio.Lock()

    async def take(self, read: Read) -> str:
        """Reads and puts in force. Returns why not; "" where it is done. Says either in the log."""
        async with self._turn:
            try:
                named = await asyncio.to_thread(read)
                _refuse_emptied(self.settings, named)
                settings = held_back(self.settings, named)
                swap = await self._house.prepare(settings)
            except MeterboxError as error:
                self._log("reload_failed", {"why": str(error), "in_force": "what was before"})
                return str(error)
            swap()
            changed, waiting = changes(self.settings, settings), changes(settings, named)
            self.settings = settings
            told = {"changed": ", ".join(changed) or "nothing"}
            self._log("reloaded", told | ({"needs_restart": ", ".join(waiting)} if waiting else {}))
            for line in settings.warnings():
                self._log("warning", {"what": line})
            return ""


def _refuse_emptied(before: Settings, after: Settings) -> None:
    """Raises ConfigError for a file that says nothing any more: more likely it is being written than meant."""
    if before.model_fields_set and not after.model_fields_set:
        raise ConfigError(
            "the configuration says nothing any more; was it being written? Put the whole file in its place in one "
            "step (mv), then reload; to go back to the defaults, restart"
        )


def held_back(before: Settings, after: Settings) -> Settings:
    """The settings with everything as it was before that only a restart can change. Raises ConfigError."""
    kept = {name: getattr(before, name) for name in Settings.model_fields if _key(name) not in LIVE}
    server = {name: getattr(before.server, name) for name in Server.model_fields if name not in LIVE_SERVER}
    try:
        # checked again: what is open to the world by the old file must not lose its token by the new one
        kept["server"] = Server.model_validate({name: getattr(after.server, name) for name in LIVE_SERVER} | server)
    except ValidationError as error:
        said = "; ".join(str(one.get("ctx", {}).get("error", one["msg"])) for one in error.errors(include_input=False))
        raise ConfigError(
            f"server: beside what only a restart can change, this can't be in force: {said}: restart instead"
        ) from None
    return after.model_copy(update=kept)


def changes(before: Settings, after: Settings) -> list[str]:
    """What differs, by name: `budgets.per-run`, `providers.openai`, `runs.idle_s`."""
    found: list[str] = []
    for name in Settings.model_fields:
        found += _differences(_key(name), getattr(before, name), getattr(after, name))
    return sorted(found)


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    one, other = _named(before), _named(after)
    if list(one) != list(other) and sorted(one) == sorted(other):
        yield f"{path} (order)"  # the first section that has a dialect is its default
    if before != after and not one and not other:
        yield path
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            yield f"{path}.{name}"


def _named(value: Any) -> dict[str, Any]:
    """The parts of a value that have names: a table's keys, a list's tables by their `name`."""
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {str(each.name): each for each in value if hasattr(each, "name")}
    return {}


def _key(field: str) -> str:
    """How the file spells a field of the settings."""
    return Settings.model_fields[field].alias or field
