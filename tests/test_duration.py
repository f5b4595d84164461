"""Lengths of time as people write them."""

import pytest

from mgraph.duration import seconds, spoken
from mgraph.errors import InputError


@pytest.mark.parametrize(
    ("given", "expected"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), (" 2 H ", 7200), ("1h 2m 3s", 3723)],
)
def test_units_and_their_sums(given, expected):
    assert seconds(given) == expected


def test_numbers_are_seconds():
    assert (seconds(12), seconds(0.5)) == (12.0, 0.5)


@pytest.mark.parametrize(
    "given", ["", "0", "0m", "-3s", "soon", "3d", "m", "3m2", "1m1m", "1e400", "nan", 0, -1, float("inf"), float("nan")]
)
def test_what_is_no_length_of_time(given):
    with pytest.raises(InputError, match=r"A length of time is a number above 0 with unit s, m or h, such as 90s"):
        seconds(given)


def test_spoken():
    assert [spoken(t) for t in (0.42, 12.3, 119, 180, 7000, 9000)] == [
        "0.42 s",
        "12 s",
        "119 s",
        "3 min",
        "117 min",
        "2.5 h",
    ]
