"""Lets a stream of events flow: whole events go on as they came, the end of the answer waits.

Invariant: what `feed` gave out, then `rest`, is byte for byte what came in. Held back are an unfinished event (up to
64 KiB, then it flows), and everything from the last event on. What never enters: what an event means (a subclass does).
"""

from __future__ import annotations

from gateway.core.sse import Splitter, data_of

# An unfinished event beyond this flows on in parts: a client must not wait for megabytes (an image in base64).
MAX_HELD_BYTES = 64 * 1024

# How the data of an event may end while its blank line is still on the way.
_CLOSED = (b"}", b"}\n", b"}\r", b"}\r\n", b"} ")


class Flow:
    """Splits, shows each event's data to `see`, and decides what may go on. A dialect's reader says what is seen."""

    __slots__ = ("_flown", "_held", "_splitter", "_stays", "ended")

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._held: list[bytes] = []
        self._flown = 0  # bytes of the unfinished event that have gone on already
        self._stays = False  # the unfinished event is one that must stay whole
        self.ended = False

    def see(self, data: bytes) -> bool:
        """Takes note of an event's data. True: it is the last event of the answer."""
        raise NotImplementedError

    def is_last(self, data: bytes) -> bool:
        """Would `see` call it the last? Takes no note: also asked for an event whose blank line never comes."""
        raise NotImplementedError

    def stays_whole(self, head: bytes) -> bool:
        """Must an unfinished event that begins so stay whole, however long it is?"""
        raise NotImplementedError

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as they came; gives those that may go on."""
        if self.ended:
            self._held.append(chunk)
            return b""
        events = self._splitter.feed(chunk)
        if len(events) == 1 and not self._flown and not self._splitter.pending:
            event = events[0]
            if not self._ends(event):
                return event
            self._held.append(event)
            return b""
        return self._many(events)

    def rest(self) -> bytes:
        """What was held back; empty afterwards."""
        held = b"".join(self._held) + self._splitter.tail()[self._flown :]
        self._held.clear()
        self._flown = 0
        return held

    def broken_off(self) -> bytes:
        """What must stand in front of an event of our own: a blank line, if a part of an event has gone on."""
        return b"\n\n" if self._flown else b""

    def _ends(self, event: bytes) -> bool:
        data = payload(event)
        if data and self.see(data):
            self.ended = True
        return self.ended

    def _many(self, events: list[bytes]) -> bytes:
        out: list[bytes] = []
        for event in events:
            fresh = event[self._flown :] if self._flown else event
            self._flown = max(0, self._flown - len(event))  # an overlong event comes in parts
            self._stays = False
            if self.ended or self._ends(event):
                self._held.append(fresh)
            else:
                out.append(fresh)
        if self._splitter.pending:
            self._unfinished(out)
        return b"".join(out)

    def _unfinished(self, out: list[bytes]) -> None:
        pending = self._splitter.pending
        if self.ended:
            self._held.append(self._splitter.tail())
            return
        near = self._splitter.peek(max(0, pending - 4))
        if near.endswith(_CLOSED) and self._finished():
            return
        if pending <= MAX_HELD_BYTES or self._stays:
            return
        part = self._splitter.peek(self._flown)
        if not self._flown and self.stays_whole(part[:256]):
            self._stays = True
            return
        out.append(part)
        self._flown = pending

    def _finished(self) -> bool:
        """Is the last event here but for its blank line? Some servers close the connection instead of sending one."""
        event = self._splitter.peek(0)
        data = payload(event)
        if not data or not self.is_last(data):
            return False
        self.see(data)
        self.ended = True
        self._held.append(self._splitter.tail()[self._flown :])
        self._flown = 0
        return True


def looks_streamed(body: bytes) -> bool:
    """Is a body that was read whole a stream of events after all? Some servers name no content type, or another."""
    return body[:16].lstrip().startswith((b"event:", b"data:", b":"))


def payload(event: bytes) -> bytes:
    """The data of an event; the usual two lines `event:` and `data:` without taking them apart."""
    if event.startswith(b"event:"):
        at = event.find(b"\ndata:") + 6
        if at > 6 and event.find(b"\n", at) == len(event) - 2 and event.find(b"\n") == at - 6:
            return event[at:-2]
    return data_of(event)
