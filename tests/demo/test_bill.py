"""The provider's bill: exact, rounded up once a call, apart from the gateway's own cards."""

import pytest

from gateway.demo.bill import FALLBACK, Bill, Rates, Row, rates_of


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        ("gpt-4o-mini", Rates(150_000_000, 600_000_000, 75_000_000)),
        ("claude-sonnet-4-5", Rates(3_000_000_000, 15_000_000_000, 300_000_000)),
        ("no-such-model", FALLBACK),
    ],
)
def test_rates_are_the_price_lists(model, rates):
    """Real prices, whole nano-dollars per million tokens; an unknown model still costs."""
    assert rates == rates_of(model)


def test_a_row_is_rounded_up_once():
    """ceil of the sum, not the sum of ceils (ledger.md section 2)."""
    row = Row("", "", "", False, Rates(150_000_000, 600_000_000, 75_000_000), input_tokens=0)
    assert 0 == row.nusd
    row.rates = Rates(1, 1, 1)
    row.input_tokens, row.output_tokens = 1, 1
    assert 1 == row.nusd


def test_payers_are_told_apart():
    """Each credential has its own sum; all of them make the whole bill."""
    bill = Bill()
    for tag in ("a", "b", "a"):
        bill.open(tag, "/", "gpt-4o-mini", False).output_tokens = 1_000
    assert (1_200_000, 600_000, 1_800_000) == (bill.nusd("a"), bill.nusd("b"), bill.nusd())
    assert (2, 3) == (bill.calls("a"), bill.calls())


def test_names_that_clients_send_are_not_remembered_for_ever():
    """The memory of rates has a limit."""
    bill = Bill()
    for number in range(1_001):
        bill.open("", "/", f"no-such-model-{number}", False)
    assert 1_000 >= len(bill._rates)
