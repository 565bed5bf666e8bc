"""`prices`: the cards that calls are metered by."""

import json


def test_one_models_price_is_shown(tmp_path, monkeypatch, meterbox):
    """Dollars per million tokens, as the gateway would meter them."""
    monkeypatch.chdir(tmp_path)
    out = meterbox("prices", "gpt-4o-mini")[1]
    assert ["openai", "gpt-4o-mini", "0.15", "0.6", "0.075"] == out.split("\n")[1].split()[:5]
    items = json.loads(meterbox("prices", "--json", "--provider", "anthropic")[1])["items"]
    assert {"anthropic"} == {item["provider"] for item in items}
    assert 10 < len(items)


def test_an_override_wins(tmp_path, monkeypatch, meterbox):
    """[[prices.overrides]] is what is shown, and said to be one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meterbox.toml").write_text("[[prices.overrides]]\nmodel = 'gpt-4o-mini'\ninput = 7\noutput = 9\n")
    row = meterbox("prices", "gpt-4o-mini", "--provider", "openai")[1].split("\n")[1].split()
    assert ["openai", "gpt-4o-mini", "7", "9"] == row[:4]
    assert "override" == row[-1]


def test_an_unknown_model_is_said_with_what_to_do(tmp_path, monkeypatch, meterbox):
    """Exit status 1; never a price of zero."""
    monkeypatch.chdir(tmp_path)
    status, out, err = meterbox("prices", "no-such-model-x")
    assert (1, "") == (status, out)
    assert "[[prices.overrides]]" in err
    assert (
        "no provider section is called nope: there are openai, anthropic" in meterbox("prices", "--provider", "nope")[2]
    )
