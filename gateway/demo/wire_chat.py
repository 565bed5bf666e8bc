"""OpenAI chat as the scripted provider speaks it: requests read, answers spelled, whole and as a stream.

Source: wire-formats.md sections 1, 2, 4, 5. Invariant: each stream event comes with the tokens that were made by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.demo.script import Answer, Prompt, tokens_of

_FINISH = {"stop": "stop", "length": "length", "tool": "tool_calls"}


def read(body: bytes) -> Prompt:
    """Raises ValueError, KeyError or TypeError on what isn't a chat request."""
    asked = json.loads(body)
    limits = [asked[name] for name in ("max_tokens", "max_completion_tokens") if asked.get(name) is not None]
    return Prompt(
        model=asked["model"],
        stream=bool(asked.get("stream")),
        input_tokens=tokens_of(body),
        limit=min(limits) if limits else None,
        tools=tuple(tool["function"]["name"] for tool in asked.get("tools") or ()),
        tool_results=sum(1 for message in asked["messages"] if message.get("role") == "tool"),
        choices=asked.get("n") or 1,
        tools_barred=asked.get("tool_choice") == "none",
        usage_asked=bool((asked.get("stream_options") or {}).get("include_usage")),
    )


def usage(said: Answer) -> dict[str, Any]:
    """The usage object; reasoning lies inside the completion tokens."""
    return {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens,
        "total_tokens": said.input_tokens + said.output_tokens,
        "prompt_tokens_details": {"cached_tokens": said.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": said.reasoning_tokens * said.choices},
    }


def _tool_call(said: Answer) -> dict[str, Any]:
    assert said.tool is not None
    call = {"name": said.tool.name, "arguments": said.tool.arguments}
    return {"id": said.tool.id, "type": "function", "function": call}


def whole(said: Answer, with_usage: bool) -> bytes:
    """The answer in one piece."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.tool:
        message["tool_calls"] = [_tool_call(said)]
    choice = {"message": message, "logprobs": None, "finish_reason": _FINISH[said.finish]}
    spelled = {"id": f"chatcmpl-{said.id}", "object": "chat.completion", "created": 1_750_000_000, "model": said.model}
    spelled["choices"] = [{"index": index, **choice} for index in range(said.choices)]
    if with_usage:
        spelled["usage"] = usage(said)
    return json.dumps(spelled).encode()


def stream(said: Answer, prompt: Prompt, with_usage: bool, chunk_tokens: int) -> Iterator[tuple[bytes, int]]:
    """Events, each with the output tokens made by then; one choice after another. Usage only if it was asked for."""
    each = said.output_tokens // said.choices
    for index in range(said.choices):
        for event, made in _choice(said, index, chunk_tokens):
            yield event, index * each + made
    if with_usage and prompt.usage_asked:
        yield _spell(said, [], {"usage": usage(said)}), said.output_tokens
    yield b"data: [DONE]\n\n", said.output_tokens


def _choice(said: Answer, index: int, chunk_tokens: int) -> Iterator[tuple[bytes, int]]:
    """Events of one choice, each with the tokens of this choice so far."""
    made = said.reasoning_tokens
    yield _event(said, index, {"role": "assistant", "content": ""}), made
    for start in range(0, len(said.words), chunk_tokens):
        piece = said.words[start : start + chunk_tokens]
        made += len(piece)
        yield _event(said, index, {"content": "".join(piece)}), made
    if said.tool:
        call = _tool_call(said)
        arguments = call["function"].pop("arguments")
        half = len(arguments) // 2
        begun = {"index": 0, **call, "function": {**call["function"], "arguments": ""}}
        yield _event(said, index, {"tool_calls": [begun]}), made
        made += said.tool_tokens
        for part in (arguments[:half], arguments[half:]):
            yield _event(said, index, {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}), made
    yield _event(said, index, {}, _FINISH[said.finish]), made


def _event(said: Answer, index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
    return _spell(said, [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}], {})


def _spell(said: Answer, choices: list[Any], more: dict[str, Any]) -> bytes:
    head = {
        "id": f"chatcmpl-{said.id}",
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": said.model,
    }
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def error(status: int, code: str, message: str) -> bytes:
    """OpenAI's error body."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
