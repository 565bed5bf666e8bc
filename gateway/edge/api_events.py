"""A run's journal as server-sent events, for as long as somebody listens.

Invariant: an event's id is its number in the journal, so `Last-Event-ID` goes on without a gap or a repeat; a listener
that is slow slows only itself, and there are at most MOST_LISTENERS. What never enters: a journal of its own.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.edge.api_door import HEADERS, Wrong
from gateway.edge.api_reads import Reads
from gateway.edge.api_views import event

MOST_LISTENERS = 64
BATCH = 200
POLL_S = 0.25
BLANK_S = 15.0  # a sign of life for what sits between: blank lines, never comments (http.md section 2)
MOST_SEQ = 2**63 - 1


class Feed:
    """Follows the journal for its listeners."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._listeners = 0

    async def follow(self, request: web.BaseRequest, run_key: str) -> web.StreamResponse:
        """Tells what the journal says of a run, and what it will say, until the listener leaves."""
        after = last_seen(request.headers.get("Last-Event-ID"))
        if self._listeners >= MOST_LISTENERS:
            raise Wrong(503, "overloaded", f"{MOST_LISTENERS} listeners are here already.", {"Retry-After": "5"})
        self._listeners += 1
        try:
            return await self._tell(request, run_key, after)
        finally:
            self._listeners -= 1

    async def _tell(self, request: web.BaseRequest, run_key: str, after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        # the first read may still be refused as an answer; after the head there is only the stream
        entries = await self._reads.entries(after, run_key, BATCH)
        await response.prepare(request)
        quiet_s = 0.0
        try:
            while True:
                for entry in entries:
                    after = entry.seq
                    if entry.kind != "content":  # hashes of captured messages: nothing that a listener can use
                        kind, data = event(entry)
                        await response.write(f"id: {after}\nevent: {kind}\ndata: {data}\n\n".encode())
                        quiet_s = 0.0
                if len(entries) < BATCH:
                    await asyncio.sleep(POLL_S)
                    quiet_s += POLL_S
                if quiet_s >= BLANK_S:
                    await response.write(b"\n")
                    quiet_s = 0.0
                if request.transport is None or request.transport.is_closing():
                    return response
                entries = await self._reads.entries(after, run_key, BATCH)
        except (ConnectionError, Wrong):  # gone; or too busy: it comes back with its Last-Event-ID
            return response


def last_seen(said: str | None) -> int:
    """The number that a listener heard last; 0 from the beginning. Raises Wrong."""
    if said is None or not said.strip():
        return 0
    text = said.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MOST_SEQ):
        raise Wrong(400, "invalid_request", "Last-Event-ID is the id of an event that this path sent.")
    return int(text)
