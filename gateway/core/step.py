"""One call while it walks."""

from __future__ import annotations

from msgspec import Struct

from gateway.core.capture import Heard
from gateway.core.live import OpenCall
from gateway.core.ports import Clock, Dialect, Outlet
from gateway.core.quote import Quote
from gateway.core.tools import fresh
from gateway.core.types import Balance, Call, Exchange, Inbound, Provider, RunFacts


class Step(Struct):
    """What each room adds, the next one reads."""

    inbound: Inbound
    provider: Provider
    dialect: Dialect
    outlet: Outlet
    call: Call
    run: RunFacts
    ancestors: tuple[str, ...]
    record: Exchange
    open: OpenCall
    offer: Quote = Quote(card=None)
    order_id: str | None = None
    held: dict[str, int] = {}  # unit -> amount
    limit: int | None = None  # the output limit that was set
    metered: bool = False  # some limit applies: what is written past the grant is cut
    paid: int | None = None  # output per choice that the hold pays for, where it grows while the answer streams
    counted: bool = False  # the offer is by the tokenizer's count
    learns: bool = False  # some budget may hold what the run has learned
    last: str = ""  # the account whose last call this is
    model: str | None = None  # asked instead of the client's own (`on_exceed = "degrade"`)
    began: float = 0.0  # by the clock that never steps
    balances: tuple[Balance, ...] = ()
    sent: bool = False  # a byte of the request may have left
    heard: Heard | None = None  # keeps what is said, where that is captured
    settled: bool = False

    @property
    def hold_nusd(self) -> int:
        """What is held in dollars."""
        return self.held.get("nusd", 0)

    @property
    def output(self) -> int:
        """Output tokens per choice that the hold pays for."""
        return self.paid or self.limit or self.offer.output

    def warn(self, what: str) -> None:
        """Adds to `x-meterbox-warning`."""
        self.record.warning = f"{self.record.warning}; {what}" if self.record.warning else what


class Way(Struct, frozen=True):
    """Between whom: the request, the section it goes to, the format it speaks, the way back."""

    inbound: Inbound
    provider: Provider
    dialect: Dialect
    outlet: Outlet


def begin(way: Way, call: Call, run: RunFacts, ancestors: tuple[str, ...], clock: Clock) -> Step:
    """A call whose run is known; its record begins."""
    call_id = clock.new_id("call")
    record = Exchange(
        call_id=call_id,
        run=run.key,
        step=0,
        dialect=call.dialect,
        provider=way.provider.name,
        operation=call.operation,
        request_model=call.model,
        stream=call.stream,
        started_at=way.inbound.at,
        lineage=call.lineage,
        tenant=way.inbound.tenant,
        tools=call.tools,
        results=fresh(call),
        asked=call.asked,
        parent_span=way.inbound.labels.parent_span,
        trace_id=way.inbound.labels.traceparent,
    )
    opened = OpenCall(call_id, (run.key, *ancestors), run.agent, run.user)
    return Step(
        way.inbound, way.provider, way.dialect, way.outlet, call, run, ancestors, record, opened, began=clock.mono()
    )


def now(step: Step, clock: Clock) -> float:
    """This instant on the call's own scale: it began when it came in, and no step of the wall clock makes it longer or
    shorter. Epoch seconds."""
    return step.inbound.at + max(0.0, clock.mono() - step.began)
