"""What the scripted provider does with a request: knobs, and the answer they make.

Invariant: the same request and script give the same answer; an answer keeps to the limit that the request sets unless
the script says `ignore_limit`. What never enters: a wire format (wire_*.py), time, the bill.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct

# Each of these, with the space before it, is one token in o200k_base and in cl100k_base: words count as tokens.
_SAID = ("the", "meter", "box", "counts", "every", "call", "and", "each", "run", "has", "a", "limit", "that", "holds")
WORDS = tuple(f" {word}" for word in _SAID)
MODEL_MOST = 16_384


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """Knobs. A request may override them by the header `x-scripted: {json}`, which only this provider reads."""

    output_tokens: int = 60  # of text
    reasoning_tokens: int = 0  # hidden; made before the text, billed as output
    tool_steps: int = 0  # tool calls asked for before the last text; -1: never an end
    chunk_tokens: int = 4
    first_s: float = 0.0  # before the first byte
    gap_s: float = 0.0  # between chunks
    ignore_limit: bool = False
    no_usage: bool = False
    cached_tokens: int = 0
    cut_after: int | None = None  # tokens, then the connection is dropped
    stall_after: int | None = None  # tokens, then silence until the client leaves
    status: int = 200
    html: bool = False  # errors come as an HTML page
    retry_after_s: int | None = None


def script_for(base: Script, header: str | None) -> Script:
    """The script with a request's own knobs laid over it. Raises msgspec.ValidationError."""
    if not header:
        return base
    named = msgspec.json.decode(header, type=dict[str, Any])
    return msgspec.convert(msgspec.structs.asdict(base) | named, Script)


class Prompt(Struct, frozen=True):
    """A request, whatever its format: what an answer depends on."""

    model: str
    stream: bool
    input_tokens: int
    limit: int | None = None
    tools: tuple[str, ...] = ()
    tool_results: int = 0
    choices: int = 1  # answers side by side (`n`), each of them billed
    tools_barred: bool = False  # `tool_choice` none: they stay listed, none may be called
    usage_asked: bool = False


class Tool(Struct, frozen=True):
    """A tool call that the model asks for."""

    id: str
    name: str
    arguments: str


class Answer(Struct, frozen=True):
    """What the model will say if nobody stops it."""

    id: str
    model: str
    words: tuple[str, ...]
    reasoning_tokens: int
    tool: Tool | None
    finish: str  # stop | length | tool
    input_tokens: int
    cached_tokens: int
    choices: int = 1

    @property
    def text(self) -> str:
        """The whole visible text."""
        return "".join(self.words)

    @property
    def tool_tokens(self) -> int:
        """Four bytes a token, as the input is counted."""
        return 0 if self.tool is None else _tokens_in(self.tool)

    @property
    def output_tokens(self) -> int:
        """All that is billed as output."""
        return (self.reasoning_tokens + len(self.words) + self.tool_tokens) * self.choices


def tokens_of(body: bytes) -> int:
    """Input tokens of a request: four bytes each, never more than its bytes."""
    return len(body) // 4 + 1


def answer(prompt: Prompt, script: Script, number: int) -> Answer:
    """The answer to the provider's call `number`."""
    usable = bool(prompt.tools) and not prompt.tools_barred
    wants_tool = usable and (script.tool_steps < 0 or prompt.tool_results < script.tool_steps)
    tool = _tool(prompt, number) if wants_tool else None
    room = MODEL_MOST if prompt.limit is None or script.ignore_limit else prompt.limit
    reasoning = min(script.reasoning_tokens, room)
    words = min(script.output_tokens, room - reasoning)
    if tool is not None and reasoning + words + _tokens_in(tool) > room:
        tool = None  # the limit came before the call was written
    cut = words < script.output_tokens or reasoning < script.reasoning_tokens or (wants_tool and tool is None)
    return Answer(
        id=f"scripted-{number}",
        model=prompt.model,
        words=tuple(WORDS[(number + i) % len(WORDS)] for i in range(words)),
        reasoning_tokens=reasoning,
        tool=tool,
        finish="length" if cut else "tool" if tool else "stop",
        input_tokens=prompt.input_tokens,
        cached_tokens=min(script.cached_tokens, prompt.input_tokens),
        choices=prompt.choices,
    )


def _tokens_in(tool: Tool) -> int:
    return -(-len(tool.arguments) // 4)


def _tool(prompt: Prompt, number: int) -> Tool:
    name = prompt.tools[prompt.tool_results % len(prompt.tools)]
    return Tool(
        f"call_scripted_{number}", name, json.dumps({"step": prompt.tool_results + 1, "about": "the next part"})
    )
