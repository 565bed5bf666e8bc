"""What a call said, kept aside while it passes, and made into messages that may be written down.

Off, there is nothing of this in a walk: the stream is the provider's own. On, `Heard` stands in its place and keeps the
pieces; when the call has settled they are handed in, and a `Scribe` reads, redacts and names them elsewhere, later. A
history comes again with every call: a message that was read before is known by its bytes, and costs a hash.

Invariant: only what `redact` let through leaves here, nothing is kept without a bound, nothing raises. What never
enters: a thread, a clock, the ledger, a decision about money.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec import Struct, structs

from gateway.core import redact
from gateway.core.ports import Stream
from gateway.core.types import Content, Exchange
from gateway.core.wire import content_anthropic, content_chat, content_responses
from gateway.core.wire.content import Family, odd, read_body, value_of

if TYPE_CHECKING:
    from gateway.core.step import Step

ANSWER_MOST: Final = 4 << 20  # bytes of one answer: 16,000 tokens in the events of a chat stream
REQUEST_MOST: Final = 8 << 20  # bytes of a request; what is larger is all media, and holds up the interpreter
MESSAGES_MOST: Final = 1_000  # of one request, the newest
TOOLS_MOST: Final = 256
TEXT_MOST: Final = 256 << 10  # bytes of one message as JSON
PART_MOST: Final = 256 << 10  # characters that the ledger writes at once
KNOWN_MOST: Final = 8_192  # texts that need not be read again
YOUNG_S: Final = 3_600.0  # a text that is still said is written again so often: it is forgotten by its age

FAMILIES: Final = MappingProxyType(
    {
        "openai-chat": content_chat.FAMILY,
        "openai-completions": content_chat.FAMILY,
        "openai-responses": content_responses.FAMILY,
        "anthropic-messages": content_anthropic.FAMILY,
    }
)
_encode = msgspec.json.Encoder().encode


class Said(Struct, frozen=True):
    """What one call said, as it stood on the wire. cut: the answer was longer than what was kept."""

    call_id: str
    run: str
    dialect: str
    request: bytes
    answer: tuple[bytes, ...]
    cut: bool

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.request) + sum(map(len, self.answer))

    def __repr__(self) -> str:
        """Nothing of what was said, wherever it is printed."""
        return f"Said({self.call_id}, {self.size} bytes)"


class Ear(Protocol):
    """Whoever collects what calls say. Both verbs are asked in the walk, so neither waits."""

    def room(self, size: int) -> bool:
        """May so many bytes more be kept? Then they count as kept."""
        ...

    def take(self, said: Said) -> None:
        """The call has settled."""
        ...


class Heard:
    """ports.Stream over a provider's, that keeps what passes until the call has settled."""

    def __init__(self, stream: Stream, record: Exchange, request: bytes, ear: Ear) -> None:
        record.content = True
        self._stream = stream
        self._record = record
        self._request = request
        self._ear = ear
        self._kept: list[bytes] = []
        self._room = ANSWER_MOST
        self._cut = False
        self._over = False

    @property
    def status(self) -> int:
        """See ports.Stream."""
        return self._stream.status

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """See ports.Stream."""
        return self._stream.headers

    def chunks(self) -> AsyncIterator[bytes]:
        """See ports.Stream."""
        return _Overheard(self._stream.chunks(), self._keep)

    def close(self, within_s: float = 0.0) -> None:
        """See ports.Stream."""
        self._stream.close(within_s)

    def end(self) -> None:
        """The call has settled: hands in what was kept, once."""
        if not self._over:
            self._over = True
            record = self._record
            said = (record.call_id, record.run, record.dialect, self._request, tuple(self._kept), self._cut)
            self._kept.clear()
            self._ear.take(Said(*said))

    def _keep(self, chunk: bytes) -> None:
        if self._cut or self._over:
            return
        self._room -= len(chunk)
        if self._room >= 0 and self._ear.room(len(chunk)):
            self._kept.append(chunk)
        else:
            self._cut = True


class _Overheard:
    """The chunks of a stream, each shown to somebody first."""

    __slots__ = ("_chunks", "_show")

    def __init__(self, chunks: AsyncIterator[bytes], show: Callable[[bytes], None]) -> None:
        self._chunks = chunks
        self._show = show

    def __aiter__(self) -> _Overheard:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._chunks.__anext__()
        self._show(chunk)
        return chunk


def over(ear: Ear | None, step: Step, stream: Stream) -> Stream:
    """The stream as the walk reads it: where content is captured, and its format is one that can be read, one that
    keeps it; else the provider's own."""
    if ear is None or step.record.dialect not in FAMILIES:
        return stream
    step.heard = Heard(stream, step.record, step.inbound.body, ear)
    return step.heard


class Scribe:
    """Makes what calls said into what is written down. pause: lets others have the interpreter, between two texts."""

    def __init__(self, pause: Callable[[], None] = lambda: None) -> None:
        self._pause = pause
        self._known: OrderedDict[bytes, tuple[str, float]] = (
            OrderedDict()
        )  # of raw bytes: the text's hash, when it was told

    def forget(self) -> None:
        """What was handed on is not written down: nothing counts as known."""
        self._known.clear()

    def write(self, said: Said, now: float) -> Content:
        """The content of a call: hashes of all texts, and those texts that were not told before, or long ago."""
        family = FAMILIES[said.dialect]
        page = _Page(self, said.dialect, now)
        large = len(said.request) > REQUEST_MOST
        asked = family.asked(read_body(b"" if large else said.request))
        messages = asked.messages[-MESSAGES_MOST:]
        system = page.all("system", (asked.system,) if asked.system else (), family.system)
        told = page.all("message", messages, family.message)
        tools = page.all("tool", asked.tools[:TOOLS_MOST], family.tool)
        output = [page.add(one) for one in self._answer(family, said)]
        gaps = large or said.cut or page.cut or len(messages) < len(asked.messages) or len(asked.tools) > TOOLS_MOST
        return Content(
            said.call_id, said.run, system, told, tuple(output), tools, gaps, redact.VERSION, page.texts
        )  # fmt: skip

    def _answer(self, family: Family, said: Said) -> list[Any]:
        body = b"".join(said.answer)
        if said.cut and body.lstrip()[:5] not in (b"data:", b"event"):
            return []  # half of a JSON text is none
        return family.answer(body, self._pause)

    def known(self, key: bytes, now: float) -> str | None:
        """The hash of a text that was told lately, by the hash of what stood on the wire."""
        found = self._known.get(key)
        if found is None or not 0 <= now - found[1] < YOUNG_S:
            return None
        self._known.move_to_end(key)
        return found[0]

    def learn(self, key: bytes, name: str, now: float) -> None:
        """From now on it is known."""
        self._known[key] = (name, now)
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MOST:
            self._known.popitem(last=False)
        self._pause()


def parts(content: Content, most: int = PART_MOST) -> Iterator[Content]:
    """The same in parts of about so many characters, texts first: each is written by itself, and money goes between."""
    some: dict[str, str] = {}
    size = 0
    for name, text in content.texts.items():
        if some and size + len(text) > most:
            yield Content(content.call_id, content.run, texts=some, last=False)
            some, size = {}, 0
        some[name] = text
        size += len(text)
    yield structs.replace(content, texts=some)


class _Page:
    """What is written of one call."""

    def __init__(self, scribe: Scribe, dialect: str, now: float) -> None:
        self.texts: dict[str, str] = {}
        self.cut = False
        self._scribe = scribe
        self._person = dialect.encode()
        self._now = now

    def all(self, kind: str, raws: Iterable[bytes], read: Callable[[Any], Any]) -> tuple[str, ...]:
        """The hashes of raw values in order; reads only those that are not known."""
        found = []
        for raw in raws:
            key = blake2b(raw, digest_size=16, key=self._person, person=kind.encode()).digest()
            name = self._scribe.known(key, self._now)
            if name is None:
                name = self.add(read(value_of(raw)))
                self._scribe.learn(key, name, self._now)
            found.append(name)
        return tuple(found)

    def add(self, value: Any) -> str:
        """Redacts, writes, and names a value."""
        fit = redact.clean(value)
        text = _json(fit)
        if len(text) > TEXT_MOST:
            self.cut = True
            text = _json(_shortened(fit, text))
        name = blake2b(text, digest_size=16).hexdigest()
        self.texts[name] = text.decode()
        return name


def _json(value: Any) -> bytes:
    try:
        return _encode(value)
    except (UnicodeEncodeError, OverflowError):  # half a surrogate: no file can hold it
        return _encode(odd(repr(value).encode("ascii", "backslashreplace").decode()))


def _shortened(value: Any, text: bytes) -> Any:
    """What is too large, as the beginning of its own JSON: redacted before, so the cut may fall anywhere."""
    part = odd(text[: TEXT_MOST // 2].decode("utf-8", "ignore"))
    if isinstance(value, list):
        return [part]
    return {"role": value["role"], "parts": [part]} if "role" in value else {**part, "name": value.get("name", "")}
