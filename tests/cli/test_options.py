"""What every verb shares: flags over file, talk and data apart."""

import json
from pathlib import Path

import click
import pytest

from gateway.cli.options import VerbFailed, say, settings_of, show_json


def test_flags_that_were_not_given_change_nothing(tmp_path, monkeypatch):
    """None is no flag; a given one wins over the file."""
    monkeypatch.chdir(tmp_path)
    Path("meterbox.toml").write_text("[server]\nport = 9001\n")
    assert 9001 == settings_of(None, {("server", "port"): None}).server.port
    assert 9002 == settings_of(None, {("server", "port"): 9002}).server.port


def test_talk_goes_to_stderr_and_data_to_stdout(capsys):
    """`--json | jq` must see nothing but data, control characters escaped."""
    say("hello")
    show_json({"a": "\x1b"})
    out, err = capsys.readouterr()
    assert ("meterbox: hello\n", {"a": "\x1b"}) == (err, json.loads(out))
    assert "\x1b" not in out


def test_a_failure_is_one_line(capsys):
    """Exit status 1, no usage text."""
    failed = VerbFailed("it is so")
    assert 1 == failed.exit_code and isinstance(failed, click.ClickException)
    failed.show()
    assert "meterbox: it is so\n" == capsys.readouterr().err


@pytest.mark.parametrize("name", ["METERBOX_SERVER__PORT"])
def test_the_environment_is_read(name, tmp_path, monkeypatch):
    """METERBOX_* over the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "9003")
    assert 9003 == settings_of(None).server.port
