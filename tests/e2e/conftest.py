"""What the end-to-end tests of the money stand on: a provider on the wire that keeps its own bill."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.demo.provider import ScriptedProvider


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """A provider that bills exactly."""
    started = ScriptedProvider()
    await started.start()
    yield started
    await started.stop()
