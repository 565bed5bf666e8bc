"""The sum of a request's messages."""

from __future__ import annotations

import pytest

from gateway.core.errors import Undecodable
from gateway.core.types import Result
from gateway.core.wire.body import read_object
from gateway.core.wire.history import Digest, chain
from gateway.core.wire.tally import dearest, model_of, spelled_in, tally


def test_the_chain_skips_what_a_client_may_drop():
    """An item without a hash is no link; positions of answers count links, not items."""
    summed = tally([Digest(hash=5), Digest(hash=0), Digest(hash=7, answer=True), Digest(hash=9)])
    assert chain([5, 7, 9]) == summed.lineage.chain
    assert ((1,), 7, 5) == (summed.lineage.answers, summed.lineage.last_answer, summed.lineage.first)


def test_a_conversation_begins_behind_the_system_message():
    """The first message is the first that isn't the system's, if there is any."""
    assert 7 == tally([Digest(hash=5, system=True), Digest(hash=7)]).lineage.first
    assert 5 == tally([Digest(hash=5, system=True)]).lineage.first
    assert 0 == tally([]).lineage.first


def test_results_get_the_position_of_their_message():
    """A result's position is the index of its message in the request, skipped items counted."""
    result = Result("call_1", None, False, 3, 4, 0)
    summed = tally([Digest(hash=0), Digest(hash=2, results=(result,), ids=("call_1", "call_1"))])
    assert ((1,), ("call_1",)) == (tuple(one.position for one in summed.results), summed.lineage.ids)


def test_media_and_marks_are_summed():
    """One message with media, or with the dearest mark, decides for the request."""
    summed = tally([Digest(images=1, cache_write="5m"), Digest(images=2, media=True, unseen=True, media_bytes=9)])
    assert (3, True, True, 9) == (summed.images, summed.media, summed.unseen, summed.media_bytes)
    assert "5m" == summed.cache_write
    assert ("", "1h") == (dearest(["", ""]), dearest(["5m", "1h", ""]))


def test_a_model_must_be_a_short_token():
    """A missing model is refused unless something else names it; a strange one always is."""
    assert "" == model_of(read_object(b"{}"), "/v1/responses", needed=False)
    assert "gpt-5" == model_of(read_object(b'{"model":"gpt-5"}'), "/v1/responses")
    for body in (b"{}", b'{"model":null}', b'{"model":"a b"}', b'{"model":7}', b'{"model":"' + b"a" * 201 + b'"}'):
        with pytest.raises(Undecodable):
            model_of(read_object(body), "/v1/messages")


def test_elements_are_found_in_their_own_spelling():
    """Equal and nested elements are found each in its own place."""
    raw = b'[ {"a":[{"b":1}]} ,{"b":1},\n{"b":1}]'
    items = [b'{"a":[{"b":1}]}', b'{"b":1}', b'{"b":1}']
    starts = spelled_in(100, raw, items)
    assert items == [raw[start - 100 : start - 100 + len(item)] for start, item in zip(starts, items, strict=True)]
    assert 3 == len(set(starts))
