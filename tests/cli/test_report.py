"""Reports as OpenAI and Anthropic export them: columns in any order, sums exact, anything else refused."""

import pytest

from gateway.cli.report import ALL_MODELS, Line, UnknownReport, family, read_report, slug

OPENAI_USAGE = (
    "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,batch,"
    "service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens\n"
    "1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,p,10.0,u,k,gpt-4o-2024-08-06,FALSE,"
    "default,59200.0,10646.0,5760.0,53440.0\n"
    "1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,q,1.0,u,k,gpt-4o-2024-08-06,FALSE,"
    "default,100.0,1.0,0.0,100.0\n"
    "1759881600,1759968000,2025-10-08T00:00:00+00:00,2025-10-09T00:00:00+00:00,,,,,,,,,,,\n"
)
OPENAI_COSTS = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,quantity_unit,line_item,"
    "user_id,api_key_id,project_id,organization_id,project_name,organization_name,user_email,api_source\n"
    "1790467200,1790553600,2026-09-27T00:00:00+00:00,2026-09-28T00:00:00+00:00,,,,,,,,,,,,,\n"
    "1790553600,1790640000,2026-09-28T00:00:00,2026-09-29T00:00:00,0.003835980000000000000000000001,usd,1000,tokens,"
    '"gpt-5-nano, input",,k,p,o,P,O,e,\n'
    "1790553600,1790640000,2026-09-28T00:00:00,2026-09-29T00:00:00,0.5,usd,70,tokens,"
    '"gpt-5-nano, cached input",,k,p,o,,,,\n'
    '1790553600,1790640000,2026-09-28T00:00:00,2026-09-29T00:00:00,1,usd,9,tokens,"gpt-5-nano, output",,k,p,o,,,,\n'
)
ANTHROPIC_USAGE = (
    "\ufeffusage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count,inference_geo,speed\n"
    "2026-03-22,claude-sonnet-4-20250514,k,Default,standard,≤ 200k,100,20,3,4000,50,0,,\n"
    "2026-03-22,claude-sonnet-4-20250514,k2,Default,standard,≤ 200k,1,0,0,0,1,0,,\n"
)
ANTHROPIC_COSTS = (
    "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type,"
    "inference_geo,speed\n"
    "2026-08-04,Claude Haiku 4.5,Default,k,message,≤ 200k,input_no_cache,0.05,0.05,token,global,\n"
    "2026-08-04,Claude Haiku 4.5,Default,k,message,≤ 200k,output,0.02,0.02,token,global,\n"
    "2026-08-05,Claude Sonnet 4.5,Default,k,message,≤ 200k,input_cache_read,0.1,1.00,token,global,\n"
)


def only(text: str) -> Line:
    """The one line of a report."""
    (line,) = read_report(text).lines.values()
    return line


def test_openai_usage() -> None:
    """Input includes what was cached, floats that are whole numbers are numbers, days without usage are none."""
    line = only(OPENAI_USAGE)
    assert ("2025-10-05", "gpt-4o-2024-08-06") == (line.day, line.model)
    assert (59_300, 5_760, 10_647, 11, None) == (
        line.input_tokens, line.cached_tokens, line.output_tokens, line.requests, line.cost_nusd,
    )  # fmt: skip
    report = read_report(OPENAI_USAGE)
    assert ("openai", False) == (report.provider, report.states_cost)


def test_openai_costs() -> None:
    """Line items name model and kind; thirty digits are summed up before they are rounded, once."""
    report = read_report(OPENAI_COSTS)
    line = only(OPENAI_COSTS)
    assert ("2026-09-28", "gpt-5-nano", 1_503_835_980) == (line.day, line.model, line.cost_nusd)
    assert (1_070, 70, 9) == (line.input_tokens, line.cached_tokens, line.output_tokens)
    assert ("openai", 0) == (report.provider, report.rounding_nusd(line))


def test_openai_costs_that_are_not_grouped() -> None:
    """A day's sum over all models is one line."""
    text = "start_time_iso,amount_value,amount_currency,line_item\n2026-09-28T00:00:00+00:00,0.25,USD,\n"
    assert (ALL_MODELS, 250_000_000) == (only(text).model, only(text).cost_nusd)


def test_older_openai_names() -> None:
    """Context and generated tokens; a date is a day."""
    line = only("date,model,n_requests,n_context_tokens_total,n_generated_tokens_total\n2026-05-01,gpt-4o,4,1250,98\n")
    assert ("2026-05-01", 1250, 98, 4) == (line.day, line.input_tokens, line.output_tokens, line.requests)


def test_anthropic_usage() -> None:
    """Input is the sum of its parts, writes and reads of the cache among them; reads are stated apart."""
    line = only(ANTHROPIC_USAGE)
    assert ("2026-03-22", "claude-sonnet-4-20250514") == (line.day, line.model)
    assert (4_124, 4_000, 51) == (line.input_tokens, line.cached_tokens, line.output_tokens)
    assert "anthropic" == read_report(ANTHROPIC_USAGE).provider


def test_anthropic_costs() -> None:
    """Cents of each kind of token add up; what rounding may hide is half a cent a row."""
    report = read_report(ANTHROPIC_COSTS)
    haiku, sonnet = report.lines.values()
    assert (70_000_000, 100_000_000) == (haiku.cost_nusd, sonnet.cost_nusd)
    assert (10_000_000, 5_000_000) == (report.rounding_nusd(haiku), report.rounding_nusd(sonnet))
    assert ("anthropic", None) == (report.provider, haiku.input_tokens)


def test_order_case_and_separator_are_free() -> None:
    """What matters is which columns there are."""
    text = "Cost USD;Usage Date UTC;Output Tokens;Model\n$1,234.50;2026-09-14;20;m\n"
    assert (1_234_500_000_000, "2026-09-14", 20) == (only(text).cost_nusd, only(text).day, only(text).output_tokens)


@pytest.mark.parametrize(
    ("day", "text"),
    [
        ("2026-09-28", "1790553600"), ("2026-09-28", "1790639999.5"), ("2026-09-28", "2026-09-28T23:59:59Z"),
        ("2026-09-29", "2026-09-28T23:59:59-01:00"), ("2026-09-28", "2026-09-28"),
        ("2026-09-28", "2026-09-28 13:45:00"),
    ],
)  # fmt: skip
def test_a_day_is_a_utc_day(day: str, text: str) -> None:
    """However an instant is spelled."""
    assert day == only(f"timestamp,model,output_tokens\n{text},m,1\n").day


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Its columns are: none"),
        ("Buchungstag,Kostenstelle,Betrag\n1,2,3\n", "Its columns are: buchungstag, kostenstelle, betrag"),
        ("date,model\n2026-01-01,m\n", "tokens or a cost"),
        ("date,cost_usd\n2026-01-01,1\n", "Its columns are: date, cost_usd"),
        ("model,cost_usd\nm,1\n", "a day (usage_date_utc"),
        ("date,model,cost_usd\n", "no line with a model and an amount"),
        ("date,model,cost_usd\n2026-01-01,m,1\nyesterday,m,1\n", "line 3 can't be read"),
        ("date,model,cost_usd\n2026-01-01,m,many\n", "line 2 can't be read"),
        ("date,model,cost_usd\n2026-01-01,m,NaN\n", "line 2 can't be read"),
        ("date,model,cost_usd\n2026-01-01,m,1e999999\n", "line 2 can't be read"),
        ("date,model,amount,currency\n2026-01-01,m,1,EUR\n", "are in EUR, not in US dollars"),
        ("%PDF-1.7\nbinary", "no usage or cost export"),
        ("<html><body>Please log in</body></html>", "no usage or cost export"),
    ],
)
def test_what_is_no_report_is_refused_with_its_columns(text: str, says: str) -> None:
    """So that a person sees which file it was."""
    with pytest.raises(UnknownReport) as wrong:
        read_report(text)
    assert says in str(wrong.value)


def test_names_of_models_meet() -> None:
    """Consoles write names, ids have points, dates and another order."""
    assert "claude-haiku-4-5" == slug("Claude Haiku 4.5")
    same = [
        ("Claude Haiku 4.5", "claude-haiku-4-5-20251001"), ("Claude Sonnet 3.7", "claude-3-7-sonnet-20250219"),
        ("Claude 3.5 Sonnet 2024-10-22", "claude-3-5-sonnet-20241022"), ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-3-5-haiku-latest", "Claude Haiku 3.5"),
    ]  # fmt: skip
    for one, other in same:
        assert family(one) == family(other), one
    assert family("gpt-4o") != family("gpt-4o-mini")
