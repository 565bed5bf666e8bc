"""The four exceptions of the house, each with the HTTP status to answer with.

Invariant: a refusal is a value (`types.Refusal`), never an exception; these say that something is broken.
Foreign exceptions are translated into these where they enter (edge/, stores/) and chained with `from`.
"""

from __future__ import annotations


class MeterboxError(Exception):
    """Something is broken."""

    status = 500

    def __init__(self, why: str = "") -> None:
        super().__init__(why or (self.__doc__ or "").strip())


class ConfigError(MeterboxError):
    """The configuration can't be used."""


class Undecodable(MeterboxError):
    """The request can't be understood."""

    status = 400

    def __init__(self, why: str = "", *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(why)
        self.status = status
        self.code = code


class UpstreamFailed(MeterboxError):
    """The provider could not be reached or broke off.

    `sent` is False only when no byte of the request can have left: then nothing can have been billed.
    `kind`: connect, dns, tls, timeout, reset, protocol, closed (we closed it ourselves), status (it answered so).
    `wait_s`: how long it asks to be left alone (Retry-After); None: it didn't say.
    """

    status = 502

    def __init__(self, why: str = "", *, kind: str = "reset", sent: bool = True, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.kind = kind
        self.sent = sent
        self.wait_s = wait_s
        if kind == "timeout":
            self.status = 504


class StoreFailed(MeterboxError):
    """The ledger can't be written; nothing is served unmetered."""

    status = 503
