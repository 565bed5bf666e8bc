"""Golden: the mapping rules of Langfuse, LangSmith and Datadog, as the contract states them, applied to our spans.

Each backend's rule is a small function here, written from the telemetry contract (sections 1, 3, 7), not from our code;
what it makes of a run's spans is compared with what the ledger says.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.core.telemetry.spans.presets import dressed
from gateway.core.telemetry.spans.span import Span, Wishes
from gateway.core.types import Usage
from tests.core.telemetry.spans.spanning import FULL, SECTIONS, World, asks, brings, number

PARIS = {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]}
RAIN = {"role": "assistant", "parts": [{"type": "text", "content": "It rains."}]}


async def run_in(preset: str, **wishes: Any) -> tuple[list[Span], int]:
    """A run of two calls with a cache, a tool and a retry, as this backend gets it; and what the ledger charged."""
    world = World(Wishes(sections=SECTIONS, **wishes))
    told = {"agent": "research", "user": "u1", "session": "s1"}
    await world.call("c1", 1_250_000, **told, **{**FULL, "content": True, **asks(("t1", "search"))})
    await world.capture("c1", input=[PARIS], output=[RAIN])
    used = Usage(input_tokens=10, output_tokens=5)
    await world.call("c2", 750_000, **brings("t1"), usage=used, request_model="gpt-4o", response_model="gpt-4o-2024")
    await world.end("R", "ended", None, None)
    run = world.store.reading().get_run("R")
    assert run is not None
    return [dressed(span, preset) for span in world.spans()], run[0].own_spent_nusd


# --------------------------------------------------------------------------- Langfuse


def langfuse(span: Span) -> dict[str, Any]:
    """What Langfuse makes of a span (rules 1, 2, 3, 6, 7, 8, section 7)."""
    said = span.attributes
    operation = said.get("gen_ai.operation.name")
    kinds = {"chat": "generation", "text_completion": "generation", "embeddings": "embedding",
             "execute_tool": "tool", "invoke_agent": "agent"}  # fmt: skip
    model = said.get("gen_ai.response.model") or said.get("gen_ai.request.model")
    kind = kinds.get(str(operation), "generation" if model else "span")
    counted = {
        name.removeprefix("gen_ai.usage."): value
        for name, value in said.items()
        if name.startswith("gen_ai.usage.") and name != "gen_ai.usage.cost" and isinstance(value, int | float)
    }
    read, written = counted.get("cache_read.input_tokens", 0), counted.get("cache_creation.input_tokens", 0)
    if "input_tokens" in counted:  # it takes the cached parts off the total again
        counted["input_tokens"] = int(counted["input_tokens"]) - int(read) - int(written)
    details = said.get("langfuse.observation.cost_details")
    cost = json.loads(str(details))["total"] if details else said.get("gen_ai.usage.cost", said.get("llm.cost.total"))
    root = span.parent is None
    return {
        "type": kind,
        "name": said.get("gen_ai.tool.name", span.name),
        "model": model,
        "usage": counted,
        "cost": cost,
        "session": said.get("session.id") or (said.get("gen_ai.conversation.id") if root else None),
        "user": said.get("user.id"),
        "trace": said.get("langfuse.trace.name"),
        "first": said.get("langfuse.observation.completion_start_time"),
        "input": said.get("input.value", said.get("gen_ai.input.messages")),
        "level": "ERROR" if span.error is not None else "DEFAULT",
    }


async def test_langfuse_shows_the_run():
    """R-151: model, tokens, cost, session, user, in Langfuse's own fields; each token and cent once."""
    spans, charged = await run_in("langfuse", content="SPAN_ONLY")
    seen = [langfuse(span) for span in spans]
    kinds = [one["type"] for one in seen]
    assert ["generation", "span", "span", "tool", "generation", "agent"] == kinds
    first = seen[0]
    assert {"input_tokens": 300, "output_tokens": 50, "cache_read.input_tokens": 600,
            "cache_creation.input_tokens": 100, "reasoning.output_tokens": 20} == first["usage"]  # fmt: skip
    assert ("gpt-4o-2024", 0.00125, "invoke_agent research") == (first["model"], first["cost"], first["trace"])
    assert first["first"] is not None and "Weather?" in first["input"]
    assert [("s1", "u1")] * 6 == [(one["session"], one["user"]) for one in seen]
    assert charged == sum(round((one["cost"] or 0) * 10**9) for one in seen)
    assert [{}] * 4 == [one["usage"] for one in seen if one["type"] != "generation"]
    assert "search" == seen[3]["name"]
    assert "Weather?" == seen[5]["input"]


# --------------------------------------------------------------------------- LangSmith


def langsmith(span: Span) -> dict[str, Any]:
    """What LangSmith makes of a span: the old `gen_ai.system` is its provider, its session has a name of its own."""
    said = span.attributes
    kinds = {"chat": "llm", "text_completion": "llm", "embeddings": "embedding", "execute_tool": "tool",
             "invoke_agent": "chain"}  # fmt: skip
    return {
        "type": kinds.get(str(said.get("gen_ai.operation.name")), "chain"),
        "name": said.get("langsmith.trace.name") if span.parent is None else span.name,
        "session": said.get("langsmith.trace.session_id") or said.get("langsmith.metadata.session_id"),
        "ls_provider": said.get("gen_ai.system"),
        "ls_model": said.get("gen_ai.request.model"),
        "input": said.get("gen_ai.usage.input_tokens"),
        "output": said.get("gen_ai.usage.output_tokens"),
        "reasoning": said.get("gen_ai.usage.details.reasoning_tokens"),
        "finish": said.get("gen_ai.response.finish_reasons"),
    }


async def test_langsmith_shows_the_run():
    """Run types, provider and model for its price table, tokens, the session under its own name."""
    spans, _ = await run_in("langsmith")
    seen = [langsmith(span) for span in spans]
    assert ["llm", "chain", "chain", "tool", "llm", "chain"] == [one["type"] for one in seen]
    assert ("openai", "gpt-4o", 1000, 50, 20, ("tool_calls",)) == tuple(
        seen[0][word] for word in ("ls_provider", "ls_model", "input", "output", "reasoning", "finish")
    )
    assert {"s1"} == {one["session"] for one in seen if one["type"] != "chain" or one["name"]} - {None}
    assert "invoke_agent research" == seen[-1]["name"]
    assert 1010 == sum(one["input"] or 0 for one in seen)


# --------------------------------------------------------------------------- Datadog


def datadog(span: Span) -> dict[str, Any] | None:
    """What Datadog LLM Observability makes of a span: None is no span of an AI. Messages must be JSON texts."""
    said = span.attributes
    operation = said.get("gen_ai.operation.name")
    kinds = {"chat": "llm", "text_completion": "llm", "generate_content": "llm", "embeddings": "embedding",
             "execute_tool": "tool", "invoke_agent": "agent"}  # fmt: skip
    if operation not in kinds:
        return None
    cached = number(span, "gen_ai.usage.cache_read.input_tokens")
    written = number(span, "gen_ai.usage.cache_creation.input_tokens")
    total = said.get("gen_ai.usage.input_tokens")
    return {
        "kind": kinds[str(operation)],
        "model": said.get("gen_ai.request.model"),
        "provider": said.get("gen_ai.provider.name"),
        "input": total,
        "plain": None if total is None else number(span, "gen_ai.usage.input_tokens") - cached - written,
        "cached": cached,
        "messages": [json.loads(str(said[name])) for name in ("gen_ai.input.messages",) if name in said],
        "error": said.get("error.type"),
    }


async def test_datadog_shows_the_run():
    """Kinds by operation, provider and model for its estimate, cached tokens apart, no key of another dialect."""
    spans, _ = await run_in("datadog", content="SPAN_ONLY")
    seen = [datadog(span) for span in spans]
    assert ["llm", None, None, "tool", "llm", "agent"] == [None if one is None else one["kind"] for one in seen]
    first = seen[0]
    assert first is not None
    assert ("gpt-4o", "openai", 1000, 300, 600) == tuple(
        first[word] for word in ("model", "provider", "input", "plain", "cached")
    )
    assert [[PARIS]] == first["messages"]
    foreign = ("openinference.", "traceloop.", "llm.token_count", "gen_ai.system", "gen_ai.usage.prompt_tokens")
    for span in spans:
        assert not [
            name for name in span.attributes if name.startswith(foreign) and name != "gen_ai.system_instructions"
        ]


# --------------------------------------------------------------------------- Honeycomb, Phoenix, MLflow, Tempo


async def test_honeycomb_has_its_three_names_on_every_span_of_the_agent():
    """R-155: it groups by conversation, agent and operation."""
    spans, _ = await run_in("honeycomb")
    for span in spans:
        if "gen_ai.operation.name" in span.attributes:
            assert {"gen_ai.conversation.id", "gen_ai.agent.name"} <= span.attributes.keys()


async def test_mlflow_sums_the_calls_not_the_root():
    """Rule 2: it would replace the trace's total by the root's usage, if the root had any."""
    spans, _ = await run_in("mlflow")
    root = next(span for span in spans if span.parent is None)
    assert not [name for name in root.attributes if name.startswith("gen_ai.usage.")]
    assert 1010 == sum([number(span, "gen_ai.usage.input_tokens") for span in spans])


async def test_tempos_cost_query_is_the_ledgers_sum():
    """Section 7: sum_over_time(span.gen_ai.usage.cost) by run."""
    spans, charged = await run_in("tempo")
    chosen = [span for span in spans if number(span, "gen_ai.usage.cost") > 0]
    assert charged == round(sum([number(span, "gen_ai.usage.cost") for span in chosen]) * 10**9)
    assert {"R"} == {span.attributes["meterbox.run.id"] for span in chosen}
