"""What `/api/alerts` takes and gives, as models (http.md section 5).

Invariant: labels and annotations are those that the channels were sent; an instant is RFC 3339 in UTC. What never
enters: a channel's address or secret, prompt text, where the values come from.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from gateway.edge.api_models import Answered, Asked, Instant


def _instant(said: object) -> float:
    """An RFC 3339 instant as epoch seconds; without an offset it is UTC. Raises ValueError."""
    if not isinstance(said, str) or "T" not in said.upper():
        raise ValueError("an instant like 2026-11-20T12:00:00Z")
    try:
        at = datetime.fromisoformat(said.upper())
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("an instant like 2026-11-20T12:00:00Z") from None


AskedInstant = Annotated[float, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]


class DeliveryItem(Answered):
    """One message on one channel. pending: tried again; failed: given up after a day; dropped: for want of room."""

    channel: str
    state: Literal["pending", "delivered", "failed", "dropped"]
    attempts: int
    last_error: str | None
    at: Instant


class AlertItem(Answered):
    """One episode of one alert."""

    alert_id: str
    state: Literal["firing", "resolved", "muted"]
    labels: dict[str, str]
    annotations: dict[str, str]
    first_at: Instant
    last_at: Instant = Field(description="When it was last seen; once it is over, when that was")
    muted_until: Instant | None
    acked_at: Instant | None
    deliveries: list[DeliveryItem] = Field(description="One for each message on each channel, the oldest first")


class AlertPage(Answered):
    """A page of alerts, the latest first."""

    items: list[AlertItem]
    next_cursor: str | None


class Mute(Asked):
    """Until when nothing is told of an alert; an instant that has passed takes a mute back."""

    until: AskedInstant


class AlertNoted(Answered):
    """Written to the journal; the process that sends alerts reads it there."""

    alert_id: str
    at: Instant


class TrialItem(Answered):
    """What became of the test message on one channel."""

    channel: str
    taken: bool
    error: str | None


class Trials(Answered):
    """One for each channel."""

    items: list[TrialItem]
