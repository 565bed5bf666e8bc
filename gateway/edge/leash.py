"""What ties a worker to its supervisor: one socket pair, a line of JSON for each message, and its end.

Invariant: when either side dies, the kernel closes the pair, so the other one knows at once; a worker that lost its
supervisor stops as if it were told to. What never enters: how a call is served, a secret (a configuration's text
names environment variables, or is the operator's own file).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

DATA, CONTROL = "data", "control"
MOST_LINE_BYTES = 16 << 20  # a configuration of 1 MB, each character escaped


class Text(Struct, frozen=True):
    """A configuration as it was read once: every worker gets the same, whatever happens to the file meanwhile."""

    file: str | None = None  # None: there is none, the defaults hold
    text: str = ""
    number: int = 0  # of the reading, counted by the supervisor

    @property
    def path(self) -> Path | None:
        """Where it was read: names places in errors, and relative paths begin beside it."""
        return Path(self.file) if self.file is not None else None


class Told(Struct, frozen=True):
    """From the supervisor to a worker: the first message says all, each later one is a configuration to take over."""

    config: Text
    worker: int = 0  # its number, from 1
    listeners: dict[str, list[int]] = {}  # plane -> descriptors of sockets that listen already
    flags: list[tuple[list[str], str | int]] = []  # what the command line said


class Said(Struct, frozen=True):
    """From a worker to its supervisor. ready: it serves; failed: it can't start; taken, refused: a configuration."""

    kind: str
    why: str = ""
    number: int = 0  # of the configuration


class Leash:
    """A worker's end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._writer: asyncio.StreamWriter | None = None
        self.worker = 0

    def first(self) -> Told | None:
        """Waits for the first message; None: the supervisor is gone already. Before there is an event loop."""
        line = b""
        while not line.endswith(b"\n"):  # the second comes only after we said that we are ready
            got = self._channel.recv(1 << 20)
            if not got:
                return None
            line += got
        told = msgspec.json.decode(line, type=Told)
        self.worker = told.worker
        return told

    def fail(self, why: str) -> None:
        """Says why this worker can't start. Where nobody listens, the exit status says enough."""
        try:
            self._channel.setblocking(True)
            self._channel.sendall(framed(Said("failed", why)))
        except OSError:
            return

    async def hold(self, on_told: Callable[[Text], object], on_gone: Callable[[], None]) -> asyncio.Task[None]:
        """From now on, later configurations go to `on_told`, the end to `on_gone`. Close it with `release`."""
        self._channel.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=self._channel, limit=MOST_LINE_BYTES)
        return asyncio.get_running_loop().create_task(self._listen(reader, on_told, on_gone), name="leash")

    @property
    def held(self) -> bool:
        """Does the event loop listen to it?"""
        return self._writer is not None

    def say(self, said: Said) -> None:
        """Tells the supervisor."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(framed(said))

    def release(self) -> None:
        """The worker ends."""
        if self._writer is not None:
            self._writer.close()

    async def _listen(
        self, reader: asyncio.StreamReader, on_told: Callable[[Text], object], on_gone: Callable[[], None]
    ) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                on_told(msgspec.json.decode(line, type=Told).config)
        except (OSError, ValueError):
            pass  # a broken pair is an end, too
        on_gone()


def framed(message: Struct) -> bytes:
    """A message as it goes over the pair."""
    return msgspec.json.encode(message) + b"\n"


def adopted(descriptors: Sequence[int]) -> list[socket.socket]:
    """Listening sockets that were handed down; no process that this one starts inherits them in turn."""
    found = []
    for descriptor in descriptors:
        one = socket.socket(fileno=descriptor)
        one.set_inheritable(False)
        one.setblocking(False)
        found.append(one)
    return found
