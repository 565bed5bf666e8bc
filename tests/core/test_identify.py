"""Claims about whose call it is, by what the caller says of itself."""

from __future__ import annotations

import pytest

from gateway.core.errors import Undecodable
from gateway.core.identify import Index, identify, labels_of, run_key
from gateway.core.types import Call, Inbound, Key, Labels, Lineage, Provider, Reply, ToolCall
from tests.fakes import FakeClock

PROVIDER = Provider("openai", "openai", "https://api.openai.com", ("openai-chat",))
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def inbound(labels: Labels, tenant: str = "t", key: Key | None = None, body: bytes = b"{}") -> Inbound:
    return Inbound("POST", None, "/v1/x", "/v1/x", "", (), body, labels, tenant, key, 1_800_000_000.0)


def asked(*, line: Lineage | None = None, model: str = "m") -> Call:
    return Call("openai-chat", PROVIDER, "metered", model=model, lineage=line or Lineage(first=1, chain=(11,)))


def test_the_first_source_in_the_order_wins() -> None:
    """Path, header, client header, body, traceparent, inferred (design.md section 3)."""
    everything = Labels(run_id="r", run_source="path", client_session="c", traceparent=TRACE)
    named = asked(line=Lineage(body_session="b", previous="resp_1"))
    steps = [
        (everything, named, ("r", "path")),
        (labels_of([("x-meterbox-run-id", "h")], None), named, ("h", "header")),
        (Labels(client_session="c", traceparent=TRACE), named, ("c", "client_header")),
        (Labels(traceparent=TRACE), named, ("b", "body")),
        (Labels(traceparent=TRACE), asked(), (TRACE, "traceparent")),
        (Labels(), asked(), ("run_000001", "inferred")),
    ]
    clock = FakeClock()
    for labels, call, expected in steps:
        facts = identify(inbound(labels), call, Index(), clock.new_id)
        assert expected == (facts.id, facts.source)


def test_a_run_in_the_path_wins_over_the_header() -> None:
    """Both may be given; the first in the order counts."""
    labels = labels_of([("x-meterbox-run-id", "header")], "path")
    assert ("path", "path") == (labels.run_id, labels.run_source)


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ([("x-meterbox-run-id", "a b")], None),
        ([("x-meterbox-run-id", "")], None),
        ([("x-meterbox-run-id", "x" * 129)], None),
        ([("x-meterbox-run-id", "key~run")], None),
        ([("x-meterbox-run-id", "a\n")], None),
        ([("x-meterbox-parent-run-id", "ü")], None),
        ([], "a/b"),
        ([("x-meterbox-run-id", "a"), ("x-meterbox-run-id", "a")], None),
        ([("x-meterbox-agent", "a\x00b")], None),
        ([("x-meterbox-user", "\udcff")], None),
        ([("x-meterbox-session", "x" * 257)], None),
        *(
            ([("x-meterbox-limit-usd", amount)], None)
            for amount in ("-1", "nan", "Infinity", "1e", "", "1_0", "٣", "-1e-12", "1" * 65, "0x10", "$1")
        ),
    ],
)
def test_a_control_header_without_sense_is_refused(headers: list[tuple[str, str]], path: str | None) -> None:
    """Illegal run ids, repeats, and limits that aren't a finite amount >= 0 get 400 (design.md section 3)."""
    with pytest.raises(Undecodable) as caught:
        labels_of(headers, path)
    assert 400 == caught.value.status


@pytest.mark.parametrize(
    ("amount", "nusd"),
    [
        ("1", 10**9),
        ("0.05", 50_000_000),
        ("0", 0),
        ("-0", 0),
        ("1e-3", 1_000_000),
        ("0.0000000019", 1),
        ("1e-400", 0),
        ("0.1000000005", 100_000_000),
        ("1e400", 2**63 - 1),
        (" 2.5 ", 2_500_000_000),
        ("9223372036.854775807", 2**63 - 1),
        ("0.123456789123456789123456789123456789", 123_456_789),
    ],
)
def test_a_limit_is_an_exact_decimal_rounded_down(amount: str, nusd: int) -> None:
    """A caller may only lower its limit, so the fraction of a nano-dollar is dropped."""
    assert nusd == labels_of([("x-meterbox-limit-usd", amount)], None).limit_nusd


def test_client_headers_count_in_their_listed_order() -> None:
    """Not in the order in which they were sent; an empty one says nothing."""
    headers = [("x-session-id", "late"), ("session_id", "codex"), ("helicone-session-id", " ")]
    assert "codex" == labels_of(headers, None).client_session


def test_a_session_that_is_no_legal_run_id_still_holds_together() -> None:
    """The stand-in is legal and the same each time; another session gets another."""
    one, again, other = (
        labels_of([("x-session-id", value)], None).client_session for value in ("/a b/", "/a b/", "/a c/")
    )
    assert one == again != other
    assert one is not None
    assert one == labels_of([("x-meterbox-run-id", one)], None).run_id


def test_baggage_names_the_session() -> None:
    """W3C baggage: other members, properties and percent-encoding around it."""
    value = "user.id=1, session.id=abc%2D1;secret ,x.session.id=no"
    assert "abc-1" == labels_of([("baggage", value)], None).client_session
    assert labels_of([("baggage", "xsession.id=no")], None).client_session is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "garbage",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-extra",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_an_invalid_traceparent_is_as_good_as_none(value: str) -> None:
    """W3C Trace Context section 3.2: never an error."""
    assert labels_of([("traceparent", value)], None).traceparent is None


def test_a_traceparent_gives_trace_and_parent_span() -> None:
    """A version that is yet to come may have more fields; two headers are no valid one."""
    labels = labels_of([("traceparent", PARENT)], None)
    assert (TRACE, SPAN) == (labels.traceparent, labels.parent_span)
    assert TRACE == labels_of([("traceparent", f"01-{TRACE}-{SPAN}-01-more")], None).traceparent
    assert labels_of([("traceparent", PARENT), ("traceparent", PARENT)], None).traceparent is None


def test_the_other_labels_are_read() -> None:
    """Agent, user (its alias too), session, parent, repeats and known clients."""
    labels = labels_of(
        [
            ("x-meterbox-agent", "research"),
            ("x-meterbox-session", "s"),
            ("x-meterbox-parent-run-id", "p"),
            ("helicone-user-id", "ada"),
            ("x-stainless-retry-count", "2"),
            ("user-agent", "claude-cli/2.1"),
        ],
        None,
    )
    assert ("research", "ada", "s", "p") == (labels.agent, labels.user, labels.session, labels.parent_run_id)
    assert (True, "claude-code") == (labels.retry, labels.client)
    assert "codex" == labels_of([("originator", "codex_cli_rs")], None).client
    assert not labels_of([("x-stainless-retry-count", "0")], None).retry
    assert not labels_of([("x-stainless-retry-count", "many")], None).retry


def test_plain_headers_say_nothing() -> None:
    """The common case."""
    assert Labels() == labels_of([("host", "x"), ("user-agent", "OpenAI/Python"), ("accept", "*/*")], None)


def test_each_virtual_key_has_run_ids_of_its_own() -> None:
    """The run key carries the key's name, the parent's too; what the key fixes wins over labels."""
    key = Key("team", agent="fixed")
    labels = Labels(run_id="r", run_source="header", parent_run_id="p", agent="claimed", user="ada")
    facts = identify(inbound(labels, "team", key), asked(), Index(), FakeClock().new_id)
    assert ("team~r", "r", "team", "team~p") == (facts.key, facts.id, facts.tenant, facts.parent)
    assert ("fixed", "ada") == (facts.agent, facts.user)
    assert "r" == run_key(None, "r") == run_key("", "r")


def test_an_inferred_run_of_a_key_keeps_its_id() -> None:
    """A match gives the whole run key; the id is what stands behind the key's name."""
    key, index, clock = Key("team"), Index(), FakeClock()
    first = identify(inbound(Labels(), "team", key), asked(), index, clock.new_id)
    index.note("team", first.key, asked(), Reply(links=(7,), tool_calls=[ToolCall("call_1", "t")]), 0.0)
    again = identify(inbound(Labels(), "team", key), asked(line=Lineage(ids=("call_1",))), index, clock.new_id)
    assert ("team~run_000001", "run_000001") == (first.key, first.id) == (again.key, again.id)


def test_a_response_leads_to_the_run_that_gave_it_out() -> None:
    """previous_response_id of a known answer; an unknown one makes a run that owns it from then on."""
    index, clock = Index(), FakeClock()
    first = identify(inbound(Labels()), asked(line=Lineage()), index, clock.new_id)
    index.note("t", first.key, asked(line=Lineage()), Reply(response_id="resp_1"), 0.0)
    second = identify(inbound(Labels()), asked(line=Lineage(previous="resp_1")), index, clock.new_id)
    assert (first.key, "body") == (second.key, second.source)
    strange = [identify(inbound(Labels()), asked(line=Lineage(previous="conv_9")), index, clock.new_id) for _ in "ab"]
    assert strange[0].key == strange[1].key != first.key
    assert (
        first.key != identify(inbound(Labels(), "u"), asked(line=Lineage(previous="resp_1")), index, clock.new_id).key
    )


def test_a_response_id_wins_over_a_traceparent() -> None:
    """Step 4 stands before step 5, though some programs trace each call apart."""
    index, clock = Index(), FakeClock()
    index.own("t", "resp_1", "run_a")
    facts = identify(inbound(Labels(traceparent=TRACE)), asked(line=Lineage(previous="resp_1")), index, clock.new_id)
    assert ("run_a", "body", TRACE) == (facts.key, facts.source, facts.trace_id)


def test_a_call_without_a_name_continues_a_named_run() -> None:
    """Calls of runs that were named are known to the index as well."""
    index, clock = Index(), FakeClock()
    facts = identify(inbound(Labels(run_id="mine", run_source="path")), asked(), index, clock.new_id)
    index.note("t", facts.key, asked(), Reply(links=(7,), tool_calls=[ToolCall("call_9", "t")]), 0.0)
    later = identify(inbound(Labels()), asked(line=Lineage(ids=("call_9",))), index, clock.new_id)
    assert ("mine", "inferred") == (later.key, later.source)


def test_a_repeat_of_a_failed_call_stays_in_its_run() -> None:
    """Only where the SDK says that it repeats; soon, and where one run alone had failed with this question."""
    index, clock = Index(), FakeClock()
    first = identify(inbound(Labels()), asked(), index, clock.new_id)
    index.note("t", first.key, asked(), Reply(), 1_800_000_000.0)
    other = identify(inbound(Labels()), asked(), index, clock.new_id)
    repeat = identify(inbound(Labels(retry=True)), asked(), index, clock.new_id)
    assert first.key == repeat.key != other.key
    index.note("t", first.key, asked(), Reply(), 1_800_000_000.0)
    index.note("t", other.key, asked(), Reply(), 1_800_000_000.0)
    assert identify(inbound(Labels(retry=True)), asked(), index, clock.new_id).key not in {first.key, other.key}
    late = Index()
    late.note("t", "r", asked(), Reply(), 1_800_000_000.0 - 121)
    assert "r" != identify(inbound(Labels(retry=True)), asked(), late, clock.new_id).key
