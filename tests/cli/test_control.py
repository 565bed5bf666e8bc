"""The control plane as the command line meets it: reasons passed on, tokens kept, every wait bounded."""

import pytest

from gateway.cli.control import Control, bracketed, reachable, segment
from gateway.cli.options import VerbFailed
from gateway.config import load
from tests.cli.conftest import RUN

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def control(box, tmp_path):
    """A client of the canned control plane."""
    return Control(load(tmp_path / "meterbox.toml", {}))


def test_the_gateways_own_reason_is_passed_on_harmlessly(control):
    """An error's message reaches the user, its control characters don't."""
    with pytest.raises(VerbFailed, match=r"There is no such \\x1b\[31mrun\."):
        control.get("/api/runs/nope")


def test_lists_are_read_page_by_page(control, box):
    """All pages are asked for, up to as many items as are wanted."""
    box.answers["GET /api/runs?state=active&limit=3"] = {"items": [RUN, RUN], "next_cursor": "a b"}
    box.answers["GET /api/runs?state=active&limit=1&cursor=a+b"] = {"items": [RUN], "next_cursor": None}
    assert 3 == len(control.items("/api/runs", 3, state="active", user=None))


def test_the_admin_token_is_sent(box, tmp_path):
    """`/api` takes the admin token as a bearer."""
    text = f"[server]\nport = {box.port}\nadmin_token = '{TOKEN}'\n"
    (tmp_path / "meterbox.toml").write_text(text, encoding="utf-8")
    assert Control(load(tmp_path / "meterbox.toml", {})).answers()
    assert f"Bearer {TOKEN}" == box.asked[0][2]["authorization"]


def test_a_stranger_on_the_port_is_named(control, box):
    """Something else that answers there is no gateway."""
    box.answers["GET /readyz"] = b"<html>"
    assert not control.answers()
    with pytest.raises(VerbFailed, match="is no meterbox gateway"):
        control.get("/readyz")


def test_a_gateway_that_is_not_there_is_told(tmp_path):
    """Where, and what to do."""
    (tmp_path / "meterbox.toml").write_text("[server]\nport = 1\n", encoding="utf-8")
    with pytest.raises(
        VerbFailed, match=r"no gateway answers on http://127\.0\.0\.1:1: start one with `meterbox serve`"
    ):
        Control(load(tmp_path / "meterbox.toml", {})).get("/api/runs")


def test_names_are_spelled_for_urls():
    """Run ids are one segment; a listener on all addresses is reached on loopback."""
    assert "a%2Fb%3Ac" == segment("a/b:c")
    assert ["127.0.0.1", "::1", "box.local"] == [reachable("0.0.0.0"), reachable("::"), reachable("box.local")]
    assert ["[::1]", "localhost"] == [bracketed("::1"), bracketed("localhost")]
