"""edge/leash.py: what goes over the pair, and that its end is noticed on either side."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.edge.leash import Leash, Said, Text, Told, adopted, framed


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Leash]]:
    """The supervisor's end, and the worker's leash."""
    ours, theirs = socket.socketpair()
    leash = Leash(theirs)
    yield ours, leash
    ours.close()
    theirs.close()


def told(text: str, number: int = 1) -> bytes:
    return framed(Told(Text("some/where.toml", text, number), worker=2))


def test_the_first_message_says_all(pair: tuple[socket.socket, Leash]) -> None:
    """Whole, however it is cut; with the worker's number, which its log lines carry."""
    ours, leash = pair
    message = framed(Told(Text("a.toml", 'x = "é\n"'), 3, {"data": [5, 6]}, [(["server", "port"], 1)]))
    for begin in range(0, len(message), 7):
        ours.send(message[begin : begin + 7])
    got = leash.first()
    assert got is not None
    assert (3, {"data": [5, 6]}, [(["server", "port"], 1)]) == (got.worker, got.listeners, got.flags)
    assert (Path("a.toml"), 'x = "é\n"', 3) == (got.config.path, got.config.text, leash.worker)


def test_a_supervisor_that_is_gone_at_the_start_is_noticed(pair: tuple[socket.socket, Leash]) -> None:
    """Nothing to serve; and nobody to tell why."""
    ours, leash = pair
    ours.close()
    assert leash.first() is None
    leash.fail("no ledger")


async def test_later_configurations_are_handed_on_until_the_end(pair: tuple[socket.socket, Leash]) -> None:
    """In their order; the end of the pair is told once."""
    ours, leash = pair
    got: list[str] = []
    gone = asyncio.Event()
    held = [leash.held]
    await leash.hold(lambda config: got.append(f"{config.number} {config.text}"), gone.set)
    assert [False, True] == [*held, leash.held]
    ours.send(told("one") + told("two", 2))
    leash.say(Said("taken", number=2))
    assert Said("taken", number=2) == msgspec.json.decode(await asyncio.to_thread(ours.recv, 1000), type=Said)
    ours.close()
    await asyncio.wait_for(gone.wait(), 5)
    assert ["1 one", "2 two"] == got
    leash.release()
    leash.say(Said("taken"))  # nobody listens, nothing happens


@pytest.mark.parametrize("garbage", [b"{]\n", b"half a line", b"\xff\n"])
async def test_what_can_not_be_read_is_an_end(pair: tuple[socket.socket, Leash], garbage: bytes) -> None:
    """A supervisor that says what nobody understands is as good as gone."""
    ours, leash = pair
    gone = asyncio.Event()
    await leash.hold(lambda _config: None, gone.set)
    ours.send(garbage)
    ours.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(gone.wait(), 5)
    leash.release()


def test_an_adopted_listener_is_handed_to_no_child() -> None:
    """A helper process of a worker must not keep the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        copy = os.dup(listener.fileno())
        os.set_inheritable(copy, True)
        (one,) = adopted([copy])
        assert listener.getsockname() == one.getsockname()
        assert not one.get_inheritable() and not one.getblocking()
        one.close()
