"""The floor: aiohttp's low-level server and client with nothing in between. What the product adds is seen beside it."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web
from yarl import URL

DROP = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


async def main(port: int, sections: dict[str, str]) -> None:
    """Passes /SECTION/path on to the section's origin, as bytes."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            _, section, rest = request.raw_path.split("/", 2)
            heads = [(name, value) for name, value in request.headers.items() if name.lower() not in DROP]
            body = await request.content.read()
            url = URL(f"{sections[section]}/{rest}", encoded=True)
            async with session.request(request.method, url, data=body, headers=heads, timeout=NONE) as answer:
                back = [(name, value) for name, value in answer.headers.items() if name.lower() not in DROP]
                if not answer.content_type.startswith("text/event-stream"):
                    return web.Response(status=answer.status, headers=dict(back), body=await answer.read())
                response = web.StreamResponse(status=answer.status, headers=dict(back))
                await response.prepare(request)
                while chunk := await answer.content.readany():
                    await response.write(chunk)
                return response

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()


NONE = aiohttp.ClientTimeout(total=None, sock_connect=None)

if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), dict(pair.split("=", 1) for pair in sys.argv[2:])))
