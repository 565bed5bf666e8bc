"""Configuration: exact amounts, strict keys, and errors that say where and what to do."""

from pathlib import Path

import pytest

from gateway.config import Settings, load
from gateway.core.errors import ConfigError
from gateway.core.secret import Secret
from gateway.core.types import NUSD

RUN = '[[budgets]]\nname = "a run"\nscope = "run"\n'.replace("a run", "a-run")
TOKEN = "0123456789abcdef0123456789abcdef"


def write(folder: Path, text: str) -> Path:
    """A configuration in a file of its own."""
    file = folder / "meterbox.toml"
    file.write_text(text, encoding="utf-8")
    return file


def fault(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: object) -> str:
    """The text of the error that this configuration gives, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environ or {}, {("server", key): value for key, value in flags.items()})
    return str(caught.value).replace(f"{folder}/", "")


# --------------------------------------------------------------------------- without a file


def test_no_file_at_all_works(tmp_path, monkeypatch):
    """Without a file: OpenAI and Anthropic, the client's own keys, $10 a run (design.md section 5)."""
    monkeypatch.chdir(tmp_path)
    settings = load(None, {"HOME": str(tmp_path)})
    assert ["openai", "anthropic"] == list(settings.providers())
    assert not any(provider.has_key for provider in settings.providers().values())
    assert [("default", 10 * NUSD, 10 * NUSD)] == [(b.name, b.limit, b.most) for b in settings.budget_rules()]
    assert ("127.0.0.1", 8787, False, None) == (
        settings.server.host,
        settings.server.port,
        settings.keys_required,
        settings.admin_listener(),
    )
    assert settings.file is None and settings.warnings() == []


def test_the_file_in_the_working_folder_is_found(tmp_path, monkeypatch):
    """./meterbox.toml is read without being named."""
    monkeypatch.chdir(write(tmp_path, "[server]\nport = 9001\n").parent)
    assert 9001 == load(None, {}).server.port


def test_a_file_that_was_named_must_exist(tmp_path):
    """A wrong --config is an error, not the defaults."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: can't be read .*--config"):
        load(tmp_path / "nowhere.toml", {})


# --------------------------------------------------------------------------- order and substitution


def test_flags_win_over_environment_over_file(tmp_path):
    """Flags > METERBOX_* > file, key by key."""
    file = write(tmp_path, '[server]\nhost = "localhost"\nport = 9001\nmax_body_mb = 1\n')
    environ = {"METERBOX_SERVER__PORT": "9002", "METERBOX_SERVER__MAX_BODY_MB": "2"}
    server = load(file, environ, {("server", "port"): 9003}).server
    assert ("localhost", 9003, 2) == (server.host, server.port, server.max_body_mb)


def test_environment_values_take_the_type_of_their_key(tmp_path):
    """A text stays a text even where it looks like a number; the rest is read like TOML."""
    environ = {
        "METERBOX_SERVER__HOST": "127.0.0.1",
        "METERBOX_SERVER__BEHIND_TLS": "true",
        "METERBOX_RUNS__IDLE_S": "12.5",
        "METERBOX_PROVIDERS__OPENAI__API_KEY": "1234567890",
        "METERBOX_STORES__SQLITE__PATH": "42",
        "METERBOX_PROVIDERS__OPENAI__DIALECTS": '["openai-chat"]',
    }
    settings = load(write(tmp_path, ""), environ)
    assert (True, 12.5) == (settings.server.behind_tls, settings.runs.idle_s)
    assert {"openai": Secret("1234567890")} == settings.secrets()
    assert tmp_path / "42" == settings.ledger_path
    assert ("openai-chat",) == settings.providers()["openai"].dialects


def test_a_variable_without_two_underscores_is_left_alone(tmp_path):
    """METERBOX_ADMIN_TOKEN is only for `${...}`."""
    file = write(tmp_path, '[server]\nadmin_token = "${METERBOX_ADMIN_TOKEN}"\n')
    assert Secret(TOKEN) == load(file, {"METERBOX_ADMIN_TOKEN": TOKEN}).server.admin_token
    assert load(write(tmp_path, ""), {"METERBOX_ADMIN_TOKEN": TOKEN}).server.admin_token is None


@pytest.mark.parametrize(("environ", "state"), [({}, "not set"), ({"OPENAI_KEY": ""}, "empty")])
def test_a_missing_variable_is_named(tmp_path, environ, state):
    """`${NAME}` without a value stops the start and says which variable, where."""
    said = fault(tmp_path, '[providers.openai]\napi_key = "${OPENAI_KEY}"\n', environ)
    assert said.startswith(f"meterbox.toml:2: providers.openai.api_key: the environment variable OPENAI_KEY is {state}")


def test_an_error_in_the_environment_names_the_variable(tmp_path):
    """What came from a variable is an error of that variable, not of the file."""
    said = fault(tmp_path, "[server]\nport = 1\n", {"METERBOX_SERVER__PORT": "many"})
    assert said.startswith("environment METERBOX_SERVER__PORT: server.port: should be a valid integer")
    said = fault(tmp_path, "", {"METERBOX_SERVER__PROT": "1"})
    assert "environment METERBOX_SERVER__PROT: server.prot: unknown key. Did you mean `port`?" == said
    said = fault(tmp_path, RUN + "usd = 1\n", {"METERBOX_BUDGETS__USD": "1"})
    assert "environment METERBOX_BUDGETS__USD: `budgets.usd` can only be written in the file" == said


def test_an_error_in_a_flag_names_the_flag(tmp_path):
    """What came from the command line is an error of that option."""
    assert fault(tmp_path, "", port=70_000).startswith("--port: server.port: should be less than or equal to 65535")


# --------------------------------------------------------------------------- strict keys


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n[server]\nprot = 1\n", "meterbox.toml:3: server.prot: unknown key. Did you mean `port`?"),
        ("[sever]\n", "meterbox.toml:1: sever: unknown key. Did you mean `server`?"),
        (RUN + "usd = 1\nclmp = true\n", "meterbox.toml:5: budgets[0].clmp: unknown key. Did you mean `clamp`?"),
        (
            RUN + "usd = 1\n" + RUN.replace("a-run", "b") + "usd = 2\nshar = 1\n",
            "meterbox.toml:9: budgets[1].shar: unknown key. Did you mean `share`?",
        ),
        (
            "[providers.openai]\ntimeouts = { conect_s = 5 }\n",
            "meterbox.toml:2: providers.openai.timeouts.conect_s: unknown key. Did you mean `connect_s`?",
        ),
        (
            "[providers.openai]\nzzz = 1\n",
            "meterbox.toml:2: providers.openai.zzz: unknown key. Known here: preset, base_",
        ),
        ('["server"]\n"port" = "x"\n', "meterbox.toml:2: server.port: should be a valid integer"),
        ("server.port = true\n", "meterbox.toml:1: server.port: should be a valid integer"),
        ("server = 5\n", "meterbox.toml:1: server: should be a table"),
        ("providers = 5\n", "meterbox.toml:1: providers: should be a table"),
        ("[server]\nport = 1\nport = 2\n", "meterbox.toml:3: not TOML: Cannot overwrite a value"),
        ("[server\n", "meterbox.toml:1: not TOML: Expected"),
        ("[[keys]]\nsecret = 'abcdefgh'\n", "meterbox.toml:1: keys[0].name: is missing"),
    ],
)
def test_a_wrong_key_is_told_with_file_line_and_nearest_name(tmp_path, text, said):
    """Unknown key = error with file, line, nearest name (issue: bad input gets a clear error)."""
    assert fault(tmp_path, text).startswith(said)


def test_all_faults_are_told_at_once(tmp_path):
    """Two mistakes give two lines, each with its own place."""
    assert [2, 3] == [
        int(line.split(":")[1]) for line in fault(tmp_path, "[server]\nprot = 1\nhots = 'x'\n").splitlines()
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[rates]]\nname = 'x'\n", "rates"),
        ("[rules.breaker]\nwindow_s = 60\n", "rules"),
        ("[detectors.loop]\n", "detectors.loop"),
        ("[projections.log]\n", "projections.log"),
        ("[stores.redis]\n", "stores.redis"),
        ("[providers.openai]\nfallback = ['anthropic']\n", "providers.openai.fallback"),
        ("[providers.openai]\nretries = 2\n", "providers.openai.retries"),
        (RUN + 'usd = 1\non_exceed = "ask"\n', "budgets[0].on_exceed"),
        ("[[keys]]\nname = 'a'\nsecret = 'abcdefgh'\nscopes = ['x']\n", "keys[0].scopes"),
        ("[capture]\ncontent = 'redacted'\n", "capture.content"),
    ],
)
def test_a_limit_that_is_not_enforced_stops_the_start(tmp_path, text, word):
    """A limit that can't be enforced is a start-up error, never a warning (design.md section 5)."""
    said = fault(tmp_path, text)
    assert f" {word}: " in said
    assert said.partition("meterbox.toml:")[2][:1].isdigit()
    assert "unknown key" not in said


def test_single_brackets_are_answered_with_double_ones(tmp_path):
    """[budgets] is what most people write first."""
    said = fault(tmp_path, "[budgets]\nname = 'a'\n")
    assert said.startswith("meterbox.toml:1: budgets: is written with two brackets, one for each of them: [[budgets]]")


# --------------------------------------------------------------------------- amounts


@pytest.mark.parametrize(
    ("written", "nusd"),
    [
        ("10", 10 * NUSD),
        ("0.1", NUSD // 10),
        ('"0.30"', 3 * NUSD // 10),
        ("0.000000001", 1),
        ("1e-9", 1),
        ("900.123456789", 900_123_456_789),
        ('" 5 "', 5 * NUSD),
        ("9000000", 9_000_000 * NUSD),
    ],
)
def test_dollars_are_exact(tmp_path, written, nusd):
    """`usd` is a number or a text, read as an exact decimal, whole nano-dollars (ledger.md section 2)."""
    settings = load(write(tmp_path, f"{RUN}usd = {written}\n"), {})
    assert [nusd] == [budget.limit for budget in settings.budget_rules()]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("-1", "must be above 0"),
        ("0", "must be above 0"),
        ("nan", "no amounts"),
        ("inf", "no amounts"),
        ('"NaN"', "no amounts"),
        ("true", "number or a text"),
        ("[]", "number or a text"),
        ('"ten"', "plain number"),
        ("0.0000000001", "at most nine digits"),
        ('"1e-999999999"', "at most nine digits"),
        ('"1e999999999"', "greatest amount"),
        ('"-1e999999999"', "greatest amount"),
        ("1.00000000000000000000000000000000000000000000000000000000000000001", "at most nine digits"),
        ("9000000.01", "greatest amount"),
        ("1e400", "greatest amount"),
        ('"1e999999999999999999999"', "plain number|greatest|no amounts"),
    ],
)
def test_bad_dollars_are_refused(tmp_path, written, why):
    """Negative, zero, NaN, infinite, rounded and huge limits are refused with a reason and a line."""
    said = fault(tmp_path, f"{RUN}usd = {written}\n")
    assert said.startswith("meterbox.toml:4: budgets[0].usd: ")
    assert any(word in said for word in why.split("|"))


def test_a_budget_may_be_raised_as_far_as_max_usd(tmp_path):
    """max_usd is how far /limits may raise; without it the limit itself; below it is a mistake."""
    budgets = load(write(tmp_path, RUN + "usd = 1\nmax_usd = 2\n"), {}).budget_rules()
    assert [(NUSD, 2 * NUSD)] == [(budget.limit, budget.most) for budget in budgets]
    assert "max_usd is how far" in fault(tmp_path, RUN + "usd = 2\nmax_usd = 1\n")


def test_a_shadow_budget_only_counts(tmp_path):
    """mode = "shadow" is passed on: it never clamps or refuses (design.md section 2)."""
    assert [True] == [
        one.shadow for one in load(write(tmp_path, RUN + "usd = 1\nmode = 'shadow'\n"), {}).budget_rules()
    ]


def test_more_than_a_thousand_dollars_a_run_is_worth_a_warning(tmp_path):
    """$1,000 passes in silence, more is allowed but said."""
    assert load(write(tmp_path, RUN + "usd = 1000\n"), {}).warnings() == []
    assert ["budget a-run: $1,500 for a single run is a lot; is the unit dollars?"] == load(
        write(tmp_path, RUN + "usd = 1500\n"), {}
    ).warnings()


def test_two_budgets_may_not_share_a_name(tmp_path):
    """Budgets are identified by name."""
    assert "two are named a-run" in fault(tmp_path, RUN + "usd = 1\n" + RUN + "usd = 2\n")


def test_prices_are_nano_dollars_per_million(tmp_path):
    """Overrides are dollars per million tokens, kept as integers; zero is a price, less is not."""
    text = "[[prices.overrides]]\nmodel = 'm'\ninput = 0.0375\noutput = 0\ncache_write_1h = '1.5'\n"
    override = load(write(tmp_path, text), {}).prices.overrides[0]
    assert (37_500_000, 0, None, 1_500_000_000) == (
        override.input,
        override.output,
        override.cache_read,
        override.cache_write_1h,
    )
    assert [(None, 37_500_000, 1_500_000_000)] == [
        (one.provider, one.input, one.cache_write_1h) for one in load(write(tmp_path, text), {}).price_overrides()
    ]
    assert "must not be negative" in fault(tmp_path, text.replace("output = 0", "output = -1"))


@pytest.mark.parametrize("written", ["0", "-1", "nan", "inf", "true", "'5'", "604801"])
def test_seconds_are_finite_and_positive(tmp_path, written):
    """A timeout of nothing, never or not-a-number is refused."""
    assert fault(tmp_path, f"[runs]\nidle_s = {written}\n").startswith("meterbox.toml:2: runs.idle_s: ")


# --------------------------------------------------------------------------- providers


def test_a_section_overrides_only_what_it_names(tmp_path):
    """A preset's other values stay, and so do the built-in providers; the file's sections come first."""
    text = "[providers.groq]\n[providers.openai]\ntimeouts = { total_s = 60, gap_s = 2.5 }\nretries = 0\n"
    providers = load(write(tmp_path, text), {}).providers()
    assert ["groq", "openai", "anthropic"] == list(providers)
    openai = providers["openai"]
    assert (60.0, 2.5, 5.0, 0) == (openai.total_s, openai.gap_s, openai.connect_s, openai.retries)
    assert openai.origin == "https://api.openai.com"


def test_a_section_of_its_own_needs_address_and_dialects(tmp_path):
    """No preset, no guess: base_url and dialects must be written; the nearest preset is named."""
    said = fault(tmp_path, "[providers.openal]\n")
    assert said.startswith("meterbox.toml:1: providers.openal: ")
    assert "base_url and dialects. Did you mean `openai`?" in said
    text = "[providers.mine]\nbase_url = 'http://localhost:9'\ndialects = ['openai-chat']\n"
    mine = load(write(tmp_path, text), {}).providers()["mine"]
    assert ("http://localhost:9", ("openai-chat",), (), True) == (
        mine.origin,
        mine.dialects,
        mine.price_ids,
        mine.local,
    )
    assert "Did you mean `openai-chat`?" in fault(tmp_path, text.replace("openai-chat", "openai-caht"))
    assert "no preset is called grok" in fault(tmp_path, text + "preset = 'grok'\n")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://10.1.2.3",
        "http://ollama:11434",
        "http://mac.local",
        "http://localhost",
    ],
)
def test_plain_http_is_for_near_hosts(tmp_path, url):
    """http only for loopback, private, single-label and .local hosts, which marks the provider as local."""
    assert load(write(tmp_path, f"[providers.openai]\nbase_url = '{url}/'\n"), {}).providers()["openai"].local
    assert url == load(write(tmp_path, f"[providers.openai]\nbase_url = '{url}/'\n"), {}).providers()["openai"].origin


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.example.com", "http only for a loopback"),
        ("http://8.8.8.8", "http only for a loopback"),
        ("http://169.254.169.254", "http only for a loopback"),
        ("http://0.0.0.0", "http only for a loopback"),
        ("https://api.openai.com/v1", "without /v1"),
        ("https://api.openai.com/v1/", "without /v1"),
        ("https://user:canary@x.com", "no user, password"),
        ("https://x.com?key=canary", "no user, password"),
        ("ftp://x.com", "not an http"),
        ("api.openai.com", "not an http"),
        ("https://x.com:port", "not a URL"),
        ("https://exa mple.com", "not an http"),
    ],
)
def test_a_bad_address_is_refused(tmp_path, url, why):
    """An address that would leak a key, double a path or lead elsewhere is refused, without quoting it."""
    said = fault(tmp_path, f"[providers.openai]\nbase_url = '{url}'\n")
    assert said.startswith("meterbox.toml:2: providers.openai.base_url: ")
    assert why in said
    assert "canary" not in said


@pytest.mark.parametrize("name", ["api", "run", "key", "v1", "Upper", '"a b"', '"a/b"'])
def test_a_section_name_must_be_fit_for_a_path(tmp_path, name):
    """A section stands in front of paths, so words that mean something there are refused."""
    said = fault(tmp_path, f"[providers.{name}]\npreset = 'openai'\n")
    assert said.startswith("meterbox.toml:1: providers.")
    assert "stands in front of paths" in said


# --------------------------------------------------------------------------- keys and listeners


def test_secrets_never_show(tmp_path):
    """Neither repr nor an error shows a secret (security.md, keys)."""
    text = '[server]\nadmin_token = "${T}"\n[providers.openai]\napi_key = "sk-canary"\n'
    settings = load(write(tmp_path, text), {"T": TOKEN})
    assert "canary" not in repr(settings) and TOKEN not in repr(settings)
    assert Settings.model_validate({}) != settings
    for bad in ("api_key = 'sk canary'", "api_key = ['canary']", "api_key = 'canary-é'"):
        assert "canary" not in fault(tmp_path, f"[providers.openai]\n{bad}\n")


def test_an_open_listener_needs_an_admin_token(tmp_path):
    """Off loopback: virtual keys, own admin listener, a token of at least 32 bytes; no default exists (http.md 1)."""
    assert "0.0.0.0 is not loopback: set admin_token" in fault(tmp_path, "[server]\nhost = '0.0.0.0'\n")
    short = "[server]\nhost = '0.0.0.0'\nadmin_token = 'short'\n"
    assert "at least 32 bytes" in fault(tmp_path, short) and "'short'" not in fault(tmp_path, short)
    settings = load(write(tmp_path, f"[server]\nhost = '0.0.0.0'\nadmin_token = '{TOKEN}'\n"), {})
    assert settings.keys_required
    assert ("127.0.0.1", 8788) == settings.admin_listener()
    assert any("TLS" in line for line in settings.warnings())
    assert any("no [[keys]]" in line for line in settings.warnings())
    assert "10.0.0.1 is not loopback" in fault(tmp_path, "[server]\nadmin_host = '10.0.0.1'\n")


def test_keys_that_nobody_must_show_are_worth_a_warning(tmp_path):
    """On loopback keys aren't asked for by default: what is set for a key would bind only those who show it."""
    key = "[[keys]]\nname = 'a'\nsecret = 'abcdefgh'\n"
    (said,) = load(write(tmp_path, key), {}).warnings()
    assert "a call that shows none of these virtual keys is served too" in said
    assert [] == load(write(tmp_path, f"[server]\nauth = 'keys'\n{key}"), {}).warnings()


def test_a_virtual_key_has_a_name_and_one_text(tmp_path):
    """[[keys]]: exactly one of secret and hash, in its shape."""
    key = load(
        write(tmp_path, '[[keys]]\nname = "team"\nsecret = "${K}"\nexpires = 2030-01-01T00:00:00Z\n'),
        {"K": "mb_a.secret"},
    ).keys[0]
    assert ("team", Secret("mb_a.secret"), 512) == (key.name, key.secret, key.in_flight)
    settings = load(
        write(tmp_path, '[[keys]]\nname = "a"\nsecret = "abcdefgh"\nexpires = "1970-01-01T00:01:00Z"\n'), {}
    )
    assert [("a", 60.0)] == [(spec.name, spec.expires_at) for spec in settings.key_specs()]
    assert "exactly one of secret" in fault(tmp_path, '[[keys]]\nname = "team"\n')
    assert "hash: write the key's id" in fault(tmp_path, '[[keys]]\nname = "team"\nhash = "x"\n')
    assert "its offset" in fault(tmp_path, '[[keys]]\nname = "a"\nsecret = "abcdefgh"\nexpires = 2030-01-01\n')


# --------------------------------------------------------------------------- paths and files


def test_state_lies_in_the_users_state_folder(tmp_path):
    """$XDG_STATE_HOME/meterbox, or ~/.local/state/meterbox; a relative path is taken from the file's folder."""
    file = write(tmp_path, "")
    assert Path("/x/meterbox/ledger.sqlite3") == load(file, {"XDG_STATE_HOME": "/x"}).ledger_path
    assert Path("/h/.local/state/meterbox/pepper") == load(file, {"XDG_STATE_HOME": "rel", "HOME": "/h"}).pepper_path
    assert tmp_path / "s/l.db" == load(write(tmp_path, "[stores.sqlite]\npath = 's/l.db'\n"), {}).ledger_path


def test_a_file_that_is_not_text_is_refused(tmp_path):
    """Not UTF-8, and larger than any configuration, are said with the file's name."""
    file = tmp_path / "meterbox.toml"
    file.write_bytes(b"[server]\n# \xff\n")
    with pytest.raises(ConfigError, match=r"meterbox\.toml:2: not UTF-8"):
        load(file, {})
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        load(file, {})


def test_what_was_read_before_is_not_read_again(tmp_path):
    """`text` stands for the file, its name for the places in errors; without a file it is nothing at all."""
    file = write(tmp_path, "[server]\nworkers = 2\n")
    assert 3 == load(file, {}, text=b"[server]\nworkers = 3\n").server.workers
    with pytest.raises(ConfigError, match=r"meterbox.toml:2: server.workers: "):
        load(file, {}, text=b"[server]\nworkers = 65\n")
    assert 1 == load(None, {}, text=b"").server.workers
