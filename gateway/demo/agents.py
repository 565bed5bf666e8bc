"""Two small agents, plain HTTP loops without any SDK: one finishes its task, one runs away with its sub-agents.

Invariant: they know a base URL and a key and nothing of the gateway; a refusal ends a loop after that one attempt.
What never enters: headers of the gateway, retries, prices.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from msgspec import Struct

_MOST_STEPS = 20
_PAGE = "A paragraph of some page that the tool found, as long as such pages are, with nothing of use in it. " * 36
_BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)


class Report(Struct):
    """What an agent saw."""

    calls: int = 0  # answered with 200
    refused: int = 0  # answered with anything else
    broken: int = 0  # broke off
    finished: bool = False
    said: str = ""  # the first refusal's text


class Client(Struct, frozen=True):
    """Where an agent sends its calls, and who pays."""

    http: aiohttp.ClientSession
    base: str
    key: str


# --------------------------------------------------------------------------- one that finishes


async def finish_task(client: Client) -> Report:
    """Asks, calls the tool that the model wants, and stops when the model has its answer (OpenAI chat, streamed)."""
    report = Report()
    tool = {"type": "function", "function": {"name": "read_meter", "parameters": {"type": "object", "properties": {}}}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Read the meter three times, then tell me the mean."}]
    for _ in range(_MOST_STEPS):
        body = {"model": "gpt-4o-mini", "messages": messages, "tools": [tool], "stream": True}
        headers = {"authorization": f"Bearer {client.key}"}
        async with client.http.post(f"{client.base}/v1/chat/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                return _refused(report, await answer.text())
            report.calls += 1
            message = _joined([event async for event in events(answer)])
        messages.append(message)
        if not message.get("tool_calls"):
            report.finished = True
            return report
        for call in message["tool_calls"]:
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "4711 kWh"})
    return report


def _joined(events_of_answer: list[dict[str, Any]]) -> dict[str, Any]:
    """A streamed chat answer as the message that the next request quotes."""
    text = ""
    calls: list[dict[str, Any]] = []
    for event in events_of_answer:
        for choice in event.get("choices") or ():
            text += choice["delta"].get("content") or ""
            for piece in choice["delta"].get("tool_calls") or ():
                if "id" in piece:
                    calls.append({key: piece[key] for key in ("id", "type", "function")})
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    return {**message, "tool_calls": calls} if calls else message


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of an SSE answer."""
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


# --------------------------------------------------------------------------- one that runs away


async def run_away(client: Client, agents: int, steps: int) -> Report:
    """Starts sub-agents in parallel; each goes on until it is stopped, or `steps` are over (the demo's own bound)."""
    reports = await asyncio.gather(*(_sub_agent(client, number, steps) for number in range(agents)))
    total = Report(finished=all(report.finished for report in reports))
    for report in reports:
        total.calls += report.calls
        total.refused += report.refused
        total.broken += report.broken
        total.said = total.said or report.said
    return total


async def _sub_agent(client: Client, number: int, steps: int) -> Report:
    """Searches for ever: every answer asks for one more page, and every page makes the next call dearer (Anthropic)."""
    report = Report()
    tool = {"name": "search", "input_schema": {"type": "object", "properties": {}}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Sub-task {number}: search until you are certain."}]
    headers = {"x-api-key": client.key, "anthropic-version": "2023-06-01"}
    for _ in range(steps):
        body = {"model": "claude-sonnet-4-5", "max_tokens": 1024, "messages": messages, "tools": [tool]}
        try:
            async with client.http.post(f"{client.base}/v1/messages", json=body, headers=headers) as answer:
                if answer.status != 200:
                    return _refused(report, await answer.text())
                said = await answer.json()
        except _BROKEN:
            report.broken += 1
            return report
        report.calls += 1
        messages.append({"role": "assistant", "content": said["content"]})
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": _PAGE}
            for block in said["content"]
            if block["type"] == "tool_use"
        ]
        messages.append({"role": "user", "content": results or "Go on searching."})
    report.finished = True
    return report


def _refused(report: Report, text: str) -> Report:
    report.refused += 1
    report.said = text
    return report


# --------------------------------------------------------------------------- streams that are cut off


async def watch_streams(client: Client, streams: int, flowing: asyncio.Event) -> Report:
    """Opens streams (OpenAI Responses) and reads them to their end; sets `flowing` once all of them are under way."""
    report = Report()
    begun = 0

    async def watch(number: int) -> None:
        nonlocal begun
        body = {"model": "gpt-4o", "input": f"Tell story {number}.", "stream": True, "max_output_tokens": 600}
        headers = {"authorization": f"Bearer {client.key}"}
        try:
            async with client.http.post(f"{client.base}/v1/responses", json=body, headers=headers) as answer:
                if answer.status != 200:
                    _refused(report, await answer.text())
                    return
                deltas = 0
                async for event in events(answer):
                    deltas += event["type"] == "response.output_text.delta"
                    if deltas == 3 and event["type"] == "response.output_text.delta":
                        begun += 1
                        if begun == streams:
                            flowing.set()
                    report.calls += event["type"] == "response.completed"
        except _BROKEN:
            report.broken += 1

    await asyncio.gather(*(watch(number) for number in range(streams)))
    return report
