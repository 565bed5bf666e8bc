"""A provider that answers with what was recorded, cut into chunks as told; and the recorded exchanges themselves."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
from collections.abc import Iterator
from typing import Any

from tests.play import SHARED

TRAFFIC = SHARED / "traffic"
WHOLE, BYTES, RANDOM = "whole", "bytes", "random"
# Headers of a recording that describe a body which is not the one we send.
DROPPED = frozenset({"content-length", "transfer-encoding", "content-encoding", "connection"})


def exchanges(dialect: str) -> Iterator[dict[str, Any]]:
    """The recorded exchanges of one dialect."""
    with gzip.open(TRAFFIC / f"{dialect}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def answer_of(exchange: dict[str, Any]) -> bytes:
    """The recorded body as bytes."""
    body = exchange["response_body"] or ""
    return base64.b64decode(body) if exchange["response_body_base64"] else body.encode()


def request_of(exchange: dict[str, Any]) -> bytes:
    """The recorded request's body as bytes."""
    if exchange.get("request_body_base64"):
        return base64.b64decode(exchange["request_body_base64"])
    if exchange.get("request_body_text"):
        text: str = exchange["request_body_text"]
        return text.encode()
    return b"" if exchange["request_body"] is None else json.dumps(exchange["request_body"]).encode()


def pieces(body: bytes, how: str, seed: str) -> list[bytes]:
    """A body cut one of three ways; byte by byte for its first and last 300 bytes."""
    if how == WHOLE or len(body) < 2:
        return [body] if body else []
    if how == BYTES:
        edge = 300
        middle = body[edge:-edge] if len(body) > 2 * edge else b""
        head, tail = (body[:edge], body[-edge:]) if middle else (body, b"")
        cut = [head[i : i + 1] for i in range(len(head))]
        return [*cut, *([middle] if middle else []), *(tail[i : i + 1] for i in range(len(tail)))]
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(1, len(body)), min(len(body) - 1, chance.randint(1, 12))))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


class Recorded:
    """Serves the exchange that the header `x-replay: <id> <how>` names."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, bytes] = {}
        self.origin = ""
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=64 << 20)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stops listening."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(named.get("content-length", "0")))
                name, _, how = named["x-replay"].partition(" ")
                self.seen[named["x-replay"]] = body
                await self._answer(writer, self.known[name], how)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, exchange: dict[str, Any], how: str) -> None:
        heads = [f"{k}: {v}" for k, v in exchange["response_headers"].items() if k.lower() not in DROPPED]
        body = answer_of(exchange)
        empty = exchange["status"] == 204
        framing = [] if empty else ["transfer-encoding: chunked"]
        writer.write("\r\n".join([f"HTTP/1.1 {exchange['status']} X", *framing, *heads, "", ""]).encode())
        if empty:
            return
        for piece in pieces(body, how, exchange["id"]):
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
