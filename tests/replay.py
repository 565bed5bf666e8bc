"""Replays recorded agent runs through a dialect and the identification, without any id in the requests.

Invariant: a request is what an agent would send at that step, its answer what the model said then; nothing of the
recording's own ids reaches the code under test.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from gateway.core.identify import Index, identify
from gateway.core.types import Call, Inbound, Labels, Provider, Reply
from gateway.dialects.openai_chat import OpenAIChat
from tests.fakes import FakeClock

FOLDER = Path(__file__).resolve().parents[1] / "../shared/trajectories"
PROVIDER = Provider("openai", "openai", "https://api.openai.com", ("openai-chat",))
PATH = "/v1/chat/completions"
TENANT = "someone"
Message = dict[str, Any]
Spelling = Callable[[list[Message], list[bytes]], list[bytes]]


@lru_cache(maxsize=1)
def recorded() -> tuple[dict[str, Any], ...]:
    """Every recorded run; skips the test where the recordings are missing."""
    if not FOLDER.is_dir():
        pytest.skip("../shared is missing: no recorded agent runs")
    found: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            found.extend(json.loads(line) for line in lines)
    return tuple(found)


def whole(dialect: OpenAIChat, call: Call, message: Message) -> Reply:
    """The answer in one piece."""
    answer = {"id": "", "object": "chat.completion", "model": call.model, "choices": [_choice("message", message)]}
    return dialect.whole(call, 200, json.dumps(answer).encode())


def streamed(dialect: OpenAIChat, call: Call, message: Message) -> Reply:
    """The answer as a stream: text and arguments in pieces, ids with the first piece only."""
    content, tools = message.get("content") or "", message.get("tool_calls") or []
    deltas: list[Message] = [{"role": "assistant", "content": None if tools else ""}]
    deltas += [{"content": content[at : at + 40]} for at in range(0, len(content), 40)]
    for index, tool in enumerate(tools):
        function = tool["function"]
        head = {"name": function["name"], "arguments": ""}
        deltas.append({"tool_calls": [{"index": index, "id": tool["id"], "type": "function", "function": head}]})
        text = function["arguments"]
        for at in range(0, len(text), 50):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 50]}}]})
    reader = dialect.reader(call, False)
    for delta in deltas:
        reader.feed(_event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}))
    reader.feed(_event({"object": "chat.completion.chunk", "choices": [_choice("delta", {})]}) + b"data: [DONE]\n\n")
    return reader.reply()


def _choice(name: str, said: Message) -> Message:
    finish = "tool_calls" if said.get("tool_calls") else "stop"
    return {"index": 0, name: said, "finish_reason": finish}


def _event(data: Message) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


Answering = Callable[[OpenAIChat, Call, Message], Reply]


# --------------------------------------------------------------------------- how a client spells its history


def plain(messages: list[Message], history: list[bytes]) -> list[bytes]:
    """As it was recorded."""
    return history


def trimmed(messages: list[Message], history: list[bytes]) -> list[bytes]:
    """The system prompt, the task and the newest six messages: what an agent with a small window sends."""
    head = 2 if messages[0]["role"] == "system" else 1
    return history if len(history) <= head + 6 else [*history[:head], *history[-6:]]


def respelled(messages: list[Message], history: list[bytes]) -> list[bytes]:
    """Answers as clients like to write them down again: parts for text, no content for null, fields of their own."""
    return [_respelled(raw, place) for place, raw in enumerate(history)]


@lru_cache(maxsize=100_000)
def _respelled(raw: bytes, place: int) -> bytes:
    return json.dumps(_respell(json.loads(raw), place)).encode()


def _respell(message: Message, place: int) -> Message:
    if message["role"] != "assistant":
        return message
    again: Message = {"annotations": [], "refusal": None, **message}
    content = message.get("content")
    if content is None:
        again.pop("content", None)
        if place % 3 == 0:
            again["content"] = ""
    elif place % 2:
        again["content"] = [{"type": "text", "text": content}]
    if message.get("tool_calls"):
        again["tool_calls"] = [_respell_tool(tool, number) for number, tool in enumerate(message["tool_calls"])]
    return again


def _respell_tool(tool: Message, number: int) -> Message:
    return {"index": number, "function": tool["function"], "type": "function", "id": tool["id"]}


# --------------------------------------------------------------------------- in which order the calls come


Turn = tuple[int, int]  # run, number of its call


def one_by_one(counts: list[int], _seed: int) -> Iterator[Turn]:
    """Each run to its end before the next begins."""
    for run, count in enumerate(counts):
        for number in range(count):
            yield run, number


def in_turns(counts: list[int], _seed: int) -> Iterator[Turn]:
    """All runs at once, a call of each in turn."""
    for number in range(max(counts)):
        for run, count in enumerate(counts):
            if number < count:
                yield run, number


def at_random(counts: list[int], seed: int) -> Iterator[Turn]:
    """All runs at once, in an order that the seed decides."""
    bag = [run for run, count in enumerate(counts) for _ in range(count)]
    random.Random(seed).shuffle(bag)
    at = [0] * len(counts)
    for run in bag:
        yield run, at[run]
        at[run] += 1


Order = Callable[[list[int], int], Iterator[Turn]]


class Outcome:
    """Which run each call was given to, against which run it was recorded in."""

    def __init__(self, runs: Iterable[dict[str, Any]]) -> None:
        self.source = {run["run_id"]: run["source"] for run in runs}
        self.keys: dict[str, set[str]] = defaultdict(set)  # recorded run -> run keys
        self.members: dict[str, set[str]] = defaultdict(set)  # run key -> recorded runs

    def add(self, run_id: str, key: str) -> None:
        self.keys[run_id].add(key)
        self.members[key].add(run_id)

    @property
    def merged(self) -> list[set[str]]:
        """Groups of recorded runs that share a run key."""
        return [members for members in self.members.values() if len(members) > 1]

    @property
    def split(self) -> list[str]:
        """Recorded runs that were torn apart."""
        return sorted(run_id for run_id, keys in self.keys.items() if len(keys) > 1)

    @property
    def whole(self) -> float:
        """Share of the runs whose calls all went to one run that is theirs alone."""
        bad = set(self.split) | {run_id for members in self.merged for run_id in members}
        return 1 - len(bad) / len(self.keys)

    def say(self, name: str) -> None:
        """Prints the figures, by source."""
        total: dict[str, int] = defaultdict(int)
        torn: dict[str, int] = defaultdict(int)
        for run_id, source in self.source.items():
            total[source] += 1
            torn[source] += run_id in self.split
        print(f"\n{name}: {self.whole:.1%} of {len(self.keys)} runs whole, {len(self.merged)} merged groups")
        for source, count in total.items():
            if torn[source]:
                print(f"  {source}: {count - torn[source]} of {count} whole")


def replay(order: Order, spelling: Spelling = plain, answering: Answering = whole, seed: int = 0) -> Outcome:
    """Sends every call of every recorded run through decode, identify and note."""
    runs, dialect, clock, index = recorded(), OpenAIChat(), FakeClock(), Index()
    outcome = Outcome(runs)
    raws = [[json.dumps(message).encode() for message in run["messages"]] for run in runs]
    for place, number in order([len(run["calls"]) for run in runs], seed):
        run = runs[place]
        at = run["calls"][number]
        history = spelling(run["messages"], raws[place][:at])
        body = (
            b'{"model":"gpt-4o","messages":[' + b",".join(history) + b"]}"
        )  # one model: nothing to tell runs apart by
        inbound = Inbound("POST", None, PATH, PATH, "", (), body, Labels(), TENANT, None, clock.now())
        call = dialect.decode(inbound, PROVIDER)
        facts = identify(inbound, call, index, clock.new_id)
        index.note(TENANT, facts.key, call, answering(dialect, call, run["messages"][at]), clock.now())
        outcome.add(run["run_id"], facts.key)
    return outcome
