"""An agent that never ends by itself: every answer asks for a tool, and every result makes the next call dearer.

Invariant: it makes one attempt after another until one is refused, then stops; a bound of its own keeps a test finite.
"""

from __future__ import annotations

from typing import Any

from tests.e2e.spending import CHAT, CLAUDE, MESSAGES, MODEL, call
from tests.play import Answer, Gateway

RESPONSES = "/v1/responses"
DIALECTS = (CHAT, MESSAGES, RESPONSES)
STEPS_MOST = 80
PAGE = "a page that the tool found, with nothing of use in it " * 4


def _request(path: str, history: list[Any], stream: bool, model: str | None, limit: int | None) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}}
    if path == MESSAGES:
        tools: list[Any] = [{"name": "search", "input_schema": parameters}]
        body = {"model": model or CLAUDE, "max_tokens": limit or 400, "messages": history, "tools": tools}
    elif path == RESPONSES:
        tools = [{"type": "function", "name": "search", "parameters": parameters}]
        body = {"model": model or MODEL, "max_output_tokens": limit or 400, "input": history, "tools": tools}
    else:
        tools = [{"type": "function", "function": {"name": "search", "parameters": parameters}}]
        body = {"model": model or MODEL, "messages": history, "tools": tools}
        body |= {} if limit is None else {"max_tokens": limit}
    return {**body, "stream": stream}


def _step(path: str, number: int) -> list[dict[str, Any]]:
    """What a tool step adds to the history."""
    name = f"call_{number}"
    if path == MESSAGES:
        used = {"type": "tool_use", "id": name, "name": "search", "input": {}}
        found = {"type": "tool_result", "tool_use_id": name, "content": PAGE}
        return [{"role": "assistant", "content": [used]}, {"role": "user", "content": [found]}]
    if path == RESPONSES:
        asked = {"type": "function_call", "call_id": name, "name": "search", "arguments": "{}"}
        return [asked, {"type": "function_call_output", "call_id": name, "output": PAGE}]
    tool = {"id": name, "type": "function", "function": {"name": "search", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [tool]},
        {"role": "tool", "tool_call_id": name, "content": PAGE},
    ]


async def run_away(
    gateway: Gateway,
    run: str,
    path: str = CHAT,
    *,
    stream: bool = False,
    model: str | None = None,
    limit: int | None = None,
    **heads: Any,
) -> list[Answer]:
    """Loops until it is refused; all answers, the refusal last."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "search until you are certain"}]
    answers: list[Answer] = []
    for number in range(STEPS_MOST):
        body = _request(path, history, stream, model, limit)
        answers.append(await call(gateway, run, body, path=path, **heads))
        if answers[-1].status != 200:
            return answers
        history += _step(path, number)
    return answers


def error_of(answer: Answer) -> dict[str, Any]:
    """The error object of a refusal, in whatever dialect: `code`, `message` and `details` are the same in all."""
    found: dict[str, Any] = answer.json()["error"]
    return found
