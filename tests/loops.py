"""The event loops that tests run on: uvloop's, which serves; for what touches a transport also asyncio's.

Invariant: no test runs on asyncio's loop alone. What never enters: fixtures, and what a test is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

Factory = Callable[[], asyncio.AbstractEventLoop]

# Where transports of the two loops may differ, and which therefore run on both.
_EDGE = ("listener", "server", "outlet", "pool", "wire", "stream", "leash")
ON_BOTH = frozenset({"tests.contracts.test_upstream", *(f"tests.edge.test_{name}" for name in _EDGE)})


def factories(module: str) -> dict[str, Factory]:
    """The loops for a module's tests, by the name that stands in a test's id where there are two."""
    serving: dict[str, Factory] = {"uvloop": uvloop.new_event_loop}
    return {**serving, "asyncio": asyncio.new_event_loop} if module in ON_BOTH else serving
