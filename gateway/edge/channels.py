"""Channels of alerts: the signed JSON webhook, and every other service through apprise.

Invariant: a webhook goes to the configured host and no other: what is resolved is what is connected to, a redirect is a
failure, no proxy of the environment is used, and it ends LIMIT_S after the look-up at the latest. Errors are sentences
of ours: no URL, no secret, no body. What never enters: which alert is told, and when again
(core/telemetry/alerts/outbox.py).
"""

from __future__ import annotations

import http.client
import importlib
import logging
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from gateway.core.errors import ConfigError, UpstreamFailed
from gateway.core.ports import Clock
from gateway.core.telemetry.alerts import webhook
from gateway.core.telemetry.alerts.episodes import Message
from gateway.core.telemetry.alerts.outbox import Sender
from gateway.core.telemetry.settings import AlertRules, Channel
from gateway.edge.resolver import may_connect

LIMIT_S: Final = 5.0  # security.md, webhooks; the look-up has the system's own limit
MOST_READ_BYTES: Final = 64 << 10
_TYPES: Final = {"critical": "failure", "warning": "warning", "info": "info"}

Lookup = Callable[[str, int], Sequence[str]]


def senders(rules: AlertRules, clock: Clock) -> list[Sender]:
    """The channels that are configured. Raises ConfigError where one can't be used."""
    made: list[Sender] = []
    for channel in rules.channels:
        made.append(Webhook(channel, rules.hosts, clock) if channel.webhook else Messenger(channel))
    return made


class Heard:
    """A channel of which the log says when it stops taking messages, once until its error changes, and when it goes on.

    Implements outbox.Sender. Used by one thread at a time.
    """

    def __init__(self, sender: Sender, log: Callable[[str, dict[str, Any]], None]) -> None:
        self.name = sender.name
        self._sender, self._log = sender, log
        self._why = ""

    def send(self, message: Message, left_out: int) -> None:
        """See `outbox.Sender`."""
        try:
            self._sender.send(message, left_out)
        except Exception as failure:
            why = str(failure) if isinstance(failure, UpstreamFailed) else type(failure).__name__
            if why != self._why:
                self._log("channel_failed", {"channel": self.name, "why": why})
            self._why = why
            raise
        if self._why:
            self._log("channel_recovered", {"channel": self.name})
        self._why = ""


# --------------------------------------------------------------------------- webhooks


class Webhook:
    """Posts the message, signed. Implements outbox.Sender."""

    def __init__(
        self,
        channel: Channel,
        hosts: Sequence[str],
        clock: Clock,
        lookup: Lookup | None = None,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.name = channel.name
        self._at = urlsplit(channel.url)
        self._host = (self._at.hostname or "").lower()
        if not self._host or (hosts and self._host not in hosts):
            raise ConfigError(f"projections.alerts.channels.{channel.name}: url: its host isn't one of hosts")
        self._secrets = [secret for secret in (channel.secret, channel.earlier) if secret]
        self._local = channel.local
        self._clock = clock
        self._lookup = lookup or _addresses
        self._limit_s = limit_s
        self._tls = ssl.create_default_context() if self._at.scheme == "https" else None

    def send(self, message: Message, left_out: int) -> None:
        """See `outbox.Sender`."""
        raw = webhook.body(message, self.name, left_out)
        headers = {
            "content-type": "application/json",
            "user-agent": "meterbox",
            "connection": "close",
            **webhook.signed(message.message_id, self._clock.now(), raw, self._secrets),
        }
        until = self._clock.mono() + self._limit_s
        try:
            status = self._post(raw, headers, until)
        except (OSError, http.client.HTTPException) as error:
            if self._clock.mono() >= until:
                raise UpstreamFailed(f"no answer within {self._limit_s:.0f} s", kind="timeout") from error
            raise UpstreamFailed(f"it can't be reached ({type(error).__name__})", kind="connect") from error
        if not 200 <= status < 300:
            raise UpstreamFailed(f"it answered {status}", kind="protocol")

    def _post(self, raw: bytes, headers: dict[str, str], until: float) -> int:
        """The status. Everything is cut off when the time is over, also a handshake or an answer that trickles."""
        port = self._at.port or (443 if self._tls is not None else 80)
        open_now: list[socket.socket] = [self._connect(port, until)]
        cut = threading.Timer(max(0.01, until - self._clock.mono()), _abort, (open_now,))
        cut.daemon = True
        cut.start()
        try:
            if self._tls is not None:
                safe = self._tls.wrap_socket(open_now[0], server_hostname=self._host, do_handshake_on_connect=False)
                open_now.append(safe)
                safe.do_handshake()
            kind = http.client.HTTPConnection if self._tls is None else http.client.HTTPSConnection
            wire = kind(self._host, port)
            wire.sock = open_now[-1]  # what was looked up and judged, and nothing else
            wire.request("POST", _target(self._at), raw, headers)
            answer = wire.getresponse()
            answer.read(MOST_READ_BYTES)
            if self._clock.mono() >= until:  # cut off in its headers it would look whole
                raise TimeoutError
            return answer.status
        finally:
            cut.cancel()
            for one in open_now:
                one.close()

    def _connect(self, port: int, until: float) -> socket.socket:
        found = self._lookup(self._host, port)
        allowed = [address for address in found if may_connect(address, self._local)]
        if not allowed:
            raise UpstreamFailed("its host resolves to an address that no webhook may go to", kind="dns")
        last: OSError = TimeoutError()
        for address in allowed:
            left = until - self._clock.mono()
            if left <= 0:
                break
            try:
                return socket.create_connection((address, port), timeout=left)
            except OSError as error:
                last = error
        raise last


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _target(url: SplitResult) -> str:
    path = url.path or "/"
    return f"{path}?{url.query}" if url.query else path


def _abort(open_now: list[socket.socket]) -> None:
    for one in open_now:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


# --------------------------------------------------------------------------- everything else


class Messenger:
    """A service that apprise knows. Implements outbox.Sender."""

    def __init__(self, channel: Channel) -> None:
        self.name = channel.name
        where = f"projections.alerts.channels.{channel.name}: url"
        # what it logs may name an address with its credentials; what matters of it is an error of ours
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        try:
            apprise: Any = importlib.import_module("apprise")
        except ImportError as error:
            raise ConfigError(
                f"{where}: this kind of channel needs a package: pip install 'meterbox[alerts]'"
            ) from error
        try:
            # no redirect: a channel's credentials go to its own host only
            asset = apprise.AppriseAsset(http_redirects=False, async_mode=False, app_id="Meterbox")
        except AttributeError as error:
            raise ConfigError(
                f"{where}: the installed apprise is too old: pip install -U 'meterbox[alerts]'"
            ) from error
        self._service = apprise.Apprise(asset=asset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its hundred services some import what Python will drop
            known = self._service.add(channel.url)
        if not known:
            raise ConfigError(f"{where}: apprise doesn't know this kind of address, or a part of it is missing")

    def send(self, message: Message, left_out: int) -> None:
        """See `outbox.Sender`."""
        about = webhook.said(message, left_out)
        lines = [about["summary"], *(f"{word}: {about[word]}" for word in ("stop", "look", "mute") if word in about)]
        over = message.status == "resolved"
        kind = "success" if over else _TYPES.get(message.severity, "info")
        if not self._service.notify(
            title=f"Meterbox {message.alertname}{' is over' if over else ''}",
            body="\n".join(lines),
            notify_type=kind,
            body_format="text",
        ):
            raise UpstreamFailed("the service did not take it", kind="protocol")
