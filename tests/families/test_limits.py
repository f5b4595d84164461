"""Families and grids of a stranger's graph that ask for more than anybody has use for."""

from __future__ import annotations

from typing import Any

import pytest

from mgraph.errors import InputError
from mgraph.families import BezierSurfaceFamily, Segment, SimplexFamily, family_from


@pytest.mark.parametrize(
    "description",
    [
        {"family": "bezier-curve", "bends": 10**7},
        {"family": "bezier-curve", "bends": 999},
        {"family": "bezier-surface", "degree": [10**5, 10**5]},
        {"family": "polygonal-chain", "bends": 10**7},
        {"family": "simplex", "corners": 10**7},
        {
            "family": "composite",
            "pieces": [{"family": {"family": "simplex", "corners": 10**7}, "rows": [0, 1], "waypoints": [[0], [1]]}],
            "at": [],
        },
    ],
)
def test_families_of_too_many_points_are_not_built(description: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="control points is not built: there are at most"):
        family_from(description)


def test_what_is_in_use_is_built() -> None:
    assert family_from({"family": "polygonal-chain", "bends": 5000}).size == 5002
    assert family_from({"family": "bezier-surface", "degree": [9, 9]}).size == 100


def test_grids_of_too_many_points_are_not_built() -> None:
    for family, counts in ((Segment(), 10**9), (BezierSurfaceFamily(), (10**5, 10**5)), (SimplexFamily(50), 11)):
        with pytest.raises(InputError, match="points; a sweep may have at most 4000000"):
            family.grid(counts)
    assert len(Segment().grid(10**5)) == 10**5
