"""OpenAI Responses as the scripted provider speaks it: requests read, answers spelled, whole and as a stream.

Source: wire-formats.md sections 1, 2, 4, 5. Invariant: usage lies in the terminal event, and `sequence_number` counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from gateway.demo.script import Answer, Prompt, tokens_of


def read(body: bytes) -> Prompt:
    """Raises ValueError, KeyError or TypeError on what isn't a Responses request."""
    asked = json.loads(body)
    items = asked["input"] if isinstance(asked["input"], list) else []
    return Prompt(
        model=asked["model"],
        stream=bool(asked.get("stream")),
        input_tokens=tokens_of(body),
        limit=asked.get("max_output_tokens"),
        tools=tuple(tool["name"] for tool in asked.get("tools") or () if tool.get("type") == "function"),
        tool_results=sum(1 for item in items if item.get("type") == "function_call_output"),
        tools_barred=asked.get("tool_choice") == "none",
    )


def _usage(said: Answer) -> dict[str, Any]:
    return {
        "input_tokens": said.input_tokens,
        "input_tokens_details": {"cached_tokens": said.cached_tokens},
        "output_tokens": said.output_tokens,
        "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
        "total_tokens": said.input_tokens + said.output_tokens,
    }


def _text_item(said: Answer) -> dict[str, Any]:
    part = {"type": "output_text", "text": said.text, "annotations": []}
    return {"id": f"msg_{said.id}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _tool_item(said: Answer) -> dict[str, Any]:
    assert said.tool is not None
    called = {"call_id": said.tool.id, "name": said.tool.name, "arguments": said.tool.arguments}
    return {"id": f"fc_{said.id}", "type": "function_call", "status": "completed", **called}


def _response(said: Answer, status: str, items: list[Any], with_usage: bool) -> dict[str, Any]:
    stopped = {"reason": "max_output_tokens"} if status == "incomplete" else None
    head = {"id": f"resp_{said.id}", "object": "response", "created_at": 1_750_000_000, "status": status}
    rest = {"error": None, "incomplete_details": stopped, "instructions": None, "model": said.model, "output": items}
    more = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}}
    return {**head, **rest, **more, "usage": _usage(said) if with_usage else None}


def _finished(said: Answer, with_usage: bool) -> dict[str, Any]:
    items = ([_text_item(said)] if said.words else []) + ([_tool_item(said)] if said.tool else [])
    return _response(said, "incomplete" if said.finish == "length" else "completed", items, with_usage)


def whole(said: Answer, with_usage: bool) -> bytes:
    """The answer in one piece."""
    return json.dumps(_finished(said, with_usage)).encode()


def stream(said: Answer, _prompt: Prompt, with_usage: bool, chunk_tokens: int) -> Iterator[tuple[bytes, int]]:
    """Events, each with the output tokens made by then."""
    numbers = count()
    started = _response(said, "in_progress", [], False)
    made = said.reasoning_tokens
    events: Iterator[tuple[str, dict[str, Any], int]] = _events(said, chunk_tokens)
    for kind in ("response.created", "response.in_progress"):
        yield _event(kind, next(numbers), {"response": started}), made
    for kind, fields, tokens in events:
        yield _event(kind, next(numbers), fields), tokens
    last = _finished(said, with_usage)
    yield _event(f"response.{last['status']}", next(numbers), {"response": last}), said.output_tokens


def _events(said: Answer, chunk_tokens: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    made = said.reasoning_tokens
    if said.words:
        item = _text_item(said)
        at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        empty = {**item, "status": "in_progress", "content": []}
        yield "response.output_item.added", {"output_index": 0, "item": empty}, made
        yield "response.content_part.added", {**at, "part": {**item["content"][0], "text": ""}}, made
        for start in range(0, len(said.words), chunk_tokens):
            piece = said.words[start : start + chunk_tokens]
            made += len(piece)
            yield "response.output_text.delta", {**at, "delta": "".join(piece), "logprobs": []}, made
        yield "response.output_text.done", {**at, "text": said.text, "logprobs": []}, made
        yield "response.content_part.done", {**at, "part": item["content"][0]}, made
        yield "response.output_item.done", {"output_index": 0, "item": item}, made
    if said.tool:
        item = _tool_item(said)
        index = 1 if said.words else 0
        at = {"item_id": item["id"], "output_index": index}
        empty = {**item, "status": "in_progress", "arguments": ""}
        total = said.output_tokens
        yield "response.output_item.added", {"output_index": index, "item": empty}, made
        yield "response.function_call_arguments.delta", {**at, "delta": said.tool.arguments}, total
        yield "response.function_call_arguments.done", {**at, "arguments": said.tool.arguments}, total
        yield "response.output_item.done", {"output_index": index, "item": item}, total


def _event(kind: str, number: int, fields: dict[str, Any]) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()
