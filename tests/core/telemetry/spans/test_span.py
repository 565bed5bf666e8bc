"""What spans are made of: bounds, times, sections, and what is told of a change after a span was sent."""

from __future__ import annotations

import pytest

from gateway.core.presets import PRESETS
from gateway.core.telemetry import names
from gateway.core.telemetry.spans import span as spans
from gateway.core.telemetry.spans.span import MOST_ATTRIBUTES, Place, Section, Span, amended, clipped, kept
from gateway.core.types import Provider, Usage
from tests.core.telemetry.spans.spanning import run_of
from tests.ledgers import exchange

PLACE = Place("team~R", "a" * 32, "b" * 16, 1, None)


@pytest.mark.parametrize("text", ["a" * 3000, "ü" * 3000, "\U0001f600" * 3000, "a" + "ü" * 3000, "\ud800" * 3000])
def test_a_long_text_is_cut_between_characters(text):
    """At most 2,048 bytes of valid UTF-8, and as many as fit."""
    found = clipped(text)
    assert 2045 <= len(found.encode()) <= 2048
    assert text.encode("utf-8", "replace").decode().startswith(found)


def test_what_is_kept_is_bounded():
    """128 attributes, the first ones; 32 items of a list; integers of 64 bits; nothing that is None."""
    assert {"a": 1} == kept({"a": 1, "b": None})
    many = kept({f"a{n}": n for n in range(300)})
    assert (MOST_ATTRIBUTES, "a127") == (len(many), list(many)[-1])
    assert 32 == len(kept({"a": ("x",) * 100})["a"])  # type: ignore[arg-type]
    assert (float(2**63), -(2**63)) == tuple(kept({"a": 2**63, "b": -(2**63)}).values())
    assert 65_536 == len(str(kept({names.OUTPUT: "x" * 100_000})[names.OUTPUT]))


def test_times_are_whole_and_never_run_backwards():
    """A float of epoch seconds knows microseconds; an end before its start is the start."""
    span = Span("x", "internal", "a" * 32, "b" * 16, None, 1_800_000_000.123456, 1_800_000_000.0, {})
    assert (1_800_000_000_123_456_000,) * 2 == (span.start_ns, span.end_ns)
    assert 0 == spans.nanos(-5.0)


def test_a_section_says_where_it_is_reached():
    """Host and port of its origin, the scheme's own port where none is written."""
    assert Section("openai", "api.openai.com", 443) == spans.section_of(PRESETS["openai"])
    assert Section("groq", "api.groq.com", 443) == spans.section_of(PRESETS["groq"])  # its origin has a path
    assert Section("ollama", "localhost", 11434) == spans.section_of(PRESETS["ollama"])
    assert Section("", "::1", 8000) == spans.section_of(Provider("x", "", "http://[::1]:8000", ()))
    assert Section("", "::1", 80) == spans.section_of(Provider("x", "", "http://[::1]", ()))
    assert Section() == spans.section_of(None)


def test_identity_stands_for_a_run_that_was_forgotten():
    """The key still says the run's id and the virtual key."""
    said = kept(spans.identity(PLACE, "chat"))
    assert ("R", "team", "R") == (said[names.RUN_ID], said[names.KEY_NAME], said[names.SESSION])
    assert names.USER not in said
    known = kept(spans.identity(Place("R", "a" * 32, "b" * 16, 1, run_of()), "chat"))
    assert "none" == known[names.KEY_NAME]


def test_a_change_after_the_span_was_sent_is_a_linked_span_of_its_own():
    """Rule 12: the difference under our own names, no usage, so that sums stay explainable."""
    before = exchange("c1", 100, "presumed")
    after = exchange("c1", 37, usage=Usage(input_tokens=5, output_tokens=2))
    span = amended(after, before, PLACE, 9, "amend", 5.0)
    assert span is not None
    assert (-63, 37, "price_list", 5, 2) == tuple(
        span.attributes[name]
        for name in (names.AMEND_DELTA, names.AMEND_COST, names.AMEND_SOURCE, names.AMEND_INPUT, names.AMEND_OUTPUT)
    )
    assert span.parent == span.links[0].span_id
    assert not [name for name in span.attributes if name.startswith("gen_ai.") or name == names.COST_NUSD]


def test_a_change_of_no_figure_is_no_span():
    """Feedback and the like say nothing of money."""
    assert amended(exchange("c1", 5, warning="x"), exchange("c1", 5), PLACE, 9, "amend", 5.0) is None


def test_a_log_records_sentence_is_short():
    """Names without their prefix, at most as long as a value."""
    assert "meterbox.stream.cut: code=x" == spans.described(names.CUT, {names.CODE: "x", names.EVENT_ID: "1"})
    assert 2048 >= len(spans.described("x", {f"a{n}": "y" * 100 for n in range(100)}).encode())
