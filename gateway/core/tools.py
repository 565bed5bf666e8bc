"""Tool spans: joins the tool calls of one answer with the results that a later request of the same run brings.

Invariant: a span is keyed by (run, call that asked, position, id), because ids repeat within real runs; history that
is sent again closes nothing. What never enters: the texts of arguments and results (digests tell what is equal).
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

_SHELL = ": command not found"


class _Verdict(msgspec.Struct):
    """The three names under which tools say in JSON that they failed (http.md section 4)."""

    error: Any = None
    is_error: Any = None
    camel: Any = msgspec.field(default=None, name="isError")


_DECODER = msgspec.json.Decoder(_Verdict)


def looks_like_error(text: str) -> bool:
    """Does a tool result say that the tool failed? For formats without a flag of their own (http.md section 4)."""
    text = text.lstrip()
    head = text[:40].lower()
    if head.startswith("error"):
        # a word: `Error: x` and `error` are, `Errors` and `error_count` are not
        return len(head) == 5 or not (head[5].isalnum() or head[5] == "_")
    if head.startswith(("exception:", "traceback (most recent call last)")):
        return True
    if head.startswith("{"):
        return _json_says_error(text)
    line = text.find("\n")
    tail = text[max(0, line - 40) : line] if line >= 0 else text[-40:]
    return tail.rstrip().lower().endswith(_SHELL)


def _json_says_error(text: str) -> bool:
    if "rror" not in text and "\\u" not in text:
        return False
    try:
        said = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        # Python tools write NaN and Infinity into their JSON, and lone surrogates; only then is it worth a second look
        return _loose_says_error(text)
    return bool(said.error or said.is_error or said.camel)


def _loose_says_error(text: str) -> bool:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and any(said.get(name) for name in ("error", "is_error", "isError"))
