"""Sums up what the messages of one request amount to: its lineage, its tool results, its media.

Invariant: whatever a client may drop when it quotes an answer (hash 0) is no link of the chain; a conversation begins
with the first message that isn't the system's. What never enters: a dialect's message layout, a text.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from gateway.core.types import Lineage, Result
from gateway.core.wire.body import Fields
from gateway.core.wire.history import Digest, fold
from gateway.core.wire.openai_request import read_model


class Tally(Struct, frozen=True):
    """The messages of a request together."""

    lineage: Lineage
    results: tuple[Result, ...] = ()
    images: int = 0
    media: bool = False
    media_bytes: int = 0
    extra_bytes: int = 0
    unseen: bool = False
    cache_write: str = ""


def tally(
    digests: Sequence[Digest], system: int = 0, body_session: str | None = None, previous: str | None = None
) -> Tally:
    """Adds up digests in the order of their messages; `system`: hash of what stands beside the messages."""
    links: list[int] = []
    answers: list[int] = []
    ids: dict[str, None] = {}
    results: list[Result] = []
    first = last_answer = at = 0
    for position, digest in enumerate(digests):
        for name in digest.ids:
            ids[name] = None
        for one in digest.results:
            results.append(Result(one.tool_call_id, one.name, one.is_error, one.digest, one.size_bytes, position))
        link = digest.hash
        if link:
            if digest.answer:
                answers.append(len(links))
                last_answer = link
            if not first and not digest.system:
                first = link
            at = fold(at, link)
            links.append(at)
    return Tally(
        lineage=Lineage(
            first=first or (digests[0].hash if digests else 0),
            system=system,
            chain=tuple(links),
            answers=tuple(answers),
            last_answer=last_answer,
            ids=tuple(ids),
            body_session=body_session,
            previous=previous,
        ),
        results=tuple(results),
        images=sum([digest.images for digest in digests]),
        media=True in [digest.media for digest in digests],
        media_bytes=sum([digest.media_bytes for digest in digests]),
        extra_bytes=sum([digest.extra_bytes for digest in digests]),
        unseen=True in [digest.unseen for digest in digests],
        cache_write=dearest([digest.cache_write for digest in digests]),
    )


def dearest(lifetimes: Sequence[str]) -> str:
    """The cache write that costs most, out of "", "5m" and "1h"."""
    return "1h" if "1h" in lifetimes else "5m" if "5m" in lifetimes else ""


def model_of(fields: Fields, path: str, needed: bool = True) -> str:
    """The model that a request names. Raises Undecodable where it is missing though `needed`, or no such token."""
    if not needed and fields.get("model") is None and "/deployments/" not in path:
        return ""
    return read_model(fields, path)


def spelled_in(start: int, raw: bytes, items: Sequence[bytes]) -> list[int]:
    """Where each element of an array begins in the body, the array beginning at `start`.

    Between two elements there are only blanks and a comma, so the next occurrence is the element itself.
    """
    starts: list[int] = []
    at = 1
    for item in items:
        at = raw.index(item, at)
        starts.append(start + at)
        at += len(item)
    return starts
