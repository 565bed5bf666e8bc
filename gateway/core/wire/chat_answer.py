"""Collects what an OpenAI-style answer says (chat or completion, whole or in pieces) into a Reply.

Invariant: pieces in any cut give the Reply of the whole; a field of a shape that nobody expects is passed over, never
an error. What never enters: bytes of the wire, what the client may get, a request.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.core.types import Call, Reply, ToolCall
from gateway.core.wire.history import answer_hash, text_hash
from gateway.core.wire.openai_usage import (
    error_word,
    merge,
    read_usage,
    stated_nusd,
    told_input,
    unaccounted,
    zero_is_meant,
)
from gateway.core.wire.told import tells_all

# Google's OpenAI-compatible endpoints leave thoughts out of completion_tokens and bill them as output (wire-formats.md
# sections 4 and 8); elsewhere a surplus in the total is no proof of anything billed.
_HIDES_THOUGHTS = frozenset({"gemini", "vertex"})


class Function(Struct):
    name: Any = None
    arguments: Any = None
    input: Any = None  # custom tools


class Piece(Struct):
    index: Any = None
    id: Any = None
    function: Function | None = None
    custom: Function | None = None


class Delta(Struct):
    content: Any = None
    tool_calls: list[Piece] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    function_call: Function | None = None
    audio: Any = None
    executed_tools: Any = None


class Choice(Struct):
    index: Any = None
    delta: Delta | None = None
    message: Delta | None = None
    text: Any = None  # completions
    finish_reason: Any = None
    error: Any = None


class Chunk(Struct):
    """The fields that we act on, of a chunk and of a whole answer alike."""

    id: Any = None
    model: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    x_groq: Any = None


class Bare(Struct):
    """The same without the choices: for a chunk whose choices have a shape that nobody expects."""

    id: Any = None
    model: Any = None
    choices: Raw = Raw()
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    x_groq: Any = None


_CHUNK = msgspec.json.Decoder(Chunk)
_BARE = msgspec.json.Decoder(Bare)


def decode_chunk(data: bytes) -> Chunk | None:
    """A chunk or a whole answer; None for anything that isn't a JSON object."""
    try:
        return _CHUNK.decode(data)
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    try:
        bare = _BARE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # choices None, not []: this is no chunk that carries nothing but usage
    return Chunk(bare.id, bare.model, None, bare.usage, bare.service_tier, bare.error, bare.x_groq)


class _Open:
    """A tool call while its pieces come."""

    __slots__ = ("arguments", "choice", "custom", "id", "index", "legacy", "name")

    def __init__(self, choice: int, index: Any, id_: str) -> None:
        self.choice = choice
        self.index = index
        self.id = id_
        self.name = ""
        self.arguments: list[str] = []
        self.custom = False
        self.legacy = False


class Answer:
    """Takes chunks in order; `said` and `output_bytes` follow what is visible, `reply` says what it comes to."""

    __slots__ = (
        "_call", "_choices", "_echoed", "_error", "_executed", "_finish", "_finished", "_id", "_model", "_text",
        "_tier", "_tool_calls", "_usage", "_usage_final", "input_told", "output_bytes", "said",
    )  # fmt: skip

    def __init__(self, call: Call, echoed_bytes: int = 0) -> None:
        self._call = call
        self._echoed = echoed_bytes  # the request's own text comes first and is no output
        self._id: str | None = None
        self._model: str | None = None
        self._tier: str | None = None
        self._error: str | None = None
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._usage_final = False
        self._choices: set[int] = set()
        self._finished: set[int] = set()
        self._text: list[str] = []  # of the first choice
        self._tool_calls: list[_Open] = []
        self._executed: dict[Any, str] = {}
        self.said: list[str] = []
        self.output_bytes = 0
        self.input_told: int | None = None  # total input as told so far; a 0 in an early chunk is no figure

    def take(self, chunk: Chunk) -> None:
        """One chunk, or a whole answer."""
        if self._id is None and isinstance(chunk.id, str) and chunk.id:
            self._id = chunk.id
        if chunk.model and isinstance(chunk.model, str):
            self._model = chunk.model
        if chunk.service_tier and isinstance(chunk.service_tier, str):
            self._tier = chunk.service_tier
        if chunk.choices:
            for choice in chunk.choices:
                self._take_choice(choice)
        if chunk.error is not None:
            self._error = error_word(chunk.error) or self._error
        if chunk.usage is not None or chunk.x_groq is not None:
            self._take_usage(chunk)

    def _take_usage(self, chunk: Chunk) -> None:
        # Groq tells usage here in every stream, asked or not
        groq = chunk.x_groq.get("usage") if isinstance(chunk.x_groq, dict) else None
        for told in (groq, chunk.usage):
            if isinstance(told, dict) and told:
                merge(self._usage, told)
                # running figures (vLLM's continuous_usage_stats) come before the last finish_reason
                self._usage_final = bool(self._finished) and self._finished >= self._choices
                self.input_told = told_input(self._usage)

    def _take_choice(self, choice: Choice) -> None:
        index = choice.index if isinstance(choice.index, int) else 0
        self._choices.add(index)
        delta = choice.delta or choice.message
        if delta is not None:
            self._take_delta(index, delta)
        if choice.text and isinstance(choice.text, str):
            self._say(choice.text, index)
        if choice.error is not None:  # OpenRouter: one choice fails, finish_reason "error"
            self._error = error_word(choice.error) or self._error
        if choice.finish_reason is not None:
            self._finished.add(index)
            # "first choice" is the one with index 0; some gateways number from 1
            if isinstance(choice.finish_reason, str) and (self._finish is None or index == 0):
                self._finish = choice.finish_reason

    def _take_delta(self, index: int, delta: Delta) -> None:
        content = delta.content
        if content:
            if isinstance(content, str):
                self._say(content, index)
            else:
                self._take_parts(index, content)
        # two names of the same thoughts: vLLM sends both while it renames one, so only one counts
        if (thought := delta.reasoning_content or delta.reasoning) is not None:
            self._count(thought)
        if delta.refusal is not None:
            self._count(delta.refusal)
        if delta.tool_calls:
            for piece in delta.tool_calls:
                self._take_piece(index, piece)
        if delta.function_call is not None or delta.audio is not None or delta.executed_tools is not None:
            self._take_rare(index, delta)

    def _take_rare(self, index: int, delta: Delta) -> None:
        if delta.function_call is not None:
            self._take_legacy(index, delta.function_call)
        if isinstance(delta.audio, dict) and isinstance(transcript := delta.audio.get("transcript"), str):
            self._count(transcript)
        if isinstance(delta.executed_tools, list):  # Groq's compound models; a stream repeats each when it is done
            for at, tool in enumerate(delta.executed_tools):
                if isinstance(tool, dict) and isinstance(tool.get("type"), str):
                    self._executed[tool.get("index", at)] = tool["type"]

    def _take_parts(self, index: int, content: Any) -> None:
        """Content as a list of parts (Mistral's thinking, Claude at Databricks), or as an object (Cloudflare)."""
        if not isinstance(content, list):
            self._count(msgspec.json.encode(content).decode())
            return
        for part in content:
            kind, words = _words_of(part)
            if kind == "text":
                self._say(words, index)
            else:
                self._count(words)

    def _take_piece(self, choice: int, piece: Piece) -> None:
        tool = self._tool(choice, piece)
        for function, custom in ((piece.function, False), (piece.custom, True)):
            if function is None:
                continue
            if not tool.name and isinstance(function.name, str):
                tool.name = function.name
            tool.custom |= custom
            self._argue(tool, function.input if custom else function.arguments)

    def _tool(self, choice: int, piece: Piece) -> _Open:
        """The call that a piece belongs to: by its index; without one, a name or a fresh id begins the next."""
        name = piece.id if isinstance(piece.id, str) else ""
        function = piece.function or piece.custom
        named = function is not None and isinstance(function.name, str) and function.name != ""
        for tool in reversed(self._tool_calls):
            if tool.choice != choice or (piece.index is not None and tool.index != piece.index):
                continue
            # Google's compatible endpoint numbers every parallel call 0: a further id with a name is a further call
            if (named and name and tool.id and name != tool.id) or (named and piece.index is None):
                break
            tool.id = tool.id or name
            return tool
        tool = _Open(choice, piece.index, name)
        self._tool_calls.append(tool)
        return tool

    def _take_legacy(self, choice: int, function: Function) -> None:
        tool = next((tool for tool in self._tool_calls if tool.legacy and tool.choice == choice), None)
        if tool is None:
            tool = _Open(choice, None, "")
            tool.legacy = True
            self._tool_calls.append(tool)
        if not tool.name and isinstance(function.name, str):
            tool.name = function.name
        self._argue(tool, function.arguments)

    def _argue(self, tool: _Open, arguments: Any) -> None:
        if arguments is None or arguments == "":
            return
        words = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        tool.arguments.append(words)
        self._count(words)

    def _say(self, words: str, index: int) -> None:
        if index == 0:
            self._text.append(words)
        self._count(words)

    def _count(self, words: Any) -> None:
        if words and isinstance(words, str):
            if self._echoed:
                words = self._past_echo(words)
            self.said.append(words)
            self.output_bytes += len(words) if words.isascii() else len(words.encode("utf-8", "surrogatepass"))

    def _past_echo(self, words: str) -> str:
        raw = words.encode("utf-8", "surrogatepass")
        echoed = min(self._echoed, len(raw))
        self._echoed -= echoed
        return raw[echoed:].decode("utf-8", "replace")

    def reply(self, ended: bool, whole: bool = False) -> Reply:
        """What it comes to. `whole`: the body was one JSON object, so what it tells is final."""
        told, call = self._usage, self._call
        tools = self._tools()
        reply = Reply(
            model=self._model,
            response_id=self._id,
            finish_reason=self._finish,
            ended=ended,
            tool_calls=[self._judge(tool) for tool in tools],
            tier=self._tier,
            output_bytes=self.output_bytes,
            links=self._links(tools),
            error=self._error,
        )
        if told:
            usage = reply.usage = read_usage(told, call.provider.quirks, call.size.embeds)
            for kind in self._executed.values():
                usage.uses[kind] = usage.uses.get(kind, 0) + 1
            if call.provider.preset in _HIDES_THOUGHTS and (hidden := unaccounted(told, usage)):
                usage.extra.append((self._model or call.model, 0, hidden))
            if call.provider.quirks.states_cost:
                reply.stated_nusd = stated_nusd(told)
                reply.stated_zero_ok = zero_is_meant(told, call.model, self._model)
            final = whole or ended or self._usage_final
            known = reply.stated_nusd is not None or tells_all(usage, self.output_bytes, call.size.embeds)
            reply.usage_complete = final and known
        return reply

    def _tools(self) -> list[_Open]:
        # a call without a name was never one: some providers send an empty function_call beside tool_calls
        return sorted((tool for tool in self._tool_calls if tool.name), key=lambda tool: tool.choice)

    def _judge(self, tool: _Open) -> ToolCall:
        arguments = "".join(tool.arguments)
        return ToolCall(
            id=tool.name if tool.legacy else tool.id,
            name=tool.name,
            known=tool.name in self._call.tools,
            valid=None if tool.custom else _is_object(arguments),
            digest=text_hash(arguments),
        )

    def _links(self, tools: list[_Open]) -> tuple[int, ...]:
        if not self._text and not tools and self._finish is None:
            return ()
        mine = [tool for tool in tools if tool.choice == 0]
        return (answer_hash("".join(self._text), [tool.id or tool.name for tool in mine]),)


def _words_of(part: Any) -> tuple[str, str]:
    """The kind and the words of a content part: text that is quoted back, or thoughts that are only counted."""
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        return "", ""
    if isinstance(part.get("text"), str):
        return ("text" if part.get("type", "text") in ("text", "output_text") else "thought"), part["text"]
    inner = part.get("thinking", part.get("summary", part.get("reasoning")))
    if isinstance(inner, list):
        return "thought", "".join(_words_of(item)[1] for item in inner)
    return "thought", inner if isinstance(inner, str) else ""


_OBJECT = msgspec.json.Decoder(dict[str, Raw])


def _is_object(arguments: str) -> bool:
    """Do arguments parse as an object? Nothing at all means none: clients take it so."""
    if not arguments.strip():
        return True
    try:
        _OBJECT.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
