"""Server-sent events: bytes in, whole raw events out, however the network cuts them.

Invariant: everything returned by `feed`, then `tail`, is byte for byte what was fed; what is kept is bounded
(line 8 MB, event 16 MB). What never enters: a provider's event names, JSON, a decision what may go to the client.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_EVENT_BYTES = 16 * 1024 * 1024

# WHATWG HTML, "Interpreting an event stream": a line ends with CRLF, LF or CR; an event ends with an empty line.
# Atomic groups (Python 3.11), else the two bytes of one CRLF would count as two line ends.
_BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Splitter:
    """Cuts a byte stream behind each blank line; the pieces keep their own bytes, comments and stray blank lines too.

    A piece that holds no event (comments, blank lines, the second half of a CRLF) has no data and no name. An event
    beyond the limits is passed on in parts as it comes, which then hold no readable event; `overlong` counts them.
    """

    __slots__ = ("_held", "_scanned", "_skipping", "overlong")

    def __init__(self) -> None:
        self._held = bytearray()
        self._scanned = 0
        self._skipping = False
        self.overlong = 0

    @property
    def pending(self) -> int:
        """Bytes of the event that is still incomplete."""
        return len(self._held)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Takes bytes as they came, gives the events that are complete now."""
        if not self._held:
            if chunk.endswith(b"\n\n") and b"\r" not in chunk:
                if chunk.find(b"\n\n") == len(chunk) - 2:
                    return [chunk]
                *events, stray = chunk.split(b"\n\n")
                return [event + b"\n\n" for event in events] + [stray] * bool(stray)
            if not chunk:
                return []
        self._held += chunk
        return self._cut()

    def peek(self, start: int) -> bytes:
        """The incomplete event from `start` on, for a caller that lets a long one flow."""
        return bytes(self._held[start:])

    def tail(self) -> bytes:
        """What is incomplete; nothing is kept afterwards."""
        rest = bytes(self._held)
        self._drop(len(self._held))
        return rest

    def _cut(self) -> list[bytes]:
        held = self._held
        out: list[bytes] = []
        start = 0
        # three bytes back: a blank line may be cut after `\r\n\r`
        match = _BLANK.search(held, max(0, self._scanned - 3))
        while match is not None:
            end = match.end()
            # `\r\n\r` at the end is half of a CRLF pair: the other byte belongs to it
            if end == len(held) and held.endswith(b"\n\r"):
                break
            out.append(bytes(held[start:end]))
            self._skipping = False
            start = end
            match = _BLANK.search(held, end)
        if start:
            self._drop(start)
        self._scanned = len(held)
        self._bound(out)
        return out

    def _bound(self, out: list[bytes]) -> None:
        size = len(self._held)
        if not self._skipping:
            if size <= MAX_LINE_BYTES:
                return
            line = size - 1 - max(self._held.rfind(b"\n"), self._held.rfind(b"\r"))
            if size <= MAX_EVENT_BYTES and line <= MAX_LINE_BYTES:
                return
            self._skipping = True
            self.overlong += 1
        if size > 3:  # the last three bytes may be the beginning of the blank line
            out.append(bytes(self._held[: size - 3]))
            self._drop(size - 3)
            self._scanned = len(self._held)

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._scanned = 0


def data_of(event: bytes) -> bytes:
    """The data lines of an event joined with LF, each without one space after the colon; b"" without any."""
    if event.startswith(b"data:"):
        end = event.find(b"\n")
        if end > 0 and len(event) - end <= 3 and event.find(b"\r", 0, end - 1) < 0:
            if event[end - 1] == 13:
                end -= 1
            return event[6 if event[5] == 32 else 5 : end]
    if b"data" not in event:
        return b""
    lines = _lines(event)
    return b"\n".join(line[6 if line[5:6] == b" " else 5 :] for line in lines if line.startswith(b"data:"))


def lone_data(chunk: bytes) -> bytes:
    """The data of a chunk that is exactly one event of one `data: ` line (most are), else b"": ask a Splitter."""
    end = len(chunk) - 2
    if chunk.find(b"\n") == end and chunk.startswith(b"data: ") and chunk[end + 1] == 10 and b"\r" not in chunk:
        return chunk[6:end]
    return b""


def name_of(event: bytes) -> bytes:
    """The event's name (its last `event:` line), or b""."""
    if b"event:" not in event:
        return b""
    name = b""
    for line in _lines(event):
        if line.startswith(b"event:"):
            name = line[7 if line[6:7] == b" " else 6 :]
    return name


def _lines(event: bytes) -> list[bytes]:
    if event.startswith(_BOM):
        event = event[3:]
    return _LINE_END.split(event) if b"\r" in event else event.split(b"\n")
