"""edge/keys.py: a key is known by its digest, and its calls have a limit."""

from __future__ import annotations

import asyncio
import hmac
import stat
from pathlib import Path

import pytest

from gateway.core.errors import ConfigError
from gateway.core.secret import Secret
from gateway.core.types import Key
from gateway.edge.keys import Keys, KeySpec, Places, load_pepper, presented, split

PEPPER = b"p" * 32
TEXT = "mbx_k1.0123456789abcdef"


def digest(secret: str) -> str:
    return hmac.digest(PEPPER, secret.encode(), "sha256").hex()


@pytest.mark.parametrize(
    "spec",
    [
        KeySpec("one", secret=Secret(TEXT), agent="bot", user="u", in_flight=3),
        KeySpec("one", hash=f"mbx_k1.{digest('0123456789abcdef')}", agent="bot", user="u", in_flight=3),
    ],
    ids=["secret", "hash"],
)
def test_a_key_is_found_by_its_text_alone(spec: KeySpec) -> None:
    """Given as secret or as hash, it is the same key."""
    keys = Keys([spec], PEPPER)
    assert Key("one", "bot", "u", 3) == keys.find(TEXT, 0.0)
    for wrong in ("", "mbx_k1", "mbx_k1.", "mbx_k1.0123456789abcdeF", "mbx_k2.0123456789abcdef", TEXT + "x", TEXT * 99):
        assert keys.find(wrong, 0.0) is None


def test_a_text_without_a_point_is_a_key_as_well() -> None:
    """Any random text will do as a secret."""
    keys = Keys([KeySpec("plain", secret=Secret("just-a-long-random-text"))], PEPPER)
    assert "plain" == getattr(keys.find("just-a-long-random-text", 0.0), "name", None)
    assert keys.find("just-a-long-random-texT", 0.0) is None


def test_a_key_ends_at_its_instant() -> None:
    """Not a second later."""
    keys = Keys([KeySpec("one", secret=Secret(TEXT), expires_at=100.0)], PEPPER)
    assert keys.find(TEXT, 99.9) is not None
    assert keys.find(TEXT, 100.0) is None


def test_an_unknown_id_is_compared_as_a_known_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One digest and one comparison in each case: time tells nobody which ids exist."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = Keys([KeySpec("one", secret=Secret(TEXT))], PEPPER)
    for text in (TEXT, "mbx_k1.wrong-secret", "mbx_none.wrong-secret", "x"):
        keys.find(text, 0.0)
    assert [(32, 32)] * 4 == [(len(a), len(b)) for a, b in compared]


def test_no_secret_is_kept_or_shown() -> None:
    """Only digests remain."""
    keys = Keys([KeySpec("one", secret=Secret(TEXT))], PEPPER)
    assert "0123456789abcdef" not in repr(vars(keys))
    assert "0123456789abcdef" not in repr(KeySpec("one", secret=Secret(TEXT)))


@pytest.mark.parametrize("spec", [KeySpec("x", hash="nope"), KeySpec("x", hash="id.abcd"), KeySpec("x")])
def test_a_hash_that_is_none_stops_the_start(spec: KeySpec) -> None:
    """With the key's name and what to write."""
    with pytest.raises(ConfigError, match="keys: x"):
        Keys([spec], PEPPER)


def test_two_keys_of_one_id_stop_the_start() -> None:
    """Which of them would count?"""
    with pytest.raises(ConfigError, match="same id"):
        Keys([KeySpec("a", secret=Secret("i.aaaaaaaa")), KeySpec("b", secret=Secret("i.bbbbbbbb"))], PEPPER)


@pytest.mark.parametrize(
    ("headers", "in_path", "expected"),
    [
        ([], None, (None, "")),
        ([("authorization", "Bearer a.b")], None, ("a.b", "authorization")),
        ([("authorization", "bearer  a.b ")], None, ("a.b", "authorization")),
        ([("authorization", "a.b")], None, ("a.b", "authorization")),
        ([("x-api-key", "a.b")], None, ("a.b", "x-api-key")),
        ([("api-key", "a.b")], None, ("a.b", "api-key")),
        ([("x-goog-api-key", "a.b")], None, ("a.b", "x-goog-api-key")),
        ([("authorization", "Bearer own"), ("x-meterbox-key", "a.b")], None, ("a.b", "x-meterbox-key")),
        ([("authorization", "Bearer own"), ("x-meterbox-key", "c.d")], "a.b", ("a.b", "")),
    ],
)
def test_a_key_is_looked_for_in_path_own_header_and_usual_place(
    headers: list[tuple[str, str]], in_path: str | None, expected: tuple[str | None, str]
) -> None:
    """In this order, so that the usual place stays free for the client's own credential."""
    assert expected == presented(headers, in_path)


def test_the_id_is_what_stands_before_the_first_point() -> None:
    """The secret may hold points."""
    assert ("a", "b.c") == split("a.b.c")
    assert split(".b")[1] == ".b" and split("a.")[1] == "a."


def test_the_pepper_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    """0600, 32 bytes, the same at the next start."""
    path = tmp_path / "state" / "pepper"
    first = load_pepper(path)
    assert (32, first) == (len(first), load_pepper(path))
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert ["pepper"] == [each.name for each in path.parent.iterdir()]


def test_a_pepper_that_is_too_short_or_can_not_be_read_stops_the_start(tmp_path: Path) -> None:
    """A new one in its place would void every hash, so nobody makes one."""
    short = tmp_path / "short"
    short.write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (short, folder, short / "below"):
        with pytest.raises(ConfigError, match="pepper_file"):
            load_pepper(path)


# ------------------------------------------------------------------ places

ONE = Key("one", in_flight=2)


async def test_a_call_above_the_limit_waits_for_the_first_that_ends() -> None:
    """In line, first come first served."""
    places = Places(5.0)
    assert [True, True] == [await places.take(ONE) for _ in range(2)]
    order: list[int] = []

    async def waits(number: int) -> None:
        assert await places.take(ONE)
        order.append(number)

    waiting = [asyncio.ensure_future(waits(number)) for number in range(2)]
    await asyncio.sleep(0)
    assert [] == order
    places.free(ONE)
    await waiting[0]
    assert [0] == order
    places.free(ONE)
    await waiting[1]
    for _ in range(2):
        places.free(ONE)
    assert ({}, {}) == (places._taken, places._waiting)


async def test_a_wait_is_bounded_in_time_and_in_number() -> None:
    """Too long, or behind too many: no place."""
    places = Places(0.02)
    for _ in range(2):
        await places.take(ONE)
    first = [asyncio.ensure_future(places.take(ONE)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await places.take(ONE) is False
    assert [False, False] == [await each for each in first]
    places.free(ONE)
    assert await places.take(ONE) is True


async def test_a_place_that_comes_to_one_who_left_goes_to_the_next() -> None:
    """The client hangs up just as its turn comes: no place is lost."""
    places = Places(5.0)
    key = Key("k", in_flight=1)
    await places.take(key)
    leaves = asyncio.ensure_future(places.take(key))
    await asyncio.sleep(0)
    places.free(key)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert await places.take(key) is True


async def test_keys_do_not_wait_for_each_other() -> None:
    """A limit is a key's own."""
    places = Places(0.01)
    assert await places.take(Key("a", in_flight=1)) and await places.take(Key("b", in_flight=1))
