"""Anthropic messages as the scripted provider speaks it: requests read, answers spelled, whole and as a stream.

Source: wire-formats.md sections 1, 2, 4, 5. Invariant: `input_tokens` leaves cached tokens out, as Anthropic's does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.demo.script import Answer, Prompt, tokens_of

_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}


def read(body: bytes) -> Prompt:
    """Raises ValueError, KeyError or TypeError on what isn't a messages request."""
    asked = json.loads(body)
    blocks = [block for message in asked["messages"] for block in message["content"] if isinstance(block, dict)]
    return Prompt(
        model=asked["model"],
        stream=bool(asked.get("stream")),
        input_tokens=tokens_of(body),
        limit=asked["max_tokens"],
        tools=tuple(tool["name"] for tool in asked.get("tools") or ()),
        tool_results=sum(1 for block in blocks if block.get("type") == "tool_result"),
        tools_barred=(asked.get("tool_choice") or {}).get("type") == "none",
    )


def _usage(said: Answer, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": said.input_tokens - said.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached_tokens,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _message(said: Answer, content: list[Any], finish: str | None) -> dict[str, Any]:
    head = {"id": f"msg_{said.id}", "type": "message", "role": "assistant", "model": said.model, "content": content}
    return {**head, "stop_reason": finish, "stop_sequence": None}


def whole(said: Answer, with_usage: bool) -> bytes:
    """The answer in one piece."""
    content: list[Any] = [{"type": "text", "text": said.text}] if said.words else []
    if said.tool:
        called = {"id": said.tool.id, "name": said.tool.name, "input": json.loads(said.tool.arguments)}
        content.append({"type": "tool_use", **called})
    spelled = _message(said, content, _FINISH[said.finish])
    if with_usage:
        spelled["usage"] = _usage(said, said.output_tokens)
    return json.dumps(spelled).encode()


def stream(said: Answer, _prompt: Prompt, with_usage: bool, chunk_tokens: int) -> Iterator[tuple[bytes, int]]:
    """Events, each with the output tokens made by then."""
    made = said.reasoning_tokens
    started = _message(said, [], None)
    if with_usage:
        started["usage"] = _usage(said, 1)
    yield _event("message_start", message=started), made
    if said.words:
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""}), made
        for start in range(0, len(said.words), chunk_tokens):
            piece = said.words[start : start + chunk_tokens]
            made += len(piece)
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "".join(piece)}), made
        yield _event("content_block_stop", index=0), made
    if said.tool:
        yield from _tool(said, made)
    end: dict[str, Any] = {"delta": {"stop_reason": _FINISH[said.finish], "stop_sequence": None}}
    if with_usage:
        end["usage"] = {"output_tokens": said.output_tokens}
    yield _event("message_delta", **end), said.output_tokens
    yield _event("message_stop"), said.output_tokens


def _tool(said: Answer, made: int) -> Iterator[tuple[bytes, int]]:
    assert said.tool is not None
    index = 1 if said.words else 0
    block = {"type": "tool_use", "id": said.tool.id, "name": said.tool.name, "input": {}}
    delta = {"type": "input_json_delta", "partial_json": said.tool.arguments}
    yield _event("content_block_start", index=index, content_block=block), made
    yield _event("content_block_delta", index=index, delta=delta), said.output_tokens
    yield _event("content_block_stop", index=index), said.output_tokens


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def error(status: int, code: str, message: str) -> bytes:
    """Anthropic's error body."""
    kinds = {429: "rate_limit_error", 404: "not_found_error", 529: "overloaded_error"}
    kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": f"{message} ({code})"}}).encode()
