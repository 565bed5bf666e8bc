"""The bench's own ends of the wire: a provider that costs next to nothing, and a load that measures.

Raw asyncio protocols on purpose: what they burn is not the product's, so it must be small and the same for every lane.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

USAGE = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()


def _event(choices: list[dict[str, object]], usage: dict[str, int] | None) -> bytes:
    body = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DELTA = _event([{"index": 0, "delta": {"content": "some words "}, "logprobs": None, "finish_reason": None}], None)
LAST = (
    _event([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}], None)
    + _event([], USAGE)
    + b"data: [DONE]\n\n"
)
WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\ncontent-length: "
    + str(len(ANSWER)).encode()
    + b"\r\n\r\n"
    + ANSWER
)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
GAP_S = 0.010
CHUNKS = 100


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer coding."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


DELTA_CHUNK = chunk(DELTA)
LAST_CHUNK = chunk(LAST) + b"0\r\n\r\n"


class Answering(asyncio.Protocol):
    """One connection of the provider; `delay_s` stands for the model's time."""

    def __init__(self, delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._delay_s = delay_s
        self._loop = loop
        self._buffer = bytearray()
        self._want = -1
        self._transport: asyncio.Transport | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            if self._want < 0:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self._buffer[:end]).lower()
                at = head.find(b"content-length:")
                length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                self._want = end + 4 + length
            if len(self._buffer) < self._want:
                return
            streamed = self._buffer.find(b'"stream": true', 0, self._want) >= 0
            if not streamed:
                streamed = self._buffer.find(b'"stream":true', 0, self._want) >= 0
            del self._buffer[: self._want]
            self._want = -1
            answer = self._stream if streamed else self._whole
            if self._delay_s:
                self._loop.call_later(self._delay_s, answer)
            else:
                answer()

    def _whole(self) -> None:
        if self._transport is not None:
            self._transport.write(WHOLE)

    def _stream(self) -> None:
        if self._transport is not None:
            self._transport.write(STREAM)
            self._left = CHUNKS
            self._tick()

    def _tick(self) -> None:
        if self._transport is None:
            return
        if self._left <= 0:
            self._transport.write(LAST_CHUNK)
            return
        self._left -= 1
        self._transport.write(DELTA_CHUNK)
        self._loop.call_later(GAP_S, self._tick)


class Asking(asyncio.Protocol):
    """One connection of the load: sends a request, waits for the whole answer, tells how it went."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[int] | None = None
        self._tail = b""
        self._need = -1
        self._got = 0
        self._chunked = False
        self._status = 0
        self.first_at = 0.0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError("the other end closed"))

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Sends; the future gives the status once the answer is complete."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._tail, self._need, self._got, self._status, self.first_at = b"", -1, 0, 0, 0.0
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        if self._status == 0:
            data = self._tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._tail = data
                return
            head = data[:end].lower()
            self._status = int(head[9:12])
            at = head.find(b"content-length:")
            self._chunked = at < 0
            self._need = -1 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
            data, self._tail = data[end + 4 :], b""
        if not self.first_at and data:
            self.first_at = time.perf_counter()
        self._got += len(data)
        if self._chunked:
            self._tail = (self._tail + data)[-5:]
            finished = self._tail == b"0\r\n\r\n"
        else:
            finished = self._got >= self._need
        if finished and self._done is not None and not self._done.done():
            self._done.set_result(self._status)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect(port: int) -> Asking:
    """A connection of the load."""
    _, protocol = await asyncio.get_running_loop().create_connection(Asking, "127.0.0.1", port)
    return protocol


async def closed_loop(port: int, make: Callable[[int], bytes], connections: int, seconds: float) -> int:
    """As fast as it goes on so many connections; how many calls were answered with 200."""
    until = time.perf_counter() + seconds
    answered = 0

    async def one(number: int) -> None:
        nonlocal answered
        line = await connect(port)
        request = make(number)
        while time.perf_counter() < until:
            status = await line.ask(request)
            if status != 200:
                raise RuntimeError(f"status {status}")
            answered += 1
        line.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return answered


async def open_loop(port: int, make: Callable[[int], bytes], per_s: float, seconds: float) -> list[float]:
    """At a fixed rate, whatever the answers do; the seconds each call took."""
    free: list[Asking] = []
    took: list[float] = []
    loop = asyncio.get_running_loop()

    async def one(number: int) -> None:
        line = free.pop() if free else await connect(port)
        begun = time.perf_counter()
        await line.ask(make(number))
        took.append(time.perf_counter() - begun)
        free.append(line)

    begin = loop.time()
    tasks = []
    for number in range(int(per_s * seconds)):
        at = begin + number / per_s
        delay = at - loop.time()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(loop.create_task(one(number)))
    await asyncio.gather(*tasks)
    for line in free:
        line.close()
    return took


async def serve(port: int, delay_s: float) -> None:
    """The provider, until it is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(delay_s, loop), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
