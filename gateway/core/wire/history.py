"""What a message of a conversation amounts to, once per message: its canonical hash, tool ids, results, media.

Invariant: an answer hashes the same as it passed through the gateway and as its client quotes it later; whatever marks
a message only for one request (cache_control) is left out. Only digests are kept, never a text (design.md section 3).
What never enters: a dialect's message layout (the reader of a message is handed in), a run, a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar
from unicodedata import is_normalized, normalize

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from gateway.core.types import Result
from gateway.core.wire.body import MAX_DEPTH, check_sound

T = TypeVar("T")

MAX_PROSE_IDS = 256  # of one message
VOLATILE = frozenset({"cache_control", "cachePoint"})  # marks of one request: a later one sets them elsewhere
_UNIT = b"\x1f"
_RECORD = b"\x1e"

# A tool call id that is quoted in prose: by the look that providers give it, or labelled as an id (smolagents writes
# the calls into the text as a Python list of dicts). Searched by `find`: a regular expression is 50 times slower here.
_PROSE_MARKS = (b"call_", b"call-", b"toolu_", b"tooluse_", b"fc_", b"chatcmpl-tool-", b"'id':", b'\\"id\\":')
_NAMED_ID = re.compile(rb"[A-Za-z-]+_?[A-Za-z0-9_-]{5,64}")
_LABELLED_ID = re.compile(rb" ?(?:'|\\\")([A-Za-z0-9_.:-]{6,64})(?:'|\\\")")


class Digest(Struct, frozen=True):
    """What one message says, as far as we act on it."""

    hash: int = 0
    role: str = ""
    answer: bool = False  # the model wrote it
    ids: tuple[str, ...] = ()  # tool call ids, in order of first appearance, in prose too
    results: tuple[Result, ...] = ()  # position is 0 here: the reader of the list sets it
    images: int = 0
    media: bool = False  # audio, video, documents, files
    media_bytes: int = 0  # base64 of media: no text, so no part of the bound by bytes
    extra_bytes: int = 0  # what a normalising tokenizer may add to the bound (ledger.md section 5)
    unseen: bool = False  # it points to input that is not in the request
    cache_write: str = ""  # "" | "5m" | "1h"
    system: bool = False  # stands outside of the conversation


class Memo(Generic[T]):
    """What was read from parts of bodies, by the hash of their raw bytes: each step decodes only what is new.

    Bounded: what was read first goes first, and is read again when it comes again. `seed` keeps outsiders from
    preparing bytes that hash alike.
    """

    __slots__ = ("_known", "_most", "_seed")

    def __init__(self, most: int = 16384, seed: int = 0) -> None:
        self._known: dict[int, T] = {}
        self._most = most
        self._seed = seed

    def __len__(self) -> int:
        return len(self._known)

    def look(self, raw: bytes, read: Callable[[bytes], T], depth: int = MAX_DEPTH - 2) -> T:
        """What `read` makes of a part; it is asked once. Raises Undecodable where the part is unsound.

        `depth` is what the part may nest: a message stands in an array in an object, so two levels are gone.
        """
        key = xxh3_128_intdigest(raw, self._seed)
        known = self._known.get(key)
        if known is not None:
            return known
        check_sound(raw, depth)
        fresh = read(raw)
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[key] = fresh
        return fresh


def fold(prev: int, link: int) -> int:
    """The next hash of a chain of messages; a chain begins with 0."""
    return xxh3_64_intdigest(prev.to_bytes(8, "big") + link.to_bytes(8, "big"))


def chain(links: Iterable[int]) -> tuple[int, ...]:
    """chain[i] is the hash of messages 0..i."""
    out: list[int] = []
    at = 0
    for link in links:
        at = fold(at, link)
        out.append(at)
    return tuple(out)


def answer_hash(text: str, ids: Iterable[str]) -> int:
    """Canonical hash of an answer: its text, stripped at both ends, and its tool call ids in order.

    Thoughts that a model writes in front as <think>...</think> are left out: clients drop them, or put them there.
    """
    text = text.strip()
    if text.startswith("<think>"):
        text = text.partition("</think>")[2].strip() or text
    parts = [b"answer", _bytes(text)]
    parts.extend(_bytes(name) for name in ids)
    return xxh3_64_intdigest(_RECORD.join(parts))


def message_hash(role: str, content: Any) -> int:
    """Canonical hash of any other message: its role and its content, without volatile marks.

    A string and a list of one text part are the same: clients change to the list to hang a cache mark on it.
    """
    return xxh3_64_intdigest(_bytes(role) + _RECORD + canonical(content))


def canonical(content: Any) -> bytes:
    """Content in one spelling: texts as they are, all else as JSON with sorted keys and without volatile marks."""
    if isinstance(content, str):
        return _bytes(content)
    if content is None:
        return b""
    if isinstance(content, list):
        return _UNIT.join(_part(part) for part in content)
    return msgspec.json.encode(_bare(content), order="sorted")


def _part(part: Any) -> bytes:
    if isinstance(part, str):
        return _bytes(part)
    if isinstance(part, dict) and isinstance(text := part.get("text"), str):
        kind = part.get("type")
        if kind is None or kind in ("text", "input_text", "output_text"):
            return _bytes(text)
    return msgspec.json.encode(_bare(part), order="sorted")


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value


def _bytes(text: str) -> bytes:
    # a lone surrogate can't be written as UTF-8, yet must not end a walk
    return text.encode("utf-8", "surrogatepass")


def text_hash(text: str | bytes) -> int:
    """Digest of a tool's arguments or result: equal ones are told without keeping them."""
    return xxh3_64_intdigest(_bytes(text) if isinstance(text, str) else text)


def prose_ids(raw: bytes) -> list[str]:
    """Tool call ids that a message's raw JSON quotes, in prose too: smolagents sends no ids in fields."""
    found: list[tuple[int, str]] = []
    for mark in _PROSE_MARKS:
        at = raw.find(mark)
        while at >= 0 and len(found) < MAX_PROSE_IDS:
            label = mark.endswith(b":")
            match = _LABELLED_ID.match(raw, at + len(mark)) if label else _named(raw, at)
            if match is not None:
                found.append((match.start(int(label)), match.group(int(label)).decode()))
            at = raw.find(mark, at + len(mark))
    return [name for _, name in sorted(found)]


def _named(raw: bytes, at: int) -> re.Match[bytes] | None:
    """An id by its look: a word of its own with a digit in it; the field `tool_call_id` is neither."""
    if at and (raw[at - 1 : at].isalnum() or raw[at - 1 : at] == b"_"):
        return None
    match = _NAMED_ID.match(raw, at)
    return match if match is not None and any(48 <= byte <= 57 for byte in match.group()) else None


def growth(raw: bytes) -> int:
    """Bytes by which NFKC may make a part of a body longer than it is (ledger.md section 5): at worst 11 times."""
    if raw.isascii() and b"\\u" not in raw:
        return 0
    try:
        text = msgspec.json.encode(msgspec.json.decode(raw)).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 10 * len(raw)
    if is_normalized("NFKC", text):
        return 0
    return max(0, len(_bytes(normalize("NFKC", text))) - len(raw))


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """In order of first appearance, each once."""
    return tuple(dict.fromkeys(names))
