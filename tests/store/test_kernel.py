from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgraph_store.errors import InputError
from mgraph_store.tensors.kernel import combine

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def reference(coefficients: list[float], rows: Any) -> Any:
    """One rounded operation after the other, element by element, as the definition says."""
    out = []
    for i in range(rows.shape[1]):
        total: np.float32 | None = None
        for c, row in zip(np.asarray(coefficients, np.float32), rows, strict=True):
            if c != 0:
                product = np.float32(c * row[i])
                total = product if total is None else np.float32(total + product)
        out.append(np.float32(0) if total is None else total)
    return np.array(out, np.float32)


@given(
    st.integers(1, 5).flatmap(
        lambda k: st.tuples(
            st.lists(st.one_of(st.floats(-4, 4), st.sampled_from([0.0, 1.0, -0.0, 1e-60])), min_size=k, max_size=k),
            arrays(np.float32, st.tuples(st.just(k), st.integers(1, 6)), elements=floats),
        )
    )
)
def test_agrees_bit_for_bit_with_the_definition(case: tuple[list[float], Any]) -> None:
    coefficients, rows = case
    with np.errstate(all="ignore"):
        expected = reference(coefficients, rows)
    assert combine(coefficients, list(rows)).view(np.uint32).tolist() == expected.view(np.uint32).tolist()


def test_blocks_do_not_show() -> None:
    rows = list(np.random.default_rng(0).standard_normal((3, 200_001)).astype(np.float32))
    whole = combine([0.3, -1.7, 0.9], rows)
    parts = [combine([0.3, -1.7, 0.9], [r[i : i + 777] for r in rows]) for i in range(0, 200_001, 777)]
    assert whole.tobytes() == np.concatenate(parts).tobytes()


def test_a_single_one_copies_the_bits() -> None:
    row = np.array([0x00000001, 0x80000000, 0x7F7FFFFF, 0x3F800001], np.uint32).view(np.float32)
    out = combine([0, 1, 0], [row[::-1], row, row[::-1]])
    assert out.tobytes() == row.tobytes()
    assert not np.shares_memory(out, row)


def test_skipped_rows_do_not_spoil_the_sum() -> None:
    spoilt = np.full(3, np.nan, np.float32)
    assert combine([0, 2], [spoilt, np.ones(3, np.float32)]).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("coefficients", "rows"),
    [
        ([1.0], []),
        ([1.0, 2.0], [np.ones(2, np.float32)]),
        ([1.0, 2.0], [np.ones(2, np.float32), np.ones(3, np.float32)]),
        ([1.0], [np.ones(2, np.float64)]),
        ([float("nan")], [np.ones(2, np.float32)]),
        ([1e39], [np.ones(2, np.float32)]),
    ],
)
def test_nonsense_is_refused(coefficients: list[float], rows: list[Any]) -> None:
    with pytest.raises(InputError):
        combine(coefficients, rows)
