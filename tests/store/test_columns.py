from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph_store.errors import InputError
from mgraph_store.rows import columns

any_ranges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


def covered(ranges: Any) -> set[int]:
    return {i for start, stop in ranges for i in range(start, stop)}


@given(any_ranges)
def test_merging_keeps_the_columns_and_is_canonical(ranges: list[tuple[int, int]]) -> None:
    if not covered(ranges):
        with pytest.raises(InputError, match="no columns"):
            columns.merge(ranges)
        return
    merged = columns.merge(ranges)
    assert covered(merged) == covered(ranges)
    assert columns.count(merged) == len(covered(ranges))
    assert (
        merged == columns.check(merged) == columns.merge(reversed(merged)) == columns.merge([[a, b] for a, b in merged])
    )
    assert all(a < b for a, b in merged)
    assert all(b < c for (_, b), (c, _) in pairwise(merged))
    assert columns.from_json(columns.to_json(merged)) == merged


@given(any_ranges.filter(covered), st.integers(0, 40), st.integers(1, 40))
def test_what_is_taken_is_put_back(ranges: list[tuple[int, int]], start: int, length: int) -> None:
    merged = columns.merge(ranges)
    row = np.arange(40, dtype=np.float32)
    inside = np.isin(np.arange(40), sorted(covered(ranges)))
    taken = columns.take(row, merged)
    assert taken.tolist() == row[inside].tolist()
    out = np.full(40, -1, np.float32)
    columns.put(out, merged, taken)
    assert out.tolist() == np.where(inside, row, -1).tolist()
    stop = min(start + length, 40)  # the same in pieces
    before, clipped = columns.clip(merged, start, stop)
    assert before == np.count_nonzero(inside[:start])
    assert covered(clipped) == {int(i) for i in np.flatnonzero(inside[start:stop])}


def test_taking_makes_a_copy() -> None:
    row = np.arange(4, dtype=np.float32)
    columns.take(row, [(0, 4)])[:] = 7
    assert row.tolist() == [0, 1, 2, 3]


def test_the_json_is_plain() -> None:
    assert columns.to_json([(0, 12), (20, np.int64(25))]) == "[[0,12],[20,25]]"  # type: ignore[list-item]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "{}", "3", "[]", "[3]", "[[0]]", "[[0,1,2]]", "[[0,1.5]]", '[["0","1"]]'),
        *("[[3,3]]", "[[-1,2]]", "[[3,2]]", "[[4,6],[0,2]]", "[[0,2],[2,4]]", "[[0,3],[2,4]]"),
    ],
)
def test_what_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        columns.from_json(text)
    try:
        ranges = json.loads(text)
    except ValueError:
        return
    if isinstance(ranges, list):
        for function in (columns.check, columns.to_json, lambda r: columns.take(np.zeros(9), r)):
            with pytest.raises(InputError):
                function(ranges)


@pytest.mark.parametrize("ranges", [[(3, 2)], [(-1, 2)], [(0, 1.5)], [(0,)], ["ab"], [None]])
def test_what_cannot_be_merged_is_refused(ranges: Any) -> None:
    with pytest.raises(InputError, match="not a range of columns"):
        columns.merge(ranges)


def test_sizes_must_fit() -> None:
    row = np.zeros(5, np.float32)
    with pytest.raises(InputError, match=r"up to 6 do not fit an array of shape \[5\]"):
        columns.take(row, [(3, 6)])
    with pytest.raises(InputError, match="up to 6 do not fit"):
        columns.put(row, [(3, 6)], np.ones(3, np.float32))
    with pytest.raises(InputError, match="do not fit"):
        columns.take(np.zeros((2, 5)), [(0, 1)])
    with pytest.raises(InputError, match=r"2 columns, but values of shape \[3\]"):
        columns.put(row, [(3, 5)], np.ones(3, np.float32))
    assert not row.any()
