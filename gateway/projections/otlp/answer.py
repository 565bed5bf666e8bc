"""What a destination answered, in three words: taken, never (this can't succeed), or later (`UpstreamFailed`).

Invariant: nothing is called taken that the destination did not accept; a batch is refused for good only by the statuses
that speak of its content (400, 413), since any other may be healed by an operator or by time. What never enters:
headers and bodies in error texts; they may hold credentials.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Final

from msgspec import Struct

from gateway.core.errors import UpstreamFailed

FOR_GOOD: Final = frozenset({400, 413})
LONGEST_WAIT_S: Final = 3_600.0  # a Retry-After above is no wish, it is a mistake
MESSAGE_MOST: Final = 200

_MEANING: Final = {
    401: "the credentials are not accepted",
    403: "the credentials are not allowed to do this",
    404: "nothing is served at this path",
    405: "nothing takes a POST there",
    413: "too large",
    415: "the format is not taken",
    429: "it asks for a pause",
}


class Taken(Struct, frozen=True):
    """A batch was accepted; `rejected` of it the destination says it did not keep."""

    rejected: int = 0
    why: str = ""


class Never(Struct, frozen=True):
    """A batch that can't succeed as it is: smaller, or not at all."""

    why: str


Answer = Taken | Never


def of_status(status: int, retry_after: str | None, now: float) -> Never:
    """What a status that is no success means. Raises UpstreamFailed where the same batch may succeed later."""
    why = f"HTTP {status}"
    if status in _MEANING:
        why += f": {_MEANING[status]}"
    if status in FOR_GOOD:
        return Never(why)
    raise UpstreamFailed(why, kind="status", wait_s=wait_of(retry_after, now))


def wait_of(retry_after: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for: a number, or a date (RFC 9110 section 10.2.3)."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_WAIT_S) if isfinite(seconds) else None


def partial(rejected: int, message: str) -> Taken:
    """What a partial success says (OTLP, "Partial Success"): counted, never sent again."""
    tidy = "".join(char if char.isprintable() else " " for char in message[:MESSAGE_MOST])
    return Taken(max(0, rejected), tidy)
