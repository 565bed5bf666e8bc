"""One call while it walks."""

from __future__ import annotations

from msgspec import Struct

from gateway.core.live import OpenCall
from gateway.core.ports import Dialect, Outlet
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
    hold_nusd: int = 0
    limit: int | None = None  # the output limit that was set
    metered: bool = False  # some limit applies: what is written past the grant is cut
    balances: tuple[Balance, ...] = ()
    sent: bool = False  # a byte of the request may have left
    settled: bool = False


class Way(Struct, frozen=True):
    """Between whom: the request, the section it goes to, the format it speaks, the way back."""

    inbound: Inbound
    provider: Provider
    dialect: Dialect
    outlet: Outlet


def begin(way: Way, call: Call, run: RunFacts, ancestors: tuple[str, ...], call_id: str) -> Step:
    """A call whose run is known; its record begins."""
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
    )
    opened = OpenCall(call_id, (run.key, *ancestors), run.agent, run.user)
    return Step(way.inbound, way.provider, way.dialect, way.outlet, call, run, ancestors, record, opened)
