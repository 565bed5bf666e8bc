"""Claims about channels: where a webhook may go, how long it may take, what is said when it fails; and apprise."""

from __future__ import annotations

import email
import email.policy
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import parseaddr
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest
import trustme

from gateway.core.errors import ConfigError, UpstreamFailed
from gateway.core.telemetry.alerts.episodes import Message
from gateway.core.telemetry.alerts.webhook import trial
from gateway.core.telemetry.settings import AlertRules, Channel
from gateway.edge.channels import Heard, Messenger, Webhook, senders
from gateway.edge.clock import SystemClock
from tests.receiver import SECRET, Receiver, receiving, verified

CLOCK = SystemClock()
MESSAGE = Message(
    "msg_1", "al_1", "run_stopped", "warning", {"run_id": "R"},
    {"summary": "Run R was killed.", "stop": "meterbox kill R", "look": "meterbox runs show R",
     "mute": "meterbox alerts mute al_1"},
    "firing", 1.0, None, 1.0,
)  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody else's server."""
    with receiving() as one:
        yield one


def hook(url: str, hosts: tuple[str, ...] = (), **more: Any) -> Webhook:
    """A webhook on a host that the file marks as local."""
    channel = Channel("hook", url, SECRET, earlier=more.pop("earlier", None), local=more.pop("local", True))
    return Webhook(channel, hosts, CLOCK, **more)


def test_the_log_says_once_that_a_channel_takes_nothing_and_that_it_goes_on(receiver):
    """A repeat with the same error is no news; another error is; without an error nothing is said. No address in it."""
    lines: list[tuple[str, dict[str, Any]]] = []
    heard = Heard(hook(receiver.url), lambda event, fields: lines.append((event, fields)))
    receiver.answers = [200, 503, 503, 401, 200, 200]
    for status in tuple(receiver.answers):
        if status == 200:
            heard.send(MESSAGE, 0)
            continue
        with pytest.raises(UpstreamFailed):
            heard.send(MESSAGE, 0)
    assert [
        ("channel_failed", {"channel": "hook", "why": "it answered 503"}),
        ("channel_failed", {"channel": "hook", "why": "it answered 401"}),
        ("channel_recovered", {"channel": "hook"}),
    ] == lines


def test_a_webhook_is_posted_signed_with_both_secrets(receiver):
    """During a rotation a receiver with either secret takes it."""
    earlier = "whsec_" + SECRET[7:][::-1].replace("=", "") + "="
    hook(receiver.url, earlier="whsec_" + "QUJD" * 11).send(MESSAGE, 3)
    (post,) = receiver.posts
    assert verified(post.headers, post.raw)
    assert verified(post.headers, post.raw, "whsec_" + "QUJD" * 11)
    assert not verified(post.headers, post.raw.replace(b"killed", b"KILLED"))
    assert (3, "meterbox") == (post.body["truncatedAlerts"], post.headers["user-agent"])
    assert earlier not in post.headers["webhook-signature"]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_anything_but_2xx_is_a_failure_and_no_redirect_is_followed(receiver, status):
    """The next host is nobody's choice but the operator's; the error names the status and nothing else."""
    receiver.answers, receiver.location = [status], receiver.url
    with pytest.raises(UpstreamFailed) as failed:
        hook(receiver.url).send(MESSAGE, 0)
    assert (f"it answered {status}", 1) == (str(failed.value), len(receiver.posts))


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_taken(receiver, status):
    """A receiver may say it in its own way."""
    receiver.answers = [status]
    hook(receiver.url).send(MESSAGE, 0)
    assert 1 == len(receiver.taken)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.8", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1"])
def test_a_public_name_that_resolves_to_a_private_address_is_not_connected_to(receiver, address):
    """Whatever its DNS says (SSRF); only a host that the file itself marks as local may have one."""
    url = f"https://hooks.example.com:{receiver.port}/x"
    with pytest.raises(UpstreamFailed, match="no webhook may go to"):
        hook(url, local=False, lookup=lambda _host, _port: [address]).send(MESSAGE, 0)
    with pytest.raises(UpstreamFailed, match="no webhook may go to"):  # the clouds' metadata: not even then
        hook(url, lookup=lambda _host, _port: ["169.254.169.254"]).send(MESSAGE, 0)
    assert [] == receiver.posts


def test_what_is_resolved_is_what_is_connected_to(receiver):
    """One look-up for each message; a second answer of the DNS is never asked for. The first address that works."""
    asked = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.2", "127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    hook(f"http://hooks.internal.local:{receiver.port}/x", lookup=lookup).send(MESSAGE, 0)
    assert [("hooks.internal.local", receiver.port)] == asked
    assert f"hooks.internal.local:{receiver.port}" == receiver.posts[0].headers["host"]


def test_no_proxy_of_the_environment_is_used(receiver, monkeypatch):
    """A message about money goes where the file says."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    hook(receiver.url).send(MESSAGE, 0)
    assert 1 == len(receiver.posts)


def test_a_host_that_is_not_listed_stops_the_start():
    """`[projections.alerts] hosts`, where it is set."""
    hook("https://hooks.example.com/x", ("hooks.example.com",))
    with pytest.raises(ConfigError, match="hosts"):
        hook("https://hooks.example.com/x", ("example.com",))


def test_a_receiver_that_never_answers_or_trickles_is_cut_off(receiver):
    """One byte every now and then resets no time; nor does a silent one."""
    receiver.trickle_s = 0.05
    started = time.monotonic()
    with pytest.raises(UpstreamFailed) as failed:
        hook(receiver.url, limit_s=0.4).send(MESSAGE, 0)
    assert ("timeout", True) == (failed.value.kind, 0.3 < time.monotonic() - started < 3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UpstreamFailed, match="no answer within"):
        hook(f"http://127.0.0.1:{silent.getsockname()[1]}/", limit_s=0.2).send(MESSAGE, 0)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UpstreamFailed):  # nor a TLS handshake
        hook(f"https://127.0.0.1:{mute.getsockname()[1]}/", limit_s=0.2).send(MESSAGE, 0)


def test_what_cannot_be_reached_is_said_without_its_address(receiver):
    """Errors are shown by /api: the URL's path may be a secret."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/T0/B0/sEcReT", "http://nowhere.invalid/sEcReT"):
        with pytest.raises(UpstreamFailed) as failed:
            hook(url).send(MESSAGE, 0)
        assert "sEcReT" not in str(failed.value)
        assert "it can't be reached" in str(failed.value)


def test_a_large_answer_is_not_read_to_its_end():
    """At most 64 KB; what is more is nobody's business."""
    read = []

    class Floods(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(4000):
                    self.wfile.write(b"x" * 65536)
                    read.append(65536)
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Floods)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    hook(f"http://127.0.0.1:{server.server_address[1]}/").send(MESSAGE, 0)
    thread.join()
    server.server_close()
    assert sum(read) < 100 << 20


def test_a_webhook_over_tls_checks_the_certificates_name(monkeypatch):
    """Of the host in the URL, not of the address that was connected to."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.local").configure_cert(context)
    with receiving_over(context) as (port, posts):
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        here: dict[str, Any] = {"lookup": lambda _host, _port: ["127.0.0.1"]}
        hook(f"https://hooks.local:{port}/", **here).send(MESSAGE, 0)
        with pytest.raises(UpstreamFailed, match="SSLCertVerificationError"):
            hook(f"https://other.local:{port}/", **here).send(MESSAGE, 0)
    assert 1 == len(posts)


class receiving_over:
    """A receiver behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.posts: list[bytes] = []
        posts = self.posts

        class Hears(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posts.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Hears)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> tuple[int, list[bytes]]:
        self.thread.start()
        return self.server.server_address[1], self.posts

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


# --------------------------------------------------------------------------- apprise


def service(url: str) -> Messenger:
    """A channel of apprise's."""
    return Messenger(Channel("team", url))


def test_apprise_tells_title_sentence_and_commands(receiver):
    """By its plain JSON service, to a real server: what Slack, Teams or a pager would get as text."""
    service(f"json://127.0.0.1:{receiver.port}/hook").send(MESSAGE, 2)
    said = receiver.posts[0].body
    assert ("Meterbox run_stopped", "warning") == (said["title"], said["type"])
    assert [
        "Run R was killed. (+2 not sent)", "stop: meterbox kill R", "look: meterbox runs show R",
        "mute: meterbox alerts mute al_1",
    ] == said["message"].split("\n")  # fmt: skip
    service(f"json://127.0.0.1:{receiver.port}/hook").send(trial("msg_2", 1.0), 0)
    assert "Meterbox test" == receiver.posts[1].body["title"]


class Post(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to be handed a letter."""

    letters: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().strip().upper():
            if line == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                letter = iter(self.rfile.readline, b".\r\n")
                self.letters.append(b"".join(letter).decode())
            self.wfile.write(b"221 bye\r\n" if line == b"QUIT" else b"250 fine\r\n")


def test_a_letter_is_an_alert_too():
    """R-116: by SMTP to a real socket; subject and text as everywhere."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Post)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"mailto://127.0.0.1:{server.server_address[1]}?from=gateway@example.com&to=ann@example.com&mode=insecure"
        service(url).send(MESSAGE, 0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    letter = email.message_from_string(Post.letters[0], policy=email.policy.default)
    assert ("Meterbox run_stopped", "ann@example.com") == (letter["subject"], parseaddr(letter["to"])[1])
    text = letter.get_body(("plain",))
    assert text is not None
    assert "Run R was killed." in text.get_content()
    assert "stop: meterbox kill R" in text.get_content()


def test_what_apprise_says_was_not_taken_is_a_failure_and_it_follows_no_redirect(receiver):
    """A service behind it that answers 500, or points elsewhere."""
    receiver.location = receiver.url
    for status in (500, 302, 307):
        receiver.answers = [status]
        with pytest.raises(UpstreamFailed, match="did not take it"):
            service(f"json://127.0.0.1:{receiver.port}/hook").send(MESSAGE, 0)
    assert 3 == len(receiver.posts)


@pytest.mark.parametrize("url", ["nonsense://x/y", "slack://", "mailto://"])
def test_an_address_that_apprise_does_not_know_stops_the_start(url):
    """Named by its channel; the address, which holds credentials, is not repeated."""
    with pytest.raises(ConfigError) as wrong:
        service(url)
    assert "projections.alerts.channels.team" in str(wrong.value)
    assert url not in str(wrong.value)


def test_a_channel_that_needs_apprise_where_it_is_not_installed_stops_the_start(monkeypatch):
    """The sentence says what to install."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install 'meterbox\[alerts\]'"):
        service("slack://a/b/c")


def test_senders_are_made_for_each_channel_and_webhooks_need_no_apprise(monkeypatch, receiver):
    """In the file's order; apprise is imported only where a channel needs it."""
    rules = AlertRules((Channel("one", receiver.url, local=True), Channel("two", "json://127.0.0.1:9/x")))
    assert ["one", "two"] == [sender.name for sender in senders(rules, CLOCK)]
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert 1 == len(senders(AlertRules((rules.channels[0],)), CLOCK))
