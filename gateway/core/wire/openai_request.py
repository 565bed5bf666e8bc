"""What the OpenAI-style request formats share: model, output limit, choices, usage option, and their rewriting.

Invariant: only spans that were checked are spliced; a limit is lowered, never raised, under every name that was given.
What never enters: messages, answers, a price.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.core.errors import Undecodable
from gateway.core.types import Call, Edits, Provider
from gateway.core.wire import body as bodies
from gateway.core.wire.body import MAX_DEPTH, Edit, Fields
from gateway.core.wire.history import Memo, growth

_MODEL = re.compile(r"[A-Za-z0-9._:/@-]{1,200}")  # security.md section 2, Parsing
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
_LIMITS = ("max_completion_tokens", "max_tokens")
_OPENAI = frozenset({"openai", "azure"})  # reasoning models there refuse max_tokens (wire-formats.md section 1)


class Note(Struct, frozen=True):
    """What `rewrite` needs to know of the request again."""

    fields: Fields
    limits: tuple[tuple[str, int], ...]  # output limits that were given, by name
    thinking: tuple[tuple[str, str, int], ...] = ()  # (object, field, budget) that must stay below the limit


def read_model(fields: Fields, path: str) -> str:
    """The model that is asked for; a deployment in the path wins over the body, as it does at Azure."""
    deployment = _DEPLOYMENT.search(path)
    model = deployment.group(1) if deployment is not None else bodies.text(fields, "model")
    if model is None:
        raise Undecodable("`model` is missing: name the model in the request body.")
    if _MODEL.fullmatch(model) is None:
        raise Undecodable("`model` must be 1 to 200 characters out of letters, digits and `. _ : / @ -`.")
    return model


def read_limits(fields: Fields) -> tuple[tuple[str, int], ...]:
    """The output limits that were given; several names may be."""
    given = ((name, bodies.integer(fields, name)) for name in _LIMITS if name in fields.spans)
    return tuple((name, limit) for name, limit in given if limit is not None)


def read_object_field(fields: Fields, name: str) -> dict[str, Any] | None:
    """An object whose fields we act on; None where absent or null."""
    raw = fields.get(name)
    if raw is None:
        return None
    value = bodies.decode_strict(raw)
    if not isinstance(value, dict):
        raise Undecodable(f"`{name}` must be an object.")
    return value


def asks_usage(fields: Fields) -> bool:
    """Did the client itself ask for the usage chunk?"""
    options = read_object_field(fields, "stream_options")
    return options is not None and options.get("include_usage") is True


def check_fields(fields: Fields, memo: Memo[int], skip: Sequence[str] = ()) -> int:
    """Raises Undecodable where a field's value is unsound; gives the bytes by which NFKC may make them longer.

    A value stands in an object, so it may nest one level less.
    """
    extra = 0
    for name, (start, end) in fields.spans.items():
        if name in skip:
            continue
        raw = fields.body[start:end]
        if len(raw) >= MAX_DEPTH or b"\\" in raw or not raw.isascii():
            extra += memo.look(raw, growth, MAX_DEPTH - 1)
    return extra


def rewrite(call: Call, body: bytes, wanted: Edits, only_name: str = "") -> bytes:
    """The body with its output limit, usage request, tool choice and model set; everything else in its own spelling.

    `only_name`: what a format calls its limit, whatever the preset. The same object where nothing changes.
    """
    note: Note = call.edits
    fields = note.fields if note.fields.body is body else bodies.read_object(body)
    edits: list[Edit] = []
    if wanted.max_output is not None:
        _limit_output(note, fields, wanted.max_output, only_name or _name_of_limit(call.provider), edits)
    if wanted.ask_usage:
        _ask_usage(fields, edits)
    if wanted.last:
        _forbid_tools(fields, edits)
    if wanted.model is not None:
        bodies.put(fields, "model", msgspec.json.encode(wanted.model), edits)
    return bodies.splice(body, edits)


def _forbid_tools(fields: Fields, edits: list[Edit]) -> None:
    """No tool may be called. Only where some are listed: without, OpenAI answers 400 to a tool_choice."""
    for offered, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        if bodies.is_filled(fields, offered):
            bodies.put(fields, choice, b'"none"', edits)


def _name_of_limit(provider: Provider) -> str:
    default = "max_completion_tokens" if provider.preset in _OPENAI else "max_tokens"
    return provider.quirks.output_field or default


def _limit_output(note: Note, fields: Fields, most: int, name: str, edits: list[Edit]) -> None:
    number = b"%d" % most
    for given, limit in note.limits:
        if limit > most:
            edits.append((*fields.spans[given], number))
    if not note.limits:
        bodies.put(fields, name, number, edits)
    for outer, inner, budget in note.thinking:
        # Claude behind a chat endpoint wants budget_tokens below the limit (wire-formats.md section 1)
        if budget >= most:
            start, _ = fields.spans[outer]
            inside = bodies.read_object(fields.get(outer) or b"{}")
            at, end = inside.spans[inner]
            edits.append((start + at, start + end, b"%d" % max(most - 1, 1)))


def _ask_usage(fields: Fields, edits: list[Edit]) -> None:
    raw = fields.get("stream_options")
    if raw is None:
        bodies.put(fields, "stream_options", b'{"include_usage":true}', edits)
        return
    start = fields.spans["stream_options"][0]
    options = bodies.read_object(raw)
    if bodies.boolean(options, "include_usage"):
        return
    inner: list[Edit] = []
    bodies.put(options, "include_usage", b"true", inner)
    edits.extend((start + at, start + end, value) for at, end, value in inner)
