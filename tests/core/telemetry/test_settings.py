"""What projections are told: handed over whole, and silent about credentials."""

import msgspec
import pytest

from gateway.core.telemetry.settings import AlertRules, Channel, Destination, MetricRules, Telling, Watched

CANARY = "whsec_Y2FuYXJ5LW5ldmVyLXNob3du"
DESTINATION = Destination("lab", "https://otel.example/otel", headers={"x-api-key": CANARY})
TELLING = Telling(
    ledger="ledger.sqlite3",
    destinations=(DESTINATION,),
    metrics=MetricRules("1.2.3"),
    alerts=AlertRules(channels=(Channel("pager", f"https://user:{CANARY}@pager.example/x", CANARY, CANARY),)),
    budgets=(Watched("each-run", "run", "nusd", 10),),
)


@pytest.mark.parametrize("shown", [repr, str, "{}".format])
def test_a_credential_never_shows(shown):
    """Header values, secrets and the URLs of channels don't show when a setting is printed, however deep it lies."""
    assert CANARY not in shown(TELLING) and CANARY not in shown(DESTINATION)
    assert "Destination('lab', 'https://otel.example/otel', headers of ['x-api-key'])" == shown(DESTINATION)


def test_it_is_handed_over_whole():
    """What one process writes, the other one reads: all of it, credentials too."""
    assert TELLING == msgspec.json.decode(msgspec.json.encode(TELLING), type=Telling)


def test_the_usual_paths_are_added():
    """An origin gets the paths of the protocol; an address that was given as it is stays as it is."""
    assert ("https://otel.example/otel/v1/traces", "https://otel.example/otel/v1/logs") == (
        DESTINATION.traces_url,
        DESTINATION.logs_url,
    )
    exact = Destination("env", "", traces_at="https://otel.example/t", logs_at="https://otel.example/l")
    assert ("https://otel.example/t", "https://otel.example/l") == (exact.traces_url, exact.logs_url)


def test_names_are_those_of_the_notebooks():
    """Each projection is named after its file; what isn't configured isn't named."""
    assert ("metrics", "alerts", "otlp-lab") == TELLING.names
    assert () == Telling("x").names
    assert [True, False] == [Channel("a", url).webhook for url in ("https://h/x", "slack://token")]
