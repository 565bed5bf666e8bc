"""Parameters of a request as its span shows them: temperature, seed, stop words, format of the answer.

Invariant: a value that is odd, long or of another type is left out, never an error and never in the way: nothing here
is acted on. What never enters: messages, tools, a limit that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.core.types import Asked
from gateway.core.wire.body import Fields

MOST_BYTES: Final = 512  # of one value: what is longer is no parameter
MOST_FORMAT_BYTES: Final = 64 << 10  # of a format: it may hold a schema
MOST_WORDS, MOST_WORD = 16, 64  # stop sequences, and characters of each
_GREATEST: Final = 2**53 - 1

_decode = msgspec.json.Decoder().decode


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _GREATEST else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _GREATEST else None


def _count(value: Any) -> int:
    return max(1, _integer(value) or 1)


def _word(value: Any) -> str | None:
    return value[:MOST_WORD] if isinstance(value, str) else None


def _words(value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple([word[:MOST_WORD] for word in given[:MOST_WORDS] if isinstance(word, str)])


def _format(value: Any) -> str | None:
    """`response_format` of chat, `text` of Responses, `output_config` of Anthropic: text, or some kind of JSON."""
    inner = value.get("format", value) if isinstance(value, dict) else None
    kind = inner.get("type") if isinstance(inner, dict) else None
    if not isinstance(kind, str):
        return None
    return "json" if kind.startswith("json") else "text" if kind == "text" else None


# Where OpenAI's and Anthropic's references name one parameter differently, both names stand here.
_READ: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "max_tokens": ("max_tokens", _integer),
    "max_completion_tokens": ("max_tokens", _integer),
    "max_output_tokens": ("max_tokens", _integer),
    "temperature": ("temperature", _number),
    "top_p": ("top_p", _number),
    "top_k": ("top_k", _number),
    "frequency_penalty": ("frequency_penalty", _number),
    "presence_penalty": ("presence_penalty", _number),
    "seed": ("seed", _integer),
    "stop": ("stop", _words),
    "stop_sequences": ("stop", _words),
    "n": ("choices", _count),
    "response_format": ("output_type", _format),
    "text": ("output_type", _format),
    "output_config": ("output_type", _format),
    "service_tier": ("tier", _word),
    "dimensions": ("dimensions", _integer),
    "encoding_format": ("encodings", _words),
}


def read_asked(fields: Fields) -> Asked | None:
    """The parameters that a request names; None where it names none. Of two output limits the lower one counts."""
    said: dict[str, Any] = {}
    for name in fields.spans:
        if name in _READ:
            word, read = _READ[name]
            value = read(_value(fields, name, word))
            if value not in (None, ()):
                said[word] = min(value, said.get(word, value)) if word == "max_tokens" else value
    return Asked(**said) if said else None


def _value(fields: Fields, name: str, word: str) -> Any:
    start, end = fields.spans[name]
    if end - start > (MOST_FORMAT_BYTES if word == "output_type" else MOST_BYTES):
        return None
    try:
        return _decode(fields.body[start:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # JSON that nobody can hold: 1e400
