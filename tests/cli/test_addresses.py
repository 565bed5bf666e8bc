"""Channels that nothing could be sent to are found before the start."""

from __future__ import annotations

import pytest

from gateway.cli import addresses
from gateway.cli.addresses import check_addresses
from gateway.config import load
from gateway.core.errors import ConfigError

CHANNELS = '[projections.alerts.channels.{}]\nurl = "{}"\n'


def test_what_apprise_doesnt_know_is_a_fault_of_its_line(tmp_path, meterbox):
    """File, line and key; not the address, which may hold a credential. `check` says the same."""
    file = tmp_path / "x.toml"
    known = CHANNELS.format("team", "json://localhost") + CHANNELS.format("hook", "https://h.example/x")
    file.write_text(known)
    check_addresses(load(file, {}))
    file.write_text(known + CHANNELS.format("bad", "nonsense://canary"))
    with pytest.raises(ConfigError) as caught:
        check_addresses(load(file, {}))
    said = f"{file}:6: projections.alerts.channels.bad.url: apprise doesn't know this kind of address, or a part of it"
    assert str(caught.value).startswith(said) and "canary" not in str(caught.value)
    status, out, err = meterbox("check", "--config", str(file))
    assert (2, "") == (status, out) and said in err and "canary" not in err


def test_nobody_is_asked_without_need(tmp_path, monkeypatch):
    """Webhooks alone start no process; where apprise can't be asked, that is said."""
    monkeypatch.setattr(addresses, "_ASK", "raise SystemExit('canary')")
    file = tmp_path / "x.toml"
    file.write_text(CHANNELS.format("hook", "https://h.example/x"))
    check_addresses(load(file, {}))
    file.write_text(CHANNELS.format("team", "json://localhost"))
    with pytest.raises(ConfigError, match="apprise can't be asked about the channels: pip install"):
        check_addresses(load(file, {}))
