"""Which points of a walk are kept: pieces stay within the bound, and no point is kept that they do not need."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgraph.methods.llpf.thinning import Thinner


def ring(row):
    """A loss that is 0 on the unit circle: the middle of a chord rises by its sag."""
    return float((row.double().square().sum() - 1) ** 2)


def thinned(angles, every, bound, loss_at=ring):
    """Walk along the circle; return (tick, loss, middle) of what was kept, and the points, the start first."""
    points = [torch.stack([torch.cos(a), torch.sin(a)]) for a in torch.tensor([0.0, *angles], dtype=torch.float64)]
    kept, rows = [], [points[0]]
    thinner = Thinner(every, bound, loss_at, lambda row, k: (kept.append(k), rows.append(row)))
    thinner.begin(points[0], 0, loss_at(points[0]))
    for tick, point in enumerate(points[1:], start=1):
        thinner.add(tick, point)
    thinner.settle(len(angles), points[-1])
    return kept, rows, points


@given(
    steps=st.lists(st.floats(0.001, 0.3), min_size=1, max_size=40),
    every=st.integers(1, 20),
    bound=st.floats(1e-6, 0.3),
)
def test_pieces_are_low_or_as_short_as_the_stride(steps, every, bound):
    angles = torch.cumsum(torch.tensor(steps), 0).tolist()
    kept, rows, points = thinned(angles, every, bound)
    ticks = [0, *(k.tick for k in kept)]
    assert ticks == sorted(set(ticks))
    assert ticks[-1] == len(steps)
    stride = -(-every // 8)
    for (first, last), (p, q), k in zip(pairwise(ticks), pairwise(rows), kept, strict=True):
        assert torch.equal(q, points[last])
        assert k.middle == ring((p + q) / 2)
        assert last - first <= every
        assert k.error(ring(p)) <= bound or last - first <= stride


def test_a_straight_walk_keeps_every_kth_point():
    kept, _, _ = thinned([0.001 * i for i in range(1, 31)], 10, 0.1)
    assert [k.tick for k in kept] == [10, 20, 30]


@pytest.mark.parametrize(("bound", "expected"), [(1.0, [8]), (0.02, [4, 8]), (0.0015, [2, 5, 8])])
def test_no_more_points_are_kept_than_the_bound_asks_for(bound, expected):
    """On the circle the middle of a chord over 8, 4, 3 and 2 steps of 0.1 has a loss of 2.3e-2, 1.6e-3, 5e-4, 1e-4."""
    kept, _, _ = thinned([0.1 * i for i in range(1, 9)], 8, bound)
    assert [k.tick for k in kept] == expected


def test_the_last_point_is_kept_once():
    kept, rows, points = thinned([0.1, 0.2, 0.3], 2, 1.0)
    assert [k.tick for k in kept] == [2, 3]
    assert torch.equal(rows[-1], points[-1])


def test_few_points_wait_however_long_a_piece():
    held = []
    thinner = Thinner(1000, 1.0, ring, lambda *_: None)
    thinner.begin(torch.tensor([1.0, 0.0]), 0, 0.0)
    for tick in range(1, 1000):
        thinner.add(tick, torch.tensor([1.0, 0.0]))
        held.append(len(thinner.waiting))
    assert max(held) == 7


@pytest.mark.parametrize("every", [3, 10])
def test_going_on_with_what_waits_keeps_the_same(every):
    angles = [0.1 * i for i in range(1, 26)]
    whole, _, points = thinned(angles, every, 0.01)
    kept = []
    thinner = Thinner(every, 0.01, ring, lambda _, k: kept.append(k))
    thinner.begin(points[0], 0, ring(points[0]))
    for tick, point in enumerate(points[1:], start=1):
        thinner.add(tick, point)
        last = kept[-1] if kept else None
        again = Thinner(every, 0.01, ring, lambda _, k: kept.append(k))
        at = points[last.tick] if last else points[0]
        again.begin(at, last.tick if last else 0, last.loss if last else ring(at), thinner.waiting)
        thinner = again
    thinner.settle(25, points[-1])
    assert kept == whole
