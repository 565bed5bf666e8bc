"""HTTP/1.1 on one connection: a request's bytes out, its answer's bytes in, through httptools' parser (llhttp).

Invariant: all that waits here is bounded, and a reader that waits stops the provider; a connection is used again only
after an answer that ended where its framing says, with nothing behind it. What never enters: names to resolve,
credentials, limits of time (edge/stream.py).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.core.errors import UpstreamFailed
from gateway.edge.stream import Answer

# Some edges send very long policy headers. The same holds for trailers and chunk extensions, which nobody reads.
_MOST_HEAD_BYTES = 64 << 10
_MOST_HEADERS = 256
# What may wait unread before the provider is stopped; one read of the loop (256 KB) can come on top.
_MOST_WAITING_BYTES = 128 << 10
_FIRST_BYTES = 64 << 10  # a body up to this goes out in one write with the head
_SLICE_BYTES = 256 << 10
_ACTED_ON = frozenset({"content-length", "transfer-encoding", "content-encoding"})


class _Stop(Exception):
    """Leaves the parser: nothing more of these bytes may be read."""


class Connection(asyncio.Protocol):
    """One connection to a provider: idle, or carrying the one Answer that was asked for."""

    def __init__(
        self, sock: socket.socket, give: Callable[[Connection], None], lost: Callable[[Connection], None]
    ) -> None:
        self.idle_since = 0.0
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._give = give
        self._lost = lost
        self._transport: asyncio.Transport  # what is written to
        self._line: asyncio.Transport  # below TLS, where there is TLS: what stops reading
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._stream: Answer | None = None
        self._parts: list[bytes] = []  # of that stream
        self._heads: list[tuple[bytes, bytes]] = []
        self._body: memoryview | None = None  # of the request: what the transport doesn't have yet
        self._held = False  # the transport takes no more for now
        self._paused = False  # we read no more for now
        self._over = False  # the answer has come whole
        self._interim = False  # a 1xx
        self._until_eof = False  # the body goes on until the connection ends
        self._last = False  # not to be used again
        self._silent_bytes = 0  # since the request, or since the last piece of body

    # ------------------------------------------------------------------ the pool's side

    @property
    def closed(self) -> bool:
        """It has ended, or is about to."""
        return self._transport.is_closing()

    @property
    def usable(self) -> bool:
        """Alive and silent at this very moment. The poll sees an end, or bytes that nobody asked for, of which the loop
        has not told yet: nothing was written then, so that taking another connection repeats nothing. (A third of what
        a peek costs: no exception.)
        """
        return not self._transport.is_closing() and not self._poll.poll(0)

    def ask(self, stream: Answer, request: bytes, body: bytes) -> None:
        """Writes a request; from here on it counts as sent."""
        self._stream = stream
        self._parts = stream.parts
        self._over = self._until_eof = self._last = False
        self._silent_bytes = 0
        if len(body) <= _FIRST_BYTES:
            self._transport.write(request + body)
        else:
            self._transport.write(request)
            self._body = memoryview(body)
            self._pump()

    def cut(self) -> None:
        """Ends it from our side; whoever waits for its answer learns that we did."""
        if self._stream is not None:
            self._stream.close()
        self.drop()

    def drop(self) -> None:
        """Ends it at once, whatever is under way."""
        self._stream = self._body = None
        self._transport.abort()

    def go_on(self) -> None:
        """What waited was read."""
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._line.resume_reading()

    async def secure(self, trusted: ssl.SSLContext, host: str) -> None:
        """TLS from here on. Raises OSError. Only the line below it is ever told to stop reading: what TLS itself holds
        back is lost under uvloop when the line ends."""
        if self._line.is_closing():
            raise ConnectionResetError("it was closed before TLS began")
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(self._line, self, trusted, server_hostname=host)
        except BaseException:
            self._line.abort()
            raise
        if secured is None:
            raise ConnectionResetError("it was closed while TLS began")
        self._transport = secured

    # ------------------------------------------------------------------ the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected; not trusted yet where it is to be TLS."""
        self._transport = self._line = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        """Bytes, as the network cut them."""
        stream, parser = self._stream, self._parser
        if stream is None or parser is None:
            return self._transport.abort()  # nobody asked for these: the next call must not read them
        self._silent_bytes += len(data)
        stream.waiting_bytes += len(data)
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._over:  # whole, but something came behind it
                self._last = True
                return self._end()
            # never the parser's own words: they may quote the answer
            return stream.fail(_odd(f"isn't HTTP ({type(error).__name__})"))
        if self._over:
            return self._end()
        if self._silent_bytes > _MOST_HEAD_BYTES:
            return stream.fail(_odd("has too much around its answer"))
        if self._parts:
            stream.wake()
            if stream.waiting_bytes > _MOST_WAITING_BYTES and not self._paused:
                self._paused = True
                self._line.pause_reading()

    def eof_received(self) -> bool:
        """The provider is done; so is a body that goes on until then."""
        self._ended(clean=self._announced())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by whomever."""
        if exc is not None:
            self._read_rest()
        self._ended(clean=False)  # a clean end was told before
        self._parser = None  # it holds methods of this object: a circle that only the collector would find
        self._lost(self)

    def pause_writing(self) -> None:
        """The provider reads slowly."""
        self._held = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._held = False
        self._pump()

    # ------------------------------------------------------------------ the parser's side

    def on_message_begin(self) -> None:
        """A second answer behind the first is nobody's."""
        if self._over:
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Or a trailer: these are counted and forgotten."""
        if len(self._heads) >= _MOST_HEADERS:
            raise _Stop
        self._heads.append((name, value))

    def on_headers_complete(self) -> None:
        """Takes the head apart, and refuses what llhttp lets pass."""
        stream, parser = self._stream, self._parser
        if stream is None or parser is None:
            raise _Stop
        heads, self._heads = self._heads, []
        try:
            headers = [(name.decode().lower(), value.decode().rstrip(" \t")) for name, value in heads]
        except UnicodeDecodeError:
            headers = [(name.decode("latin-1").lower(), _text(value)) for name, value in heads]
        acted_on = [(name, text.lower()) for name, text in headers if name in _ACTED_ON]
        framings = [head for head in acted_on if head[0] != "content-encoding"]
        status = parser.get_status_code()
        if not _plain(status, framings):
            raise _Stop
        if status < 200:  # still counted as silence: there may not be any number of them
            self._interim = True
            return
        if self._too_long(heads):
            raise _Stop
        self._silent_bytes = 0
        self._until_eof = not framings and status not in (204, 304)
        # RFC 9112 section 6.1: HTTP/1.0 knew no chunks, whoever sends them may mean something else by the end
        self._last = bool(framings) and framings[0][1] == "chunked" and parser.get_http_version() < "1.1"
        stream.begin(status, headers, ", ".join([text for name, text in acted_on if name == "content-encoding"]))
        if stream.bodiless:  # the parser can't be told so: this connection ends with the head
            self._over = True
            raise _Stop

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._silent_bytes = 0
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The end of an answer, or of a 1xx in front of it."""
        if self._interim:
            self._interim = False
            return
        self._over = True
        if self._parser is None or not self._parser.should_keep_alive():
            self._last = True

    # ------------------------------------------------------------------ inside

    def _too_long(self, heads: list[tuple[bytes, bytes]]) -> bool:
        """The packet in which the head ends may hold body as well; only then it is counted exactly."""
        if self._silent_bytes <= _MOST_HEAD_BYTES:
            return False
        return sum([len(name) + len(value) for name, value in heads]) > _MOST_HEAD_BYTES

    def _end(self) -> None:
        """The answer is whole. Early ones end their connection: the rest of the request is still on its way."""
        stream, self._stream = self._stream, None
        self._heads.clear()  # trailers
        if stream is not None:
            stream.finish()
        early = self._body is not None or self._transport.get_write_buffer_size() > 0
        if early or self._last or self._transport.is_closing():
            self.drop()
        else:
            self.go_on()
            self._give(self)

    def _announced(self) -> bool:
        """Whether the end is the provider's own: over TLS anybody can end the line (RFC 9112 section 9.8)."""
        secured = self._transport.get_extra_info("ssl_object")
        if secured is None:
            return True
        try:
            return not secured.read(1)
        except ssl.SSLError:  # it waits for more
            return False

    def _read_rest(self) -> None:
        """Who refuses a large body answers and hangs up: our write fails, and the loop lets go, before the answer was
        read that the kernel holds. Only without TLS: what it holds there can't be unpacked from here."""
        if self._transport.get_extra_info("sslcontext") is not None:
            return
        while self._stream is not None and self._stream.waiting_bytes <= _MOST_WAITING_BYTES:
            try:
                data = self._sock.recv(_SLICE_BYTES)
            except OSError:
                return
            if not data:
                return
            self.data_received(data)

    def _ended(self, clean: bool) -> None:
        """No more bytes will come."""
        stream = self._stream
        if stream is None:
            return
        if clean and self._until_eof:
            self._last = True
            return self._end()
        where = "in the middle of its answer" if stream.status else "before it answered"
        stream.fail(UpstreamFailed(f"the provider closed the connection {where}", kind="reset"))

    def _pump(self) -> None:
        """Hands a large body over in slices until the transport has enough: at once it would be in memory twice, and
        hold up all other calls."""
        while self._body is not None and not self._held and not self._transport.is_closing():
            rest = self._body
            self._body = rest[_SLICE_BYTES:] if len(rest) > _SLICE_BYTES else None
            self._transport.write(rest[:_SLICE_BYTES])


def _plain(status: int, framings: list[tuple[str, str]]) -> bool:
    """RFC 9112 section 6.3: a length that can be read in two ways is none. Codings of the transfer other than chunks,
    and 101, were never asked for; other 1xx have no body (RFC 9110 section 15.2)."""
    if status < 200:
        return status >= 100 and status != 101 and not framings
    return not framings or (len(framings) == 1 and (framings[0][0] == "content-length" or framings[0][1] == "chunked"))


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8").rstrip(" \t")
    except UnicodeDecodeError:
        return value.decode("latin-1").rstrip(" \t")  # RFC 9110 section 5.5: what HTTP once was


def _odd(what: str) -> UpstreamFailed:
    return UpstreamFailed(f"what the provider sent {what}", kind="protocol")
