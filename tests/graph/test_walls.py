"""A point on a wall is not stored by accident, and what is called better allows for what was looked at."""

from __future__ import annotations

from typing import Any

import pytest

from mgraph.data.task import ACCURACY
from mgraph.errors import InputError
from mgraph.evaluate.metrics import Measured
from mgraph.metric import LOSS, Metric
from mgraph.operations.walls import is_wall


@pytest.mark.parametrize(
    ("metric", "found", "worst", "wall"),
    [
        (ACCURACY, 0.72, 0.99, True),
        (ACCURACY, 0.92, 0.99, True),
        (ACCURACY, 0.98, 0.99, False),
        (ACCURACY, 0.87, 0.92, False),
        (ACCURACY, 0.5, 0.65, True),
        (LOSS, 1.0, 0.1, True),
        (LOSS, 0.12, 0.1, False),
        (LOSS, -40.0, -100.0, True),
        (LOSS, -101.0, -100.0, False),
    ],
)
def test_what_a_wall_is(metric: Metric, found: float, worst: float, wall: bool) -> None:
    assert is_wall(metric, Measured(found, 0.002, 1000), worst) is wall
    assert not is_wall(metric, Measured(found, 100.0, 1000), worst)  # within its own error


def test_a_point_on_a_wall_is_refused_unless_forced(graph: Any, run: Any) -> None:
    before = len(graph.nodes("merged"))
    done = run("merge", "line", "--at", 0.5, "--name", "w", code=2)
    assert "The point is on a wall: its validation accuracy is 0." in done.stderr
    assert "--force stores it anyway" in done.stderr
    with pytest.raises(InputError, match="is on a wall"):
        graph.connection("wall").merge(at=(0.5, 0.5))
    assert len(graph.nodes("merged")) == before
    assert run("merge", "line", "--at", 0.5, "--name", "w", "--force", "--json").row["name"] == "w"
    assert graph.connection("line").merge(at=0).parameter == (0.0,)  # a corner is none


def test_a_verdict_counts_the_points_that_were_looked_at(graph: Any, run: Any) -> None:
    row = run("merge", "s", "--json").row
    chosen = graph.connection("s").merge()
    assert chosen.decision is not None
    inside = chosen.parameter is not None and not set(chosen.parameter) <= {0.0, 1.0}
    assert row["points_looked_at"] == chosen.decision.looked_at == (9 if inside else 1)
    valid = chosen.results["valid"]["accuracy"].value - chosen.corners[chosen.baseline]["valid"]["accuracy"].value
    assert row["valid_difference"] == pytest.approx(valid, abs=1e-6)
    assert row["verdict"] == chosen.decision.verdict
    greedy = graph.connection("s").merge(soup="greedy").decision
    assert greedy.looked_at == 18  # nine points, and nine soups of them
