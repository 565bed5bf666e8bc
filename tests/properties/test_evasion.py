"""No trick gets a call for nothing: what reaches the provider is charged at least its bill, in every dialect.

Invariant: each trick is tried against an answer with usage and one without; it is refused before it is sent, or paid
for (ledger.md section 13, 7). What never enters: how a dialect sees through it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.properties.endpoints import METERED, Endpoint, Trip, TrippedOutlet, world_of
from tests.walking import World

Body = dict[str, Any]
LIMITS = {
    "chat": ("max_tokens", "max_completion_tokens"), "messages": ("max_tokens", "max_output_tokens"),
    "responses": ("max_output_tokens", "max_tokens"), "completion": ("max_tokens", "max_completion_tokens"),
}  # fmt: skip
URL = "https://example.invalid/a.png"
OUTPUT = [one for one in METERED if one.name != "embedding"]
STREAMS = [one for one in METERED if "streamed" in one.name]


def limits_of(endpoint: Endpoint) -> tuple[str, str]:
    """The names of an output limit: the endpoint's own, and another one."""
    return LIMITS[endpoint.name.split()[0]]


async def send(endpoint: Endpoint, body: Any, bare: bool, **headers: str) -> tuple[World, TrippedOutlet]:
    """One call that tries something."""
    world, outlet = world_of(endpoint, Trip("", "", 0), endpoint.bare if bare else endpoint.answer)
    await world.call(body, endpoint.path, outlet, provider=endpoint.provider, **headers)
    assert world.sound()
    return world, outlet


async def bill_of(endpoint: Endpoint) -> int:
    """What the provider bills for its answer."""
    world, _ = await send(endpoint, endpoint.body, False)
    assert "price_list" == world.last.cost_source and world.spent() > 0
    return world.spent()


async def pays(endpoint: Endpoint, body: Any, **headers: str) -> list[bool]:
    """Tries a body on an answer with usage and on one without. Was it sent? Then it was paid for."""
    bill, was_sent = await bill_of(endpoint), []
    for bare in (False, True):
        world, outlet = await send(endpoint, body, bare, **headers)
        was_sent.append(bool(world.upstream.sent))
        if world.upstream.sent:
            assert world.spent() >= bill, (bare, world.last)
            assert not bare or world.spent() == world.last.hold_nusd, world.last
        else:
            assert outlet.status is not None and 400 <= outlet.status < 500, outlet.status
            assert 0 == world.spent()
    return was_sent


def every(endpoints: list[Endpoint] | tuple[Endpoint, ...]) -> Any:
    return pytest.mark.parametrize("endpoint", endpoints, ids=lambda one: one.name)


@every(METERED)
async def test_an_answer_without_usage_is_charged_at_its_hold(endpoint: Endpoint) -> None:
    """Silence of the provider is no discount."""
    assert [True, True] == await pays(endpoint, endpoint.body)


@every(STREAMS)
async def test_who_leaves_before_the_last_chunk_pays_the_hold(endpoint: Endpoint) -> None:
    """Whichever chunk is the last that he reads, the usage that he never saw is on the bill."""
    bill, seen = await bill_of(endpoint), 0
    for left_at in range(1, len(endpoint.answer.chunks)):
        world, outlet = world_of(endpoint, Trip("", "", 0))
        outlet.trip = Leaving(outlet, left_at)
        await world.call(endpoint.body, endpoint.path, outlet, provider=endpoint.provider)
        if not outlet.gone:
            break
        assert world.sound() and world.spent() >= bill, (left_at, world.last)
        seen += 1
    assert seen


class Leaving(Trip):
    """The client hangs up after so many chunks."""

    def __init__(self, outlet: TrippedOutlet, at: int) -> None:
        super().__init__("", "", 0)
        self.outlet, self.left = outlet, at

    def after(self, port: str) -> None:
        self.left -= port == "outlet.write"
        if self.left <= 0:
            self.outlet.leave()


@every([one for one in STREAMS if "chat" in one.name or "completion" in one.name])
@pytest.mark.parametrize("options", [{"include_usage": False}, {}, None], ids=["false", "empty", "null"])
async def test_who_asks_for_no_usage_pays(endpoint: Endpoint, options: Any) -> None:
    """stream_options is the client's; the usage is asked for all the same, or the hold is charged."""
    assert endpoint.body is not None
    assert [True, True] == await pays(endpoint, {**endpoint.body, "stream_options": options})


@every(METERED)
@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": ""},
        {"content_type": "application/json; charset=utf-16"},
    ],
    ids=lambda one: one["content_type"] or "none",
)
async def test_an_odd_content_type_is_no_disguise(endpoint: Endpoint, headers: dict[str, str]) -> None:
    """The body is what it is, whatever its label says."""
    await pays(endpoint, endpoint.body, **headers)


@every(METERED)
@pytest.mark.parametrize("encoding", ["gzip", "identity", "br"])
async def test_a_compressed_body_is_no_disguise(endpoint: Endpoint, encoding: str) -> None:
    """What can't be read is not sent: bytes that are no JSON are refused, whatever they say they are."""
    packed = gzip.compress(json.dumps(endpoint.body).encode())
    assert [False, False] == await pays(endpoint, packed, content_encoding=encoding)


def twice(body: Body) -> Iterator[bytes]:
    """The same body with one of its keys written twice, the cheaper value first, then last."""
    text = json.dumps(body).encode()
    for key, cheap in (("model", "gpt-4o-mini"), ("max_tokens", 1), ("max_output_tokens", 1), ("stream", False)):
        if key in body:
            told = b'"%s":%s' % (key.encode(), json.dumps(cheap).encode())
            yield b"{" + told + b"," + text[1:]
            yield text[:-1] + b"," + told + b"}"
            yield (
                text[:-1] + b',"' + "".join(f"\\u{ord(one):04x}" for one in key).encode() + told[len(key) + 1 :] + b"}"
            )


@every(METERED)
async def test_a_key_that_is_written_twice_is_refused(endpoint: Endpoint) -> None:
    """Two parsers could read it differently, so nobody gets to read it; also where one is spelled with escapes."""
    assert endpoint.body is not None
    for body in twice(endpoint.body):
        json.loads(body)
        assert [False, False] == await pays(endpoint, body), body


@every(OUTPUT)
@pytest.mark.parametrize("low", [1, 5000])
async def test_a_limit_under_two_names_is_no_disguise(endpoint: Endpoint, low: int) -> None:
    """Whichever of the two the provider obeys, that much was held: an answer without usage costs at least its bill."""
    own, other = limits_of(endpoint)
    assert endpoint.body is not None
    await pays(endpoint, {**endpoint.body, own: 100, other: low})
    await pays(endpoint, {**endpoint.body, own: 5000, other: 100})


@every(OUTPUT)
@pytest.mark.parametrize(
    "limit", [-1, -(2**63), 0.5, 1e30, 2**53, 2**70, 10**18, "100", [], {}, True, 0],
    ids=lambda value: repr(value)[:12],
)  # fmt: skip
async def test_an_impossible_limit_is_refused_or_held_for(endpoint: Endpoint, limit: Any) -> None:
    """Negative, broken, huge, or no number at all: never a hold of nothing for an answer of something."""
    own, other = limits_of(endpoint)
    assert endpoint.body is not None
    for name in (own, other):
        body = {**endpoint.body, name: limit}
        world, _ = await send(endpoint, body, True)
        if world.upstream.sent:
            assert 0 < world.spent() == world.last.hold_nusd, (name, limit)
        else:
            assert 0 == world.spent()


@every(METERED)
@pytest.mark.parametrize(
    "spell", ["my-alias", " {}", "{}\u200b", "", None, "free/{}", "x" * 300],
    ids=["alias", "blank", "invisible", "empty", "null", "prefix", "long"],
)  # fmt: skip
async def test_an_unknown_model_is_not_free(endpoint: Endpoint, spell: str | None) -> None:
    """A name without a price is refused where a budget applies, and never sent at $0."""
    assert endpoint.body is not None
    body = {**endpoint.body, "model": spell and spell.format(endpoint.body["model"])}
    for bare in (False, True):
        world, outlet = await send(endpoint, body, bare)
        assert not world.upstream.sent or world.spent() > 0, world.last
        assert world.upstream.sent or (outlet.status or 0) >= 400


MEDIA: dict[str, Callable[[Body], Body]] = {
    "chat": lambda body: {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": URL}}]}]},
    "messages": lambda body: {"messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "url", "url": URL}}]}]},
    "responses": lambda body: {"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": URL}, {"type": "input_file", "file_url": URL}]}]},
}  # fmt: skip


@every([one for one in METERED if one.name.split()[0] in MEDIA])
async def test_media_behind_a_url_are_held_for(endpoint: Endpoint) -> None:
    """What is not in the request is bounded by what it may be, so its hold is larger than that of the words alone."""
    assert endpoint.body is not None
    plain, _ = await send(endpoint, endpoint.body, True)
    body = {**endpoint.body, **MEDIA[endpoint.name.split()[0]](endpoint.body)}
    world, outlet = await send(replace(endpoint, body=body), body, True)
    if world.upstream.sent:
        assert world.spent() == world.last.hold_nusd > plain.last.hold_nusd + 85 * 150  # the least that an image costs
    else:
        assert (outlet.status or 0) >= 400 and 0 == world.spent()
