"""Reads a JSON request body strictly and takes it apart no further than its top level; splices bytes back into it.

Invariant: what was checked is what is forwarded: every value is named by its span in the client's own bytes, and a body
that two parsers could read differently (duplicate keys, NaN, broken UTF-8, depth beyond 64) is Undecodable.
What never enters: a provider's field names, a re-spelling of what nobody asked to change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw, Struct
from xxhash import xxh3_128_intdigest

from gateway.core.errors import Undecodable

MAX_DEPTH = 64  # security.md section 2, Parsing
MAX_INTEGER = 2**53 - 1  # beyond it JSON numbers are not the same in every parser (RFC 8259 section 6)

Edit = tuple[int, int, bytes]

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_COLON, _COMMA, _CLOSE, _SPACE = b":,} "
_STOPS = b",}"
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_LIST = msgspec.json.Decoder(list[Raw])
_TEXT = msgspec.json.Decoder(str)
_NUMBER = msgspec.json.Decoder(int | float | str | bool | None)
# only brackets survive, and both kinds count as one: nesting is all that is asked
_SAME = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Fields(Struct, frozen=True):
    """The top level of a JSON object: where each value stands in the body."""

    body: bytes
    spans: dict[str, tuple[int, int]]
    end: int  # where a further field goes in: behind the last value, or behind the opening brace

    def get(self, name: str) -> bytes | None:
        """A value in its own spelling; None where it is absent or null."""
        span = self.spans.get(name)
        if span is None:
            return None
        raw = self.body[span[0] : span[1]]
        return None if raw == b"null" else raw


class Seen:
    """Remembers by hash which parts of bodies were found sound: a long history is checked once, not at each step."""

    __slots__ = ("_most", "_parts", "_seed")

    def __init__(self, most: int = 8192, seed: int = 0) -> None:
        self._parts: dict[int, None] = {}
        self._most = most
        self._seed = seed

    def __len__(self) -> int:
        return len(self._parts)

    def check(self, raw: bytes, depth: int = MAX_DEPTH) -> None:
        """Raises Undecodable where a part nests deeper than `depth` or is not UTF-8."""
        if len(raw) < depth and raw.isascii():
            return
        key = xxh3_128_intdigest(raw, self._seed)
        if key in self._parts:
            return
        check_sound(raw, depth)
        if len(self._parts) >= self._most:
            del self._parts[next(iter(self._parts))]
        self._parts[key] = None


def check_sound(raw: bytes, depth: int = MAX_DEPTH) -> None:
    """Raises Undecodable where valid JSON nests deeper than `depth` or is not UTF-8."""
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise Undecodable("The request body is not valid UTF-8.") from error
    if deeper_than(raw, depth):
        raise Undecodable(f"The request body nests deeper than {MAX_DEPTH} levels.")


def deeper_than(raw: bytes, depth: int) -> bool:
    """Does valid JSON nest deeper than that? Each round takes away the innermost pairs, so rounds count levels."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(raw.split(b'"')[::2]).translate(_SAME, _NOT_BRACKETS)
    while brackets and depth > 0:
        brackets = brackets.replace(b"[]", b"")
        depth -= 1
    return bool(brackets)


def read_object(body: bytes) -> Fields:
    """Takes the top level apart. Raises Undecodable (400) where it isn't one well-formed JSON object without repeats.

    Nested values are known to be well-formed JSON afterwards; their depth and UTF-8 are for `Seen.check`.
    """
    start = 3 if body.startswith(_BOM) else 0
    try:
        values = _OBJECT.decode(body[3:] if start else body)
    except msgspec.ValidationError as error:
        raise Undecodable("The request body is not a JSON object.") from error
    except UnicodeDecodeError as error:
        raise Undecodable("The request body is not valid UTF-8.") from error
    except RecursionError as error:
        raise Undecodable(f"The request body nests deeper than {MAX_DEPTH} levels.") from error
    except msgspec.DecodeError as error:
        raise Undecodable(f"The request body is not valid JSON: {error}.") from error
    return _walk(body, start, values)


def _walk(body: bytes, start: int, values: dict[str, Raw]) -> Fields:
    """Finds each value's span: forward, key by key. A parser keeps one of two equal keys, so what is left over, or
    stands where something else was expected, is a duplicate."""
    spans: dict[str, tuple[int, int]] = {}
    at = end = _past_blank(body, start) + 1  # behind the brace
    try:
        for key, value in values.items():
            literal = b'"%b":' % key.encode()
            if body.startswith(literal, at):
                at += len(literal)
                if body[at] in _BLANK:
                    at = _past_blank(body, at)
            else:
                at = _past_key(body, at, key)
            raw = bytes(value)
            if not body.startswith(raw, at):
                raise _repeated(key)
            end = at + len(raw)
            spans[key] = (at, end)
            at = end if body[end] in _STOPS else _past_blank(body, end)
            if body[at] == _COMMA:
                at += 2 if body[at + 1] == _SPACE else 1
        closed = body[_past_blank(body, at)] == _CLOSE
    except IndexError:
        closed = False
    if not closed or body[_past_blank(body, at) + 1 :].strip(_BLANK):
        raise _repeated()
    return Fields(body=body, spans=spans, end=end)


def _past_blank(body: bytes, at: int) -> int:
    while body[at] in _BLANK:
        at += 1
    return at


def _past_key(body: bytes, at: int, key: str) -> int:
    at = _past_blank(body, at)
    literal = b'"%b"' % key.encode()
    if body.startswith(literal, at):
        at += len(literal)
    else:
        at = _past_spelled_key(body, at, key)
    at = _past_blank(body, at)
    if body[at] != _COLON:
        raise _repeated(key)
    return _past_blank(body, at + 1)


def _past_spelled_key(body: bytes, at: int, key: str) -> int:
    """A key that is spelled with escapes (`"mod\\u0065l"`)."""
    end = body.find(b'"', at + 1)
    while end > 0:
        slashes = end - len(body[at + 1 : end].rstrip(b"\\")) - at - 1
        if slashes % 2 == 0:
            break
        end = body.find(b'"', end + 1)
    try:
        if end > 0 and _TEXT.decode(body[at : end + 1]) == key:
            return end + 1
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise _repeated(key)


def _repeated(key: str = "") -> Undecodable:
    near = f" near {key[:100]!r}" if key else ""
    return Undecodable(f"The request body repeats a key{near}: each field may stand there once.")


def read_list(raw: bytes, name: str) -> list[bytes]:
    """The elements of an array, each in its own spelling. Raises Undecodable where it isn't one."""
    try:
        return [bytes(item) for item in _LIST.decode(raw)]
    except msgspec.DecodeError as error:
        raise Undecodable(f"`{name}` must be an array.") from error


def strict_inside(raw: bytes, name: str, depth: int = MAX_DEPTH - 1) -> Fields | None:
    """An object whose own fields we act on: no repeats, sound inside. None where the value isn't an object."""
    if not raw.startswith(b"{"):
        return None
    check_sound(raw, depth)
    try:
        return read_object(raw)
    except Undecodable as error:
        raise Undecodable(f"`{name}`: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise _repeated(next(name for name in value if names.count(name) > 1))
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_once)


def decode_strict(raw: bytes) -> Any:
    """A part of a sound body as Python values; raises Undecodable where an object at any level repeats a key.

    Three times as dear as msgspec: only for parts that we act on, once each (see history.Memo).
    """
    try:
        return _STRICT.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise Undecodable("The request body is not valid UTF-8.") from error
    except (ValueError, RecursionError) as error:
        # beyond 4,300 digits Python refuses to read an integer
        raise Undecodable("The request body holds a value that can't be read.") from error


def text(fields: Fields, name: str) -> str | None:
    """A string, None where absent or null. Raises Undecodable for anything else."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(f"`{name}` must be a string.") from error


def integer(fields: Fields, name: str, least: int = 0, most: int = MAX_INTEGER) -> int | None:
    """A whole number within bounds, None where absent or null. Raises Undecodable naming the field."""
    raw = fields.get(name)
    if raw is None:
        return None
    value = _whole_number(raw)
    if value is None or not least <= value <= most:
        raise Undecodable(f"`{name}` must be an integer from {least} to {most}.")
    return value


def _whole_number(raw: bytes) -> int | None:
    if len(raw) > 32:
        return None
    if raw.isdigit():
        return int(raw)
    try:
        value: Any = _NUMBER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == int(value) else None


def boolean(fields: Fields, name: str) -> bool | None:
    """true or false, None where absent or null. Raises Undecodable for anything else."""
    raw = fields.get(name)
    if raw is None:
        return None
    if raw not in (b"true", b"false"):
        raise Undecodable(f"`{name}` must be true or false.")
    return raw == b"true"


def splice(body: bytes, edits: Iterable[Edit]) -> bytes:
    """The body with each span (start, end) replaced. Spans must not overlap; several insertions at one place keep their
    order. The same object where there is nothing to do."""
    pieces: list[bytes] = []
    at = 0
    for start, end, value in sorted(edits, key=lambda edit: edit[:2]):
        if start < at:
            raise ValueError("edits overlap")
        pieces += (body[at:start], value)
        at = end
    if not pieces:
        return body
    pieces.append(body[at:])
    return b"".join(pieces)


def insertion(fields: Fields, key: str, value: bytes, more: bool = False) -> Edit:
    """The edit that adds a field behind the last one; `more`: an edit before this one adds a field already."""
    comma = b"," if fields.spans or more else b""
    return (fields.end, fields.end, comma + msgspec.json.encode(key) + b":" + value)


def put(fields: Fields, key: str, value: bytes, edits: list[Edit]) -> None:
    """Adds to `edits` what sets a field: its value (also a null) replaced where it stands, else the field added."""
    span = fields.spans.get(key)
    if span is not None:
        edits.append((*span, value))
    else:
        edits.append(insertion(fields, key, value, more=any(edit[0] == fields.end for edit in edits)))


def is_filled(fields: Fields, key: str) -> bool:
    """Does this array hold anything? Absent and null hold nothing."""
    raw = fields.get(key)
    return raw is not None and bool(read_list(raw, key))


def insert_field(body: bytes, key: str, value: bytes) -> bytes:
    """The body of an object with one field more at its end, everything else in its own spelling."""
    return splice(body, [insertion(read_object(body), key, value)])
