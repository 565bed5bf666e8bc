"""What single backends get beside the standard: added to whole spans only, and never a second usage."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.telemetry import names
from gateway.core.telemetry.settings import Preset
from gateway.core.telemetry.spans import presets
from gateway.core.telemetry.spans.inference import call_spans
from gateway.core.telemetry.spans.notes import Note
from gateway.core.telemetry.spans.presets import dressed
from gateway.core.telemetry.spans.span import Place, Span, Wishes
from gateway.core.telemetry.spans.trees import root_span
from tests.core.telemetry.spans.spanning import AT, FULL, WISHES, run_of
from tests.ledgers import exchange

PLACE = Place("R", "a" * 32, "b" * 16, 1, run_of(agent="research"))
ALL = Preset.__args__  # type: ignore[attr-defined]  # of a Literal


def call(wishes: Wishes = WISHES, **more: Any) -> Span:
    """The span of a full call."""
    return call_spans(exchange("c1", 40, started_at=AT, ended_at=AT + 2, **{**FULL, **more}), PLACE, wishes)[0]


def added(span: Span, preset: str, aliases: bool = False) -> dict[str, Any]:
    """What a preset adds."""
    return {
        name: value for name, value in dressed(span, preset, aliases).attributes.items() if name not in span.attributes
    }


def test_there_is_a_preset_for_each_word_of_the_setting():
    """No more and no fewer."""
    assert set(ALL) == set(presets.PRESETS)


def test_each_backend_gets_what_it_reads_elsewhere():
    """Contract sections 3 and 7."""
    span = call()
    assert {
        names.LF_TRACE: "invoke_agent research", names.LF_TAGS: ("agent:research",),
        names.LF_FIRST: "2027-01-15T08:00:00.250000Z", names.LF_COSTS: '{"total":0.00000004}',
    } == added(span, "langfuse")  # fmt: skip
    assert {
        names.LS_SYSTEM: "openai", names.LS_SESSION: "R", names.LS_TRACE: "invoke_agent research",
        names.LS_REASONING: 20,
    } == added(span, "langsmith")  # fmt: skip
    assert {names.PX_REASONING: 20} == added(span, "phoenix")
    assert {names.SN_FIRST: 0.25} == added(span, "generic")
    for plain in ("mlflow", "datadog", "tempo", "honeycomb"):
        assert {} == added(span, plain)


def test_honeycomb_has_an_agent_on_every_span():
    """Its lanes need one."""
    nobody = Place("R", "a" * 32, "b" * 16, 1, run_of())
    span = call_spans(exchange("c1", 40), nobody, WISHES)[0]
    assert {names.AGENT: "agent"} == added(span, "honeycomb")


@pytest.mark.parametrize("preset", ALL)
def test_no_preset_adds_usage_or_cost_to_a_root(preset):
    """Rule 2, for each backend."""
    root = root_span(run_of(agent="a", outcome="completed"), Note(providers=["openai"]), PLACE, {}, None)
    found = dressed(root, preset, aliases=True).attributes
    assert not [name for name in found if "usage" in name or "cost_details" in name or name.startswith("llm.")]


@pytest.mark.parametrize("preset", ALL)
def test_plain_http_spans_stay_plain(preset):
    """Attempts, and calls in the role proxy, get no name of a backend."""
    attempt = call_spans(exchange("c1", 40, **FULL), PLACE, WISHES)[1]
    assert attempt is dressed(attempt, preset, aliases=True)
    proxied = call(Wishes(role="proxy"))
    assert proxied is dressed(proxied, preset, aliases=True)


def test_the_seed_articles_names_are_aliases():
    """R-104: each of the six, on request."""
    span = call()
    assert {
        "llm.model": "gpt-4o", "llm.prompt_tokens": 1000, "llm.completion_tokens": 50, "llm.cost_usd": 4e-8,
        "agent.iteration": 0, "agent.task_id": "R",
    } == added(span, "tempo", aliases=True)  # fmt: skip
    assert {} == added(span, "tempo", aliases=False)


def test_the_fullest_span_stays_below_the_limit_with_everything_added():
    """Rule 13: 128 attributes."""
    for preset in ALL:
        assert len(dressed(call(), preset, aliases=True).attributes) < 70


def test_tempo_gets_no_half_json():
    """It cuts a value at 2,048 bytes: a longer list of messages is left out."""
    parts = [{"type": "text", "content": "x" * 3000}]
    content = {"input": [{"role": "user", "parts": parts}]}
    span = call(Wishes(content="SPAN_ONLY"), content=content)
    assert names.INPUT_MESSAGES in dressed(span, "generic").attributes
    assert names.INPUT_MESSAGES not in dressed(span, "tempo").attributes


def test_the_resource_says_who_speaks():
    """What the operator says of it wins; Phoenix's project is the service."""
    told = presets.resource("phoenix", "0.1.0", "i1", {"service.name": "team", "region": "eu"})
    assert {
        "service.name": "team", "service.version": "0.1.0", "service.instance.id": "i1", "region": "eu",
        "openinference.project.name": "team",
    } == told  # fmt: skip
    assert {"service.name": "meterbox"} == presets.resource("generic", "", "", {})
