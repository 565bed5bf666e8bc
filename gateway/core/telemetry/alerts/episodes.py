"""Episodes of alerts: one message when something begins, again when its amount has doubled, one when it is over.

Invariant: at most one episode is open for a key, and its messages are at most 2 + log2(how much its amount grew); the
same sights in the same order give the same ids. What never enters: what an entry of the journal means (watch.py), how
a message is sent, a clock.

A mute holds messages back until it ends; what is still true then is told. An ack keeps the repeats back: somebody has
it; the end is told all the same. What began before the first start is known, and not told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from msgspec import Struct, field

MOST_OPEN: Final = 500  # of one alertname; those beyond are one episode that counts them
MOST_MODELS: Final = 50  # of price_unknown: anybody can ask for any name (telemetry contract, 6.3)
MOST_KEPT: Final = 2_000  # that are over, for whoever looks back
KEPT_S: Final = 30 * 86_400.0
MOST_DELIVERIES: Final = 64  # of one episode that are listed
FLOOR: Final = 100  # a count doubles from here on: 1, 2, 4, 8 calls are no news each
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"

# (calm, rest) in seconds. calm: something went well since, and nothing bad for so long. rest: nobody asked for so long.
# Both are there so that what goes up and down is one episode. None: only its own signal ends it.
ENDS: Final[dict[str, tuple[float, float] | None]] = {
    "budget_threshold": None,
    "burn_rate": None,
    "telemetry_backlog": None,
    "run_stopped": (300.0, 3_600.0),
    "provider_down": (60.0, 3_600.0),
    "price_unknown": (0.0, 86_400.0),
}
_BEYOND: Final = (300.0, 3_600.0)


class Seen(Struct, frozen=True):
    """Something that is an alert: it opens the episode of its key, or the open one grows.

    amount: what a repeat waits for the double of; floor: it counts as at least so much then.
    """

    alertname: str
    about: str  # what tells episodes of one alertname apart: a run key, an account and threshold, ...
    severity: str
    at: float
    labels: dict[str, str] = {}
    facts: dict[str, Any] = {}
    amount: int = 0
    floor: int = 1

    @property
    def key(self) -> str:
        """At most one open episode has it."""
        return f"{self.alertname}/{self.about}"


class Delivery(Struct):
    """One message on one channel. state: pending | delivered | failed (given up) | dropped (for want of room)."""

    message_id: str
    channel: str
    state: str
    at: float
    attempts: int = 0
    last_error: str = ""


class Episode(Struct):
    """One alert from its beginning to its end. labels: all but alertname and severity."""

    alert_id: str
    key: str
    alertname: str
    severity: str
    labels: dict[str, str]
    facts: dict[str, Any]
    first_at: float
    last_at: float  # the latest sight
    amount: int = 0
    told: int = 0  # the amount of which the next repeat is the double
    sights: int = 1
    messages: int = 0
    good_at: float | None = None  # something went well, after the latest sight
    over_at: float | None = None
    why: str = ""  # why it is over
    owes_end: bool = False  # was over while it was muted
    muted_until: float = 0.0
    acked_at: float | None = None
    hushed: bool = False  # a higher threshold speaks for it
    quiet: bool = False  # it began in history: what it grew to until it is looked at first is history too
    deliveries: list[Delivery] = field(default_factory=list)

    def state(self, now: float) -> Literal["firing", "resolved", "muted"]:
        """As http.md section 5 has it."""
        if self.over_at is not None:
            return "resolved"
        return "muted" if self.muted_until > now else "firing"


class Message(Struct, frozen=True):
    """What is told: the episode as it was at that moment. The same message always has the same id."""

    message_id: str
    alert_id: str
    alertname: str
    severity: str
    labels: dict[str, str]
    annotations: dict[str, str]
    status: Literal["firing", "resolved"]
    starts_at: float
    ends_at: float | None
    made_at: float


class Episodes:
    """All episodes that are open, and those that were lately. worded: the annotations of one as it is (texts.py)."""

    def __init__(self, worded: Callable[[Episode], dict[str, str]], known: Iterable[Episode] = ()) -> None:
        self._worded = worded
        self.by_id: dict[str, Episode] = {one.alert_id: one for one in sorted(known, key=lambda one: one.first_at)}
        self.open: dict[str, Episode] = {one.key: one for one in self.by_id.values() if one.over_at is None}
        self._many: dict[str, int] = {}
        for one in self.open.values():
            self._many[one.alertname] = self._many.get(one.alertname, 0) + 1
        self.dirty: dict[str, Episode | None] = {}  # changed since `take`; None: forgotten
        self.to_tell: list[Message] = []

    # ----------------------------------------------------------------------- what is seen

    def see(self, seen: Seen, quiet: bool = False) -> Episode:
        """Opens the episode of this key, or lets the open one grow. quiet: known, not told."""
        found = self.open.get(seen.key)
        most = MOST_MODELS if seen.alertname == "price_unknown" else MOST_OPEN
        if found is None and self._many.get(seen.alertname, 0) >= most:
            seen = _beyond(seen, self.open.get(f"{seen.alertname}/"))
            found = self.open.get(seen.key)
        if found is None:
            return self._begin(seen, quiet)
        found.last_at = max(found.last_at, seen.at)
        found.good_at = None
        found.sights += 1
        found.facts = {**found.facts, **seen.facts}
        found.amount = max(found.amount, seen.amount)
        self._touch(found)
        self._repeat(found, seen.at, quiet)
        return found

    def good(self, key: str, at: float) -> None:
        """Something went well that speaks against this episode; `sweep` ends it once it was calm for long enough."""
        found = self.open.get(key)
        if found is not None and found.good_at is None and at >= found.last_at:
            found.good_at = at
            self._touch(found)

    def end(self, key: str, at: float, why: str, quiet: bool = False) -> None:
        """It is over."""
        found = self.open.pop(key, None)
        if found is None:
            return
        self._many[found.alertname] -= 1
        found.over_at, found.why = max(at, found.first_at), why
        if found.messages and not quiet:
            if found.muted_until > at:
                found.owes_end = True
            else:
                self._tell(found, at)
        self._touch(found)

    # ----------------------------------------------------------------------- what people and time do

    def mute(self, alert_id: str, until: float) -> None:
        """Nothing is told of it until then; an instant that has passed takes a mute back."""
        if (found := self.by_id.get(alert_id)) is not None:
            found.muted_until = until
            self._touch(found)

    def ack(self, alert_id: str, at: float) -> None:
        """Somebody has it: no repeats."""
        if (found := self.by_id.get(alert_id)) is not None and found.acked_at is None:
            found.acked_at = at
            self._touch(found)

    def sweep(self, now: float) -> None:
        """What time asks for: ends, what a mute held back, what is old enough to be forgotten."""
        for found in list(self.open.values()):
            why = _over(found, now)
            if why is not None:
                self.end(found.key, now, why)
            else:
                self._repeat(found, now, False)
        for found in self.by_id.values():
            if found.owes_end and found.muted_until <= now:
                found.owes_end = False
                self._tell(found, now)
                self._touch(found)
        self._forget(now)

    def next_at(self, now: float) -> float | None:
        """When `sweep` has something to do next because of a mute; None: nothing that can be told now."""
        waiting = [one.muted_until for one in self.by_id.values() if one.muted_until > now]
        return min(waiting, default=None)

    def take(self) -> tuple[dict[str, Episode | None], list[Message]]:
        """What changed, and what is to be told, since the last time."""
        changed, to_tell = self.dirty, self.to_tell
        self.dirty, self.to_tell = {}, []
        return changed, to_tell

    # ----------------------------------------------------------------------- inside

    def _begin(self, seen: Seen, quiet: bool) -> Episode:
        made = Episode(
            self._new_id(seen),
            seen.key,
            seen.alertname,
            seen.severity,
            dict(seen.labels),
            dict(seen.facts),
            seen.at,
            seen.at,
            seen.amount,
            max(seen.amount, seen.floor),
        )
        self.by_id[made.alert_id] = self.open[made.key] = made
        self._many[made.alertname] = self._many.get(made.alertname, 0) + 1
        self._touch(made)
        made.quiet = quiet
        if not quiet:
            self._tell(made, seen.at)
        return made

    def _repeat(self, found: Episode, at: float, quiet: bool) -> None:
        if quiet:
            found.told = max(found.told, found.amount)
        if found.amount < 2 * found.told or found.muted_until > at or found.hushed or found.acked_at is not None:
            return
        found.told = found.amount
        self._tell(found, at)
        self._touch(found)

    def _tell(self, found: Episode, at: float) -> None:
        found.messages += 1
        over = found.over_at is not None
        self.to_tell.append(
            Message(
                message_id=f"msg_{found.alert_id.removeprefix('al_')}_{found.messages}",
                alert_id=found.alert_id,
                alertname=found.alertname,
                severity=found.severity,
                labels=dict(found.labels),
                annotations=self._worded(found),
                status="resolved" if over else "firing",
                starts_at=found.first_at,
                ends_at=found.over_at,
                made_at=at,
            )
        )

    def _touch(self, found: Episode) -> None:
        self.dirty[found.alert_id] = found

    def touched(self, alert_id: str) -> Episode | None:
        """An episode whose deliveries are about to change."""
        if (found := self.by_id.get(alert_id)) is not None:
            self._touch(found)
        return found

    def _forget(self, now: float) -> None:
        over = [one for one in self.by_id.values() if one.over_at is not None and not one.owes_end]
        excess = len(over) - MOST_KEPT
        over.sort(key=lambda one: one.over_at or 0.0)
        for place, one in enumerate(over):
            if place < excess or now - (one.over_at or 0.0) > KEPT_S:
                del self.by_id[one.alert_id]
                self.dirty[one.alert_id] = None

    def _new_id(self, seen: Seen) -> str:
        """Short enough to be typed; the same for the same sight, whenever it is read."""
        stamp = int(seen.at * 1000)
        front = "".join(_LETTERS[stamp >> shift & 31] for shift in range(40, -1, -5))
        turn = 0
        while True:
            digest = hashlib.blake2b(f"{seen.key}#{turn}".encode("utf-8", "replace"), digest_size=4).digest()
            back = int.from_bytes(digest, "big")
            made = f"al_{front}{''.join(_LETTERS[back >> shift & 31] for shift in range(20, -1, -5))}"
            if made not in self.by_id:
                return made
            turn += 1


def _beyond(seen: Seen, so_far: Episode | None) -> Seen:
    """One of more than MOST_OPEN: it is counted, not told by itself."""
    many = 1 if so_far is None else so_far.sights + 1
    return Seen(seen.alertname, "", seen.severity, seen.at, {}, {"beyond": many}, many, FLOOR)


def _over(found: Episode, now: float) -> str | None:
    ends = _BEYOND if found.key == f"{found.alertname}/" else ENDS[found.alertname]
    if ends is None:
        return None
    calm_s, rest_s = ends
    if found.good_at is not None and now - found.last_at >= calm_s:
        return "well"
    return "rest" if now - found.last_at >= rest_s else None
