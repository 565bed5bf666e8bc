"""A webhook receiver as somebody else would write it: a real HTTP server that checks every signature by itself.

Invariant: it shares no code with the gateway; what it was sent is kept in a public list, in order.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
WAIT_S = 20.0


def verified(headers: dict[str, str], raw: bytes, secret: str = SECRET) -> bool:
    """Standard Webhooks, by its text: one of the v1 signatures is HMAC-SHA256 of id.timestamp.body, lately made."""
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        return False
    content = ".".join([headers["webhook-id"], headers["webhook-timestamp"], raw.decode()])
    digest = hmac.digest(base64.standard_b64decode(secret.split("_", 1)[1]), content.encode(), "sha256")
    wanted = "v1," + base64.standard_b64encode(digest).decode()
    return any(hmac.compare_digest(wanted, one) for one in headers.get("webhook-signature", "").split())


class Post:
    """One request: when it came, its headers and body, and what was answered."""

    def __init__(self, headers: dict[str, str], raw: bytes, status: int, path: str) -> None:
        self.headers, self.raw, self.status, self.path = headers, raw, status, path
        self.at = time.time()

    @property
    def id(self) -> str:
        """The message's."""
        return self.headers.get("webhook-id", "")

    @property
    def body(self) -> Any:
        """As JSON."""
        return json.loads(self.raw)

    @property
    def said(self) -> tuple[str, str]:
        """(status, summary) of its one alert."""
        (alert,) = self.body["alerts"]
        return alert["status"], alert["annotations"]["summary"]


class Receiver:
    """What it answers next (the last one repeats), and what it was sent."""

    def __init__(self) -> None:
        self.answers: list[int] = [200]
        self.posts: list[Post] = []
        self.before: Callable[[], None] = lambda: None  # called before an answer: to be slow, to die
        self.port = 0
        self.location = ""
        self.trickle_s = 0.0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook?team=a%20b"

    @property
    def taken(self) -> list[Post]:
        """Those that it said it took."""
        return [post for post in self.posts if 200 <= post.status < 300]

    def digest(self) -> str:
        """Of the ids that were taken."""
        return hashlib.sha256(" ".join(post.id for post in self.taken).encode()).hexdigest()


def until(true: Callable[[], bool], what: str = "it", most_s: float = WAIT_S) -> None:
    """Waits for a condition; fails after a while."""
    end = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < end, f"{what} did not come within {most_s} s"
        time.sleep(0.01)


def _hears(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Hears(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.before()
            receiver.posts.append(Post(headers, raw, status, self.path))
            self.send_response(status)
            if receiver.location:
                self.send_header("location", receiver.location)
            self.send_header("content-length", "0")
            if receiver.trickle_s:
                for letter in "x-slow: " + "y" * 400:
                    self._headers_buffer.append(letter.encode())  # type: ignore[attr-defined]
                    self.flush_headers()
                    time.sleep(receiver.trickle_s)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    return Hears


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listens on loopback as long as the block lasts."""
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _hears(receiver))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up is no traceback
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
