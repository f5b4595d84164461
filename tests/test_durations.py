"""Lengths of time as typed and as spoken."""

from __future__ import annotations

import pytest

from mgraph.durations import seconds, spoken
from mgraph.errors import InputError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1h 2m 3s", 3723),
        ("45s", 45),
        ("90", 90),
        ("1.5h", 5400),
        (" 2 D ", 172800),
        (3, 3),
        (0.5, 0.5),
    ],
)
def test_it_is_read(given: str | float, expected: float) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize(
    "given",
    ["", "soon", "2x", "h", "2h!", "1h30", "0", "0m", "-3s", "3m2", "1m1m", "1e400", "nan", "inf", 0, -1, float("nan")],
)
def test_it_is_refused(given: str | float) -> None:
    with pytest.raises(InputError, match="a number above 0 with units, such as 2h, 1h30m or 90s; got"):
        seconds(given)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0.25, "0.25 s"),
        (9, "9 s"),
        (45.4, "45 s"),
        (60, "1 m"),
        (90, "1 m 30 s"),
        (5400, "1 h 30 m"),
        (172800, "2 d"),
        (86399.9, "24 h"),
    ],
)
def test_it_is_spoken(length: float, text: str) -> None:
    assert spoken(length) == text
