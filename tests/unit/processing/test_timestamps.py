"""Times as text: written one way, read in the many ways answers are worded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import RequestError
from timeviper.processing.timestamps import format_time, parse_interval, parse_times

WHOLE_SECONDS = st.integers(0, 200 * 60 * 60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"),
        (5.0, "00:05"),
        (59.999, "00:59"),
        (60, "01:00"),
        (754.2, "12:34"),
        (3600, "60:00"),
        (5999, "99:59"),
        (6000, "100:00"),
        (11_999, "199:59"),
        (15_359, "255:59"),
    ],
)
def test_times_are_rounded_down_and_minutes_pass_59(seconds, text):
    assert format_time(seconds) == text


def test_rounding_errors_do_not_fall_back_a_second():
    assert format_time(sum([0.1] * 10) * 12) == "00:12"
    assert format_time(12 - 1e-9) == "00:12"


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(RequestError, match="zero seconds or more"):
        format_time(seconds)


@given(WHOLE_SECONDS)
def test_law_parse_undoes_format(seconds):
    assert parse_times(format_time(seconds)) == (seconds,)


@given(WHOLE_SECONDS, WHOLE_SECONDS)
def test_law_an_interval_is_read_back_and_a_reversed_one_is_none(start, end):
    text = f"the cat appears from {format_time(start)} to {format_time(end)}."
    assert parse_interval(text) == ((start, end) if start <= end else None)
    assert parse_times(text) == (start, end)


@given(st.floats(0, 1e6))
def test_law_a_formatted_time_is_within_the_second_before(seconds):
    (read,) = parse_times(format_time(seconds))
    assert -1e-5 < seconds - read < 1


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("1:02:03", (3723,)),
        ("at 00:12.", (12,)),
        ("12.5 seconds", (12.5,)),
        ("12.5", (12.5,)),
        ("2m05s", (125,)),
        ("1h2m3s", (3723,)),
        ("1 minute and 5 seconds", (65,)),
        ("3 hours", (10_800,)),
        ("at 5 s, 7 s and 9 s", (5, 7, 9)),
        ("00:12, 00:14 and 01:00", (12, 14, 60)),
        ("2 cats at 00:03", (3,)),
        ("at 75:00", (4500,)),
        ("12 cats", ()),
        ("12:75", ()),
        ("12:345", ()),
        ("5 ms", ()),
        ("v2 and t3", ()),
        ("", ()),
    ],
)
def test_times_in_words(text, times):
    assert parse_times(text) == times


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("from 00:12 to 00:15", (12, 15)),
        ("from 00:12 to 00:15.", (12, 15)),
        ("00:12 - 00:15", (12, 15)),
        ("00:12–00:15", (12, 15)),
        ("between 00:12 and 00:15", (12, 15)),
        ("between 3s and 7s", (3, 7)),
        ("between 3 and 7 seconds", (3, 7)),
        ("1 to 2 minutes", (60, 120)),
        ("12 to 15", (12, 15)),
        ("12.5 - 15.25", (12.5, 15.25)),
        ("[12, 15]", (12, 15)),
        ('{"start": 12.0, "end": 15.5}', (12, 15.5)),
        ("It starts at 1:02:03 and ends at 1:02:09.", (3723, 3729)),
        ("00:12:30 until 00:13:00", (750, 780)),
        ("1 to 2 cats from 00:03 to 00:07", (3, 7)),
        ("from 00:07 to 00:07", (7, 7)),
    ],
)
def test_intervals_in_words(text, interval):
    assert parse_interval(text) == interval


@pytest.mark.parametrize(
    "text",
    ["nothing.", "at 00:12", "at 00:12 and 00:30", "from 00:15 to 00:12", "12, 15", "to to to", ""],
)
def test_words_without_an_interval(text):
    assert parse_interval(text) is None


@given(st.text(st.sampled_from("0123456789:. smh-–to[],from andbetweenend\n٣"), max_size=60))
def test_law_junk_is_no_error(text):
    times = parse_times(text)
    interval = parse_interval(text)
    assert all(time >= 0 for time in times)
    assert interval is None or 0 <= interval[0] <= interval[1]


@given(st.text(max_size=200))
def test_law_any_text_is_no_error(text):
    assert all(time >= 0 for time in parse_times(text))
    assert parse_interval(text) is None or len(parse_interval(text)) == 2


@pytest.mark.parametrize("piece", ["1 ", "1:", "1h ", "0", "1s start "])
def test_long_junk_takes_no_long_time(piece):
    # A regular expression that backtracks would hang here until the test's time limit.
    text = piece * 20_000
    assert parse_interval(text) is None
    parse_times(text)
