"""`check`: shows what would be in force, without a secret, or says what is wrong."""

import json

CONFIG = """
[server]
port = 9123
[providers.local]
base_url = "http://localhost:11434"
dialects = ["openai-chat"]
[providers.openai]
api_key = "sk-canary-123456"
[[budgets]]
name = "small"
scope = "run"
usd = "0.50"
max_usd = 2000
"""


def test_what_would_be_in_force_is_shown(tmp_path, meterbox):
    """Listeners, providers, where keys come from, budgets, unknown prices, the ledger's place; never a secret."""
    file = tmp_path / "x.toml"
    file.write_text(CONFIG, encoding="utf-8")
    status, out, _ = meterbox("check", "--config", str(file))
    assert 0 == status
    assert "http://127.0.0.1:9123" in out and "ledger.sqlite3" in out and "unknown price  refuse" in out
    assert ["local", "http://localhost:11434", "the", "client's", "own", "openai-chat"] in [
        line.split() for line in out.split("\n")
    ]
    assert ["small", "run", "$0.50", "$2,000.00", "strict"] in [line.split() for line in out.split("\n")]
    assert "canary" not in out
    told = json.loads(meterbox("check", "--config", str(file), "--json")[1])
    assert [("local", True), ("openai", False), ("anthropic", False)] == [
        (one["name"], "openai-chat" in one["default_for"]) for one in told["providers"]
    ]
    assert "configured" == told["providers"][1]["key"]
    assert not (tmp_path / "meterbox").exists()


def test_a_fault_is_exit_status_two_with_file_and_line(tmp_path, meterbox):
    """The error says what, where and what to do, on stderr."""
    file = tmp_path / "x.toml"
    file.write_text("[server]\nprot = 1\n", encoding="utf-8")
    assert (2, "", f"meterbox: {file}:2: server.prot: unknown key. Did you mean `port`?\n") == meterbox(
        "check", "--config", str(file)
    )


def test_warnings_are_talk(tmp_path, meterbox):
    """What is allowed but odd goes to stderr."""
    file = tmp_path / "x.toml"
    file.write_text("[[budgets]]\nname='x'\nscope='run'\nusd=5000\n", encoding="utf-8")
    status, out, err = meterbox("check", "--config", str(file))
    assert 0 == status
    assert "warning: budget x: $5,000 for a single run is a lot" in err and "a lot" not in out


def test_budgets_are_shown_with_window_and_what_follows(tmp_path, meterbox):
    """Every unit of every budget: whose, how much, in which window, and what a call gets that no longer fits."""
    file = tmp_path / "x.toml"
    file.write_text(
        "[[budgets]]\nname='team'\nscope='agent:*'\nper='day'\nzone='Europe/Berlin'\nusd=5\ncalls=40\n"
        "on_exceed='last_call'\n[[budgets]]\nname='all'\nscope='global'\nper='month'\ntokens=1_000_000\n",
        encoding="utf-8",
    )
    status, out, _ = meterbox("check", "--config", str(file))
    assert 0 == status
    rows = [" ".join(line.split()) for line in out.split("\n")]
    assert "default run $10.00 - strict" in rows
    assert "team agent:* per day (Europe/Berlin) $5.00 - strict, last call" in rows
    assert "team agent:* per day (Europe/Berlin) 40 calls - strict, last call" in rows
    assert "all global per month 1,000,000 tokens - strict" in rows
    told = json.loads(meterbox("check", "--config", str(file), "--json")[1])["budgets"]
    assert [("run", None, "usd", "10.000000000"), ("day", "Europe/Berlin", "usd", "5.000000000")] == [
        (one["per"], one["zone"], one["unit"], one["limit"]) for one in told[:2]
    ]
    assert (["0.5", "0.8", "1.0"], 1.0, 40) == (told[2]["alert_at"], told[2]["share"], told[2]["limit"])


def test_a_cheaper_model_without_a_price_is_a_fault(tmp_path, meterbox):
    """What a budget degrades to is looked up in the price list."""
    file = tmp_path / "x.toml"
    text = "[[budgets]]\nname='x'\nscope='run'\nusd=5\non_exceed='degrade'\ndegrade_to='gpt-4o-mini'\n"
    file.write_text(text, encoding="utf-8")
    assert 0 == meterbox("check", "--config", str(file))[0]
    file.write_text(text.replace("gpt-4o-mini", "no-such-model"), encoding="utf-8")
    status, _, err = meterbox("check", "--config", str(file))
    assert 2 == status and f"{file}:6: budgets[0].degrade_to: no configured provider has a price" in err


def test_who_is_told_is_shown_without_a_credential(tmp_path, meterbox):
    """Destinations by their endpoint, channels by their kind: an address of apprise is a credential itself."""
    file = tmp_path / "x.toml"
    file.write_text(
        '[projections.otlp.destinations.lab]\nendpoint = "https://otel.example/otel"\npreset = "langfuse"\n'
        'headers = { Authorization = "Basic canary" }\n[projections.alerts.channels.team]\nurl = "slack://canary/a/b"\n'
        '[projections.alerts.channels.hook]\nurl = "https://h.example/canary"\n',
        encoding="utf-8",
    )
    status, out, err = meterbox("check", "--config", str(file))
    rows = [line.split() for line in out.split("\n")]
    assert 0 == status and "canary" not in out + err
    assert ["otlp-lab", "https://otel.example/otel", "langfuse"] in rows and ["alerts", "team", "slack"] in rows
    told = json.loads(meterbox("check", "--config", str(file), "--json")[1])["projections"]
    assert ["otlp-lab", "metrics", "alerts", "alerts", "alerts"] == [one["name"] for one in told]
    assert {"name": "alerts", "to": "hook", "as": "webhook"} == told[-1]
    file.write_text("[projections]\nmetrics.enabled = false\nalerts.enabled = false\n", encoding="utf-8")
    assert "nothing is told" in meterbox("check", "--config", str(file))[1]
