"""Parameters as a span shows them: read where they are plain, left out where they are odd."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.types import Asked
from gateway.core.wire.asked import MOST_BYTES, MOST_FORMAT_BYTES, MOST_WORD, MOST_WORDS, read_asked
from gateway.core.wire.body import read_object


def asked(**body: Any) -> Asked | None:
    """What is read of this body."""
    return read_asked(read_object(json.dumps(body).encode()))


def test_a_request_without_parameters_has_none():
    """Nothing is made up."""
    assert asked(model="m", messages=[]) is None


def test_each_dialects_own_names_are_read():
    """Chat, Responses, Anthropic, embeddings."""
    assert asked(temperature=0.5, top_p=1, seed=7, stop=["a", "b"], n=2, max_completion_tokens=9) == Asked(
        temperature=0.5, top_p=1, seed=7, stop=("a", "b"), choices=2, max_tokens=9
    )
    assert asked(max_output_tokens=5, text={"format": {"type": "json_schema"}}) == Asked(
        max_tokens=5, output_type="json"
    )
    assert asked(max_tokens=5, stop_sequences=["x"], top_k=3, service_tier="auto") == Asked(
        max_tokens=5, stop=("x",), top_k=3, tier="auto"
    )
    assert asked(response_format={"type": "json_object"}, frequency_penalty=-1, presence_penalty=2) == Asked(
        output_type="json", frequency_penalty=-1, presence_penalty=2
    )
    assert asked(dimensions=256, encoding_format="base64") == Asked(dimensions=256, encodings=("base64",))
    assert asked(stop="one", max_tokens=9, max_completion_tokens=4) == Asked(stop=("one",), max_tokens=4)


@pytest.mark.parametrize(
    "odd",
    [
        {"temperature": "hot"}, {"temperature": True}, {"seed": 1.5}, {"stop": {"a": 1}}, {"stop": []}, {"n": None},
        {"response_format": "json"}, {"response_format": {"type": 3}}, {"text": {"format": []}}, {"service_tier": 4},
        {"stop": ["x" * 2 * MOST_BYTES]}, {"seed": 10**300}, {"temperature": 1e300}, {"dimensions": "many"},
    ],
)  # fmt: skip
def test_what_is_odd_is_left_out(odd):
    """No error, no value, at most the default."""
    assert asked(**odd) in (None, Asked())


def test_a_number_that_nobody_can_hold_is_left_out():
    """1e400 is well-formed JSON."""
    assert read_asked(read_object(b'{"temperature":1e400,"seed":3}')) == Asked(seed=3)


def test_a_schema_is_looked_at_up_to_its_bound():
    """A usual one is; a huge one isn't worth the time."""
    small = {"type": "json_schema", "json_schema": {"x": "y" * 5_000}}
    assert asked(response_format=small) == Asked(output_type="json")
    assert asked(response_format=small | {"z": "y" * MOST_FORMAT_BYTES}) is None


def test_stop_words_are_bounded():
    """So many, each so long."""
    found = asked(stop=["y" * 20] * 17)
    assert found is not None and MOST_WORDS == len(found.stop)
    found = asked(stop=["z" * 100])
    assert found is not None and ("z" * MOST_WORD,) == found.stop
