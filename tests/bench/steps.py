"""Where each microsecond goes inside of the walk: the rooms one by one, on this thread, with nothing around them."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from gateway.app import dialects
from gateway.core import headers, outcome, stamps
from gateway.core.admit import admit
from gateway.core.identify import identify, labels_of
from gateway.core.index import Index
from gateway.core.meter import Meter
from gateway.core.outcome import Ending
from gateway.core.presets import PRESETS
from gateway.core.quote import Ask, Policy, quote
from gateway.core.route import Routes, take_apart
from gateway.core.step import Way, begin
from gateway.core.types import Call, Inbound, Reply
from gateway.edge.clock import SystemClock
from gateway.edge.pricelist import PriceList
from gateway.rules.budget import Budget, Budgets
from tests.bench.wire import ANSWER, CHUNKS, DELTA, LAST
from tests.fakes import RecordingOutlet

HEADERS = (
    ("host", "127.0.0.1"),
    ("authorization", "Bearer sk-bench"),
    ("content-type", "application/json"),
    ("accept", "application/json"),
    ("user-agent", "OpenAI/Python 2.0.0"),
    ("x-stainless-lang", "python"),
    ("x-stainless-retry-count", "0"),
)
ANSWERED = (("content-type", "application/json"), ("x-request-id", "req_1"))


def _us(work: Callable[[], object], least_s: float = 0.15) -> float:
    """Microseconds of one go, over at least so many seconds."""
    times, begun = 0, time.thread_time()
    while time.thread_time() - begun < least_s:
        for _number in range(20):
            work()
        times += 20
    return (time.thread_time() - begun) / times * 1e6


class Rooms:
    """One request's way, each room callable alone."""

    def __init__(self, body: bytes) -> None:
        self.clock = SystemClock()
        self.spoken = dialects()
        self.provider = PRESETS["openai"]
        self.routes = Routes({"openai": self.provider}, self.spoken, "refuse")
        self.prices = PriceList()
        self.rule = Budgets([Budget("b", 10**13, 10**13)])
        self.index = Index()
        self.inbound = self.arrive(body)
        self.chat = next(dialect for dialect in self.spoken if dialect.name == "openai-chat")
        self.call: Call = self.chat.decode(self.inbound, self.provider)
        self.run = identify(self.inbound, self.call, self.index, self.clock.new_id)
        self.way = Way(self.inbound, self.provider, self.chat, RecordingOutlet())
        self.step = begin(self.way, self.call, self.run, (), self.clock)
        card = self.prices.card(self.provider, self.call.model, self.inbound.at)
        self.step.offer = quote(self.call, card, Policy())
        self.reply: Reply = self.chat.whole(self.call, 200, ANSWER)
        outcome.close(self.step, Ending(status=200), self.reply, self.prices, self.clock.now())

    def arrive(self, body: bytes) -> Inbound:
        """Path, headers and labels, as the server reads them."""
        target = take_apart("/v1/chat/completions", self.routes.sections)
        self.routes.choose(target, "POST", False)
        return Inbound(
            method="POST",
            section=None,
            path=target.path,
            match=target.match,
            query="",
            headers=HEADERS,
            body=body,
            labels=labels_of(HEADERS, None),
            tenant="t",
            key=None,
            at=self.clock.now(),
        )

    def known(self) -> object:
        """Identify a conversation that is known, and note the answer."""
        run = identify(self.inbound, self.call, self.index, self.clock.new_id)
        self.index.note("t", run.key, self.call, self.reply, 1.0)
        return run

    def bounded(self) -> object:
        """Price, bound and rules."""
        card = self.prices.card(self.provider, self.call.model, self.inbound.at)
        offer = quote(self.call, card, Policy())
        return admit((self.rule,), Ask(self.call, self.run, (), self.inbound.labels, offer, self.inbound.at))

    def closed(self) -> object:
        """The record made, closed and spelled for the journal; the answer's headers."""
        step = begin(self.way, self.call, self.run, (), self.clock)
        step.offer = self.step.offer
        outcome.close(step, Ending(status=200), self.reply, self.prices, 1.0)
        headers.to_client(ANSWERED)
        stamps.before(step.record, "r")
        return msgspec.msgpack.encode(step.record)

    def streamed(self) -> object:
        """A stream of many chunks, read and metered."""
        reader, meter = self.chat.reader(self.call, True), Meter(16_384)
        for _number in range(CHUNKS):
            reader.feed(DELTA)
            meter.due(reader.output_bytes)
        reader.feed(LAST)
        return reader.reply()


def steps(small: bytes, large: bytes) -> list[tuple[str, float, float]]:
    """Name of the room, us for the small and for the large request."""
    rows = []
    rooms = [Rooms(small), Rooms(large)]
    works: list[tuple[str, Callable[[Rooms], Callable[[], object]], float]] = [
        ("accept: path, route, headers, labels", lambda room: lambda: room.arrive(room.inbound.body), 1),
        (
            "decode: the request, its messages known",
            lambda room: lambda: room.chat.decode(room.inbound, room.provider),
            1,
        ),
        ("identify: whose conversation; note the answer", lambda room: room.known, 1),
        ("admit: rate card, bound, rules", lambda room: room.bounded, 1),
        ("forward: headers to the provider", lambda room: lambda: headers.to_provider(HEADERS, False), 1),
        ("meter: the whole answer read", lambda room: lambda: room.chat.whole(room.call, 200, ANSWER), 1),
        ("meter: one streamed chunk", lambda room: room.streamed, CHUNKS),
        ("settle: record closed, spelled, stamped", lambda room: room.closed, 1),
    ]
    for name, work, per in works:
        figures = [_us(work(room)) / per for room in rooms]
        rows.append((name, figures[0], figures[1]))
    return rows
