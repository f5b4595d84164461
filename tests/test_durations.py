"""Lengths of time as typed and as spoken."""

from __future__ import annotations

import pytest

from mgraph.durations import seconds, spoken
from mgraph.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2h", 7200), ("1h30m", 5400), ("1h 30m", 5400), ("45s", 45), ("90", 90), ("1.5h", 5400), ("2D", 172800), (3, 3)],
)
def test_it_is_read(text: str | float, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "2x", "h", "2h!", "nan", "inf", "1h30"])
def test_it_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="2h, 1h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("length", "text"),
    [(0.25, "0.25 s"), (9, "9 s"), (45.4, "45 s"), (60, "1 m"), (90, "1 m 30 s"), (5400, "1 h 30 m"), (172800, "2 d")],
)
def test_it_is_spoken(length: float, text: str) -> None:
    assert spoken(length) == text
