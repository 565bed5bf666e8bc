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
