"""The gateway's own answer headers (http.md section 2)."""

from __future__ import annotations

from gateway.core import headers
from gateway.core.answer import answer
from gateway.core.ports import Stream
from gateway.core.refusal import usd
from gateway.core.step import Step
from gateway.core.types import Balance, Exchange, Refusal


def before(exchange: Exchange, run_id: str) -> list[tuple[str, str]]:
    """What is known before the first byte."""
    stamps = [
        ("x-meterbox-run-id", run_id),
        ("x-meterbox-call-id", exchange.call_id),
    ]
    if exchange.step:
        stamps.append(("x-meterbox-step", str(exchange.step)))
    if exchange.clamped is not None:
        stamps.append(("x-meterbox-clamped", str(exchange.clamped)))
    if exchange.warning:
        stamps.append(("x-meterbox-warning", exchange.warning))
    return stamps


def after(exchange: Exchange, balances: tuple[Balance, ...]) -> list[tuple[str, str]]:
    """What is known once the call has settled; the run's own account comes first among the balances."""
    stamps = []
    if exchange.cost_nusd is not None:
        stamps.append(("x-meterbox-cost-usd", usd(exchange.cost_nusd)))
    if balances:
        run = balances[0]
        stamps.append(("x-meterbox-spent-usd", usd(run.spent)))
        if run.limit is not None:
            stamps.append(("x-meterbox-remaining-usd", usd(max(0, run.limit - run.spent))))
    return stamps


def heads(step: Step, stream: Stream) -> list[tuple[str, str]]:
    """An upstream answer's headers with our own."""
    return [*headers.to_client(stream.headers), *before(step.record, step.run.id)]


def spoken(step: Step, refusal: Refusal) -> tuple[int, list[tuple[str, str]], bytes]:
    """A refusal as the answer to this call."""
    status, own, body = answer(refusal, step.dialect, step.inbound.labels.client)
    own = [head for head in own if head[0] != "x-meterbox-run-id"]
    return status, [*own, *before(step.record, step.run.id)], body
