"""What `/metrics` answers: the file as it is, or why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.secret import Secret
from gateway.edge import exposed
from gateway.edge.admin import Surface
from gateway.edge.api_door import LOOPBACK, Wrong
from gateway.edge.exposed import CONTENT_TYPE, OLD_S, page
from tests.edge.test_admin import House

NOW = 1_800_000_000.0


def rendered(folder: Path, text: bytes = b"# EOF\n", at: float = NOW) -> Path:
    """A file as the metrics projection leaves it."""
    file = folder / "metrics.txt"
    file.write_bytes(text)
    os.utime(file, (at, at))
    return file


def why(file: Path | None, now: float = NOW) -> str:
    """The reason for which there is no answer."""
    with pytest.raises(Wrong) as caught:
        page(file, now)
    assert (503, "metrics_unavailable", "10") == (
        caught.value.status,
        caught.value.code,
        caught.value.headers["Retry-After"],
    )
    return str(caught.value)


def test_the_text_goes_on_as_it_is(tmp_path):
    """Byte for byte, with the type of OpenMetrics, never cached."""
    body, headers = page(rendered(tmp_path), NOW + OLD_S)
    assert (b"# EOF\n", CONTENT_TYPE, "no-store") == (body, headers["Content-Type"], headers["Cache-Control"])


def test_what_is_old_or_absent_or_endless_is_refused(tmp_path, monkeypatch):
    """A page that nobody renders any more would show a spend that stands still."""
    assert "enabled = false" in why(None)
    assert "Nothing was rendered yet" in why(tmp_path / "none.txt")
    assert "can't be read" in why(tmp_path)
    assert "is 61 s old" in why(rendered(tmp_path), NOW + OLD_S + 1)
    monkeypatch.setattr(exposed, "MOST_BYTES", 10)
    assert page(rendered(tmp_path, b"x" * 10), NOW)
    assert "more than 10 bytes" in why(rendered(tmp_path, b"x" * 11))


async def test_it_is_the_control_planes(tmp_path):
    """GET /metrics on the control plane; the projections' file is read for each request."""
    async with House(Surface(hosts=LOOPBACK, metrics=tmp_path / "metrics.txt")) as house:
        status, said = await house.ask("GET", "/metrics")
        assert (503, "metrics_unavailable") == (status, said["error"]["code"])
        rendered(tmp_path, b"meterbox_cost_usd_total 1\n# EOF\n", house.clock.now())
        async with house.client.get(f"{house.url}/metrics") as answer:
            assert (200, CONTENT_TYPE) == (answer.status, answer.headers["content-type"])
            assert b"meterbox_cost_usd_total 1\n# EOF\n" == await answer.read()


async def test_it_needs_the_operators_credentials(tmp_path):
    """It names keys, agents and what they spend: a token where there is one, and no page of another origin."""
    rendered(tmp_path)
    token = "0123456789abcdef0123456789abcdef"
    async with House(Surface(token=Secret(token), metrics=tmp_path / "metrics.txt")) as house:
        os.utime(tmp_path / "metrics.txt", (house.clock.now(), house.clock.now()))
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
            async with house.client.get(f"{house.url}/metrics", headers=headers) as answer:
                assert status == answer.status
    async with House(Surface(hosts=LOOPBACK, metrics=tmp_path / "metrics.txt")) as house:
        assert 403 == (await house.ask("GET", "/metrics", headers={"Origin": "https://elsewhere.example"}))[0]
