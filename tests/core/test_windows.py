"""Calendar windows: every instant lies in exactly one, the next begins where it ends, and no label comes twice."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.windows import Calendar, Per, Window

# Zones with whole, half and quarter hours; that skip or repeat midnight, set clocks by half an hour, skip a whole day.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "America/Asuncion",
    "America/St_Johns",
    "America/Scoresbysund",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Antarctica/Casey",
    "Pacific/Apia",
    "Pacific/Chatham",
)
PERS: tuple[Per, ...] = ("hour", "day", "month")
HOUR = 3600


def calendar(per: Per, zone: str) -> Calendar:
    """Windows of this length in this zone."""
    return Calendar(per, zone, UTC if zone == "UTC" else ZoneInfo(zone))


def instant(text: str) -> float:
    """An instant as ISO 8601 spells it, UTC where it says no offset."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def walk(per: Per, zone: str, since: str, until: str) -> list[Window]:
    """All windows from the one of `since` to the one of `until`, each found at the end of the one before."""
    windows = [calendar(per, zone).at(instant(since))]
    while windows[-1].ends_at <= instant(until):
        windows.append(calendar(per, zone).at(windows[-1].ends_at))
    return windows


def hours(windows: list[Window]) -> list[float]:
    """How long each one is."""
    return [(window.ends_at - window.starts_at) / HOUR for window in windows]


# --------------------------------------------------------------------------- any instant, any zone

# 1970 to 2399: the rules of a zone beyond its last listed change are extrapolated for ever
INSTANTS = st.floats(min_value=0, max_value=instant("2399-12-01"), allow_nan=False) | st.integers(0, 2**32).map(float)


@given(now=INSTANTS, zone=st.sampled_from(ZONES), per=st.sampled_from(PERS))
@example(now=instant("2009-11-01T02:31:30"), zone="America/St_Johns", per="month")
@example(now=instant("2010-11-07T02:31:30"), zone="America/St_Johns", per="day")
@example(now=instant("2026-04-04T15:10:00"), zone="Australia/Lord_Howe", per="hour")
@example(now=instant("2011-12-30T10:00:00"), zone="Pacific/Apia", per="day")
def test_an_instant_lies_in_its_window_and_windows_follow_each_other(now, zone, per):
    """Start is in, end is not; the same window at its first and last second; the next one begins at its end."""
    found = calendar(per, zone)
    window = found.at(now)
    assert window.starts_at <= now < window.ends_at
    assert window == found.at(window.starts_at) == found.at(window.ends_at - 1)
    after = found.at(window.ends_at)
    assert window.ends_at == after.starts_at
    before = found.at(window.starts_at - 1)
    assert before.ends_at == window.starts_at
    assert 3 == len({before.label, window.label, after.label})


@given(now=INSTANTS, zone=st.sampled_from(ZONES))
def test_a_month_is_made_of_whole_days(now, zone):
    """A day lies in the month that its label names."""
    day, month = calendar("day", zone).at(now), calendar("month", zone).at(now)
    assert month.starts_at <= day.starts_at < day.ends_at <= month.ends_at
    assert month.label[:7] == day.label[:7]


@pytest.mark.parametrize("zone", ZONES)
def test_labels_never_repeat(zone):
    """Weeks of hours around two changes of the clocks, years of days and months: each has a label of its own."""
    spans: list[tuple[Per, str, str]] = [
        ("hour", "2026-03-01", "2026-04-10"),
        ("hour", "2026-10-20", "2026-11-10"),
        ("day", "2010-01-01", "2012-12-31"),
        ("month", "2008-01-01", "2040-01-01"),
    ]
    for per, since, until in spans:
        windows = walk(per, zone, since, until)
        assert len(windows) == len({window.label for window in windows})


# --------------------------------------------------------------------------- what they are called


@pytest.mark.parametrize(
    ("per", "zone", "label"),
    [
        ("hour", "UTC", "2026-11-20T23"),
        ("day", "UTC", "2026-11-20"),
        ("month", "UTC", "2026-11"),
        ("hour", "Europe/Berlin", "2026-11-21T00+0100@Europe:Berlin"),
        ("day", "Europe/Berlin", "2026-11-21@Europe:Berlin"),
        ("month", "America/Argentina/Ushuaia", "2026-11@America:Argentina:Ushuaia"),
    ],
)
def test_a_label_tells_window_and_zone(per, zone, label):
    """Accounts end with the label: no slash is in it, and a zone beside UTC is named."""
    assert label == calendar(per, zone).at(instant("2026-11-20T23:30:00")).label


def test_windows_of_two_zones_are_told_apart():
    """The same day in two zones is two windows."""
    now = instant("2026-06-01T12:00:00")
    assert calendar("day", "Europe/Berlin").at(now).label != calendar("day", "Europe/Paris").at(now).label


def test_a_day_in_utc_has_24_hours():
    """Start and end of a day."""
    window = calendar("day", "UTC").at(instant("2026-11-20T12:34:56"))
    assert (instant("2026-11-20"), instant("2026-11-21")) == (window.starts_at, window.ends_at)


def test_the_last_month_of_a_year_ends_with_it():
    """December, and a February of a leap year."""
    window = calendar("month", "UTC").at(instant("2026-12-31T23:59:59"))
    assert (instant("2026-12-01"), instant("2027-01-01")) == (window.starts_at, window.ends_at)
    assert 29 * 24 == hours([calendar("month", "UTC").at(instant("2028-02-29"))])[0]


# --------------------------------------------------------------------------- clocks that are set


@pytest.mark.parametrize(
    ("zone", "day", "length"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/Havana", "2026-03-08", 23),  # 00:00 becomes 01:00
        ("America/Havana", "2026-11-01", 25),  # 01:00 becomes 00:00: midnight comes twice
        ("Africa/Cairo", "2024-04-26", 23),  # 00:00 becomes 01:00
        ("Africa/Cairo", "2024-10-31", 25),  # 24:00 becomes 23:00
        ("Asia/Beirut", "2024-03-31", 23),  # 00:00 becomes 01:00
        ("Asia/Beirut", "2024-10-26", 25),  # 24:00 becomes 23:00
        ("America/Asuncion", "2023-10-01", 23),
        ("America/Asuncion", "2024-03-23", 25),
        ("Asia/Kolkata", "2026-03-29", 24),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Antarctica/Troll", "2026-03-29", 22),  # by two hours
        ("America/St_Johns", "2010-11-07", 25),  # 00:01 became 23:01 of the day before: the date had begun
        ("America/Toronto", "1919-03-30", 23.5),  # 23:30 became 00:30: the gap begins before midnight
        ("America/Toronto", "1919-03-31", 23.5),
        ("Pacific/Apia", "2011-12-29", 24),
        ("Pacific/Apia", "2011-12-31", 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_say(zone, day, length):
    """Days of 22 to 25 hours, where midnight is skipped or comes twice."""
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=ZoneInfo(zone)).timestamp()
    window = calendar("day", zone).at(noon)
    assert (f"{day}@{zone.replace('/', ':')}", length) == (window.label, *hours([window]))


def test_a_day_that_a_zone_leaves_out_has_no_window():
    """Samoa went from 29 to 31 December 2011: an empty day is not a window."""
    labels = [window.label[:10] for window in walk("day", "Pacific/Apia", "2011-12-29", "2012-01-01")]
    assert ["2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01"] == labels


def test_an_hour_that_comes_twice_is_two_windows():
    """Two o'clock of 25 October 2026 in Berlin: the offset tells them apart."""
    windows = walk("hour", "Europe/Berlin", "2026-10-24T23:30:00", "2026-10-25T01:30:00")
    assert ["2026-10-25T01+0200", "2026-10-25T02+0200", "2026-10-25T02+0100"] == [w.label[:18] for w in windows]
    assert [1, 1, 1] == hours(windows)


def test_an_hour_that_is_skipped_has_no_window():
    """From one to three o'clock on 29 March 2026 in Berlin."""
    windows = walk("hour", "Europe/Berlin", "2026-03-29T00:30:00", "2026-03-29T01:30:00")
    assert ["2026-03-29T01+0100", "2026-03-29T03+0200"] == [window.label[:18] for window in windows]


def test_an_hour_ends_where_clocks_are_set_within_it():
    """Lord Howe sets its clocks by half an hour: the hours around it are short, and none overlaps."""
    back = walk("hour", "Australia/Lord_Howe", "2026-04-04T14:30:00", "2026-04-04T16:00:00")
    assert [("01+1100", 1), ("01+1030", 0.5), ("02+1030", 1)] == [
        (window.label[11:18], length) for window, length in zip(back, hours(back), strict=True)
    ]
    ahead = walk("hour", "Australia/Lord_Howe", "2026-10-03T15:00:00", "2026-10-03T16:10:00")
    assert [("01+1030", 1), ("02+1100", 0.5), ("03+1100", 1)] == [
        (window.label[11:18], length) for window, length in zip(ahead, hours(ahead), strict=True)
    ]


def test_an_hour_that_was_cut_short_ends_at_the_change():
    """St John's went from 00:01 back to 23:01: the first minute of the day is a window of its own."""
    windows = walk("hour", "America/St_Johns", "2010-11-07T02:00:00", "2010-11-07T03:00:00")
    assert ["07T00-0230", "06T23-0330"] == [window.label[8:18] for window in windows[1:]]
    assert [instant(f"2010-11-07T{at}") for at in ("02:30", "02:31", "03:30")] == [w.ends_at for w in windows]


def test_half_hour_zones_begin_on_their_own_hour():
    """In Kolkata an hour begins at half past of UTC."""
    window = calendar("hour", "Asia/Kolkata").at(instant("2026-11-20T12:15:00"))
    assert (instant("2026-11-20T11:30:00"), instant("2026-11-20T12:30:00")) == (window.starts_at, window.ends_at)


def test_far_years_have_windows():
    """The clock of a machine may be wrong by centuries: no instant up to the year 9998 is an error."""
    now = instant("9998-12-31T23:59:59")
    assert ["9998-12-31T23", "9998-12-31", "9998-12"] == [calendar(per, "UTC").at(now).label for per in PERS]
    for zone in ZONES:
        window = calendar("month", zone).at(now)
        assert timedelta(days=30) < timedelta(seconds=window.ends_at - window.starts_at) < timedelta(days=32)


def test_a_calendar_is_a_key():
    """The ledger remembers the latest window of each calendar: equal ones are the same key."""
    assert {calendar("day", "Europe/Berlin"): 1}[calendar("day", "Europe/Berlin")]
    assert calendar("day", "Europe/Berlin") != calendar("day", "Europe/Paris")
