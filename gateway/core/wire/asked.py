"""Parameters of a request as its span shows them: temperature, seed, stop words, format of the answer.

Invariant: a value that is odd, long or of another type is left out, never an error and never in the way: nothing here
is acted on. What never enters: messages, tools, a limit that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from gateway.core.types import Asked
from gateway.core.wire.body import Fields

MOST_BYTES: Final = 512  # of one value: what is longer is no parameter
MOST_FORMAT_BYTES: Final = 64 << 10  # of a format: it may hold a schema
MOST_WORDS, MOST_WORD = 16, 64  # stop sequences, and characters of each
_GREATEST: Final = 2**53 - 1

Read = tuple[str, int, Callable[[bytes], Any]]  # what it is called here, how long it may be, what reads it


class _Kind(Struct):
    """`{"type": "json_schema", ...}`; a schema beside it is passed over unread."""

    type: str | None = None


class _Format(Struct):
    """`response_format` of chat; `text` of Responses and `output_config` of Anthropic have it one level deeper."""

    type: str | None = None
    format: _Kind | None = None


# Each has its type read with it: what is of another type is an error here, and left out.
_number = msgspec.json.Decoder(Annotated[float, Meta(gt=-_GREATEST, lt=_GREATEST)] | None).decode
_integer = msgspec.json.Decoder(Annotated[int, Meta(ge=-_GREATEST, le=_GREATEST)] | None).decode
_text = msgspec.json.Decoder(str).decode
_text_or_more = msgspec.json.Decoder(str | list[Any]).decode
_spelled_format = msgspec.json.Decoder(_Format).decode


def _count(raw: bytes) -> int:
    return max(1, _integer(raw) or 1)


def _word(raw: bytes) -> str:
    return _text(raw)[:MOST_WORD]


def _words(raw: bytes) -> tuple[str, ...] | None:
    value = _text_or_more(raw)
    given = [value] if isinstance(value, str) else value
    return tuple([word[:MOST_WORD] for word in given[:MOST_WORDS] if isinstance(word, str)]) or None


def _format(raw: bytes) -> str | None:
    said = _spelled_format(raw)
    kind = (said.type if said.format is None else said.format.type) or ""
    return "json" if kind.startswith("json") else "text" if kind == "text" else None


# Where OpenAI's and Anthropic's references name one parameter differently, both names stand here.
_READ: Final[dict[str, Read]] = {
    "max_tokens": ("max_tokens", MOST_BYTES, _integer),
    "max_completion_tokens": ("max_tokens", MOST_BYTES, _integer),
    "max_output_tokens": ("max_tokens", MOST_BYTES, _integer),
    "temperature": ("temperature", MOST_BYTES, _number),
    "top_p": ("top_p", MOST_BYTES, _number),
    "top_k": ("top_k", MOST_BYTES, _integer),
    "frequency_penalty": ("frequency_penalty", MOST_BYTES, _number),
    "presence_penalty": ("presence_penalty", MOST_BYTES, _number),
    "seed": ("seed", MOST_BYTES, _integer),
    "stop": ("stop", MOST_BYTES, _words),
    "stop_sequences": ("stop", MOST_BYTES, _words),
    "n": ("choices", MOST_BYTES, _count),
    "response_format": ("output_type", MOST_FORMAT_BYTES, _format),
    "text": ("output_type", MOST_FORMAT_BYTES, _format),
    "output_config": ("output_type", MOST_FORMAT_BYTES, _format),
    "service_tier": ("tier", MOST_BYTES, _word),
    "dimensions": ("dimensions", MOST_BYTES, _integer),
    "encoding_format": ("encodings", MOST_BYTES, _words),
}


def read_asked(fields: Fields) -> Asked | None:
    """The parameters that a request names; None where it names none. Of two output limits the lower one counts."""
    said: dict[str, Any] = {}
    for name, (start, end) in fields.spans.items():
        known = _READ.get(name)
        if known is None or end - start > known[1]:
            continue
        word, _, read = known
        try:
            value = read(fields.body[start:end])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # of another type, or JSON that nobody can hold: 1e400
        if value is not None:
            said[word] = min(value, said.get(word, value)) if word == "max_tokens" else value
    return Asked(**said) if said else None
