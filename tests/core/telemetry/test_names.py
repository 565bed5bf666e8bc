"""The table of names: each once, none invented below gen_ai.usage, errors from a closed list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.core.telemetry import names

ROOT = Path(__file__).resolve().parents[3]
DOTTED = {
    name: value
    for name, value in vars(names).items()
    if name.isupper() and isinstance(value, str) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", value)
}


def test_no_name_is_invented_below_the_conventions_usage():
    """Rule 1: Langfuse takes every number there but the cost as tokens; only LangSmith's own detail is more."""
    known = {
        "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.cost", names.LS_REASONING,
    }  # fmt: skip
    assert known == {value for value in DOTTED.values() if value.startswith("gen_ai.usage.")}


def test_every_name_stands_once_in_the_table_and_nowhere_else_in_the_code():
    """One table (telemetry contract, section 6): a renamed attribute is changed in one place."""
    assert len(DOTTED) == len(set(DOTTED.values()))
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if path.name == "names.py" and path.parent.name == "telemetry":
            continue
        text = path.read_text()
        for spelled in re.findall(r"\"((?:gen_ai|meterbox|langfuse|langsmith|llm)\.[a-z_.]+)\"", text):
            assert spelled not in DOTTED.values() or "metric" in path.name, f"{path.name}: {spelled}"


def test_every_name_is_documented():
    """docs/spans.md has each attribute and event."""
    page = (ROOT / "docs/spans.md").read_text()
    missing = [value for value in DOTTED.values() if f"`{value}`" not in page]
    assert [] == missing


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "streamed", "expected"),
    [
        ("ok", "", 200, True, None),
        ("upstream_error", "", 429, False, "429"),
        ("upstream_error", "overloaded_error", 529, False, "529"),
        ("upstream_error", "overloaded_error", 200, True, "_OTHER"),
        ("upstream_error", "upstream_timeout", None, False, "timeout"),
        ("upstream_error", "upstream_connect", None, False, "connection_error"),
        ("upstream_error", "upstream_dns", None, False, "connection_error"),
        ("upstream_error", "upstream_reset", 200, True, "stream_truncated"),
        ("upstream_error", "internal_error", None, False, "_OTHER"),
        ("client_left", "client_left", None, False, "client_disconnected"),
        ("cut", "insufficient_quota", 200, True, "budget_stream_cut"),
        ("cut", "run_killed", 200, True, "run_killed"),
        ("refused", "insufficient_quota", None, False, "budget_exceeded"),
        ("refused", "limit_tool_calls", None, False, "limit_tool_calls"),
        ("refused", "approval_expired", None, False, "approval_expired"),
        ("refused", "whatever a caller wrote", None, False, "_OTHER"),
        ("unknown", "", None, False, "_OTHER"),
    ],
)
def test_an_error_has_a_word_of_the_closed_list(outcome, reason, status, streamed, expected):
    """Contract section 5: a status, one of eight words, or the code of a refusal."""
    found = names.error_type(outcome, reason, status, streamed)
    assert expected == found
    assert found is None or found.isdigit() or found in names.CODES | names.WORDS


def test_a_provider_is_called_by_its_well_known_name():
    """By its preset, whatever the section is called; a section without one by its own name."""
    assert "openai" == names.provider_name("eu", "openai", "openai-chat")
    assert "gcp.gemini" == names.provider_name("gemini", "gemini", "gemini")
    assert "x_ai" == names.provider_name("xai", "xai", "openai-chat")
    assert "home" == names.provider_name("home", "", "openai-chat")
    assert "anthropic" == names.provider_name("scripted", "scripted", "anthropic-messages")


def test_operations_are_the_conventions_words():
    """Gemini's own format is generate_content; what is no operation of a model has none."""
    assert "chat" == names.operation_name("chat", "anthropic-messages")
    assert "chat" == names.operation_name("compact", "openai-responses")
    assert "generate_content" == names.operation_name("chat", "gemini")
    assert "embeddings" == names.operation_name("embeddings", "gemini")
    assert None is names.operation_name("other", "")


def test_a_refusal_has_the_event_of_its_kind():
    """Money and units are one event, the rest have their own."""
    assert names.DENIED == names.refusal_event("limit_seconds") == names.refusal_event("insufficient_quota")
    assert names.KILLED == names.refusal_event("run_killed")
    assert "meterbox.approval.pending" == names.refusal_event("approval_pending")
    assert names.REFUSED == names.refusal_event("tool_denied")
