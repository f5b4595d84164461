"""A point on a wall is not stored by accident, and what is called better allows for what was looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mgraph
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
    assert row["points_looked_at"] == chosen.decision.looked_at == 9
    assert row["standard_errors_needed"] == chosen.decision.threshold >= 1.96
    assert row["verdict"] == chosen.decision.verdict
    greedy = graph.connection("s").merge(soup="greedy").decision
    assert greedy.looked_at == 18  # nine points, and nine soups of them
    assert graph.connection("s").merge(at=(0.5, 1), force=True).decision.looked_at == 1


@pytest.mark.stress  # test_merge_honesty keeps one in every run
def test_the_best_corner_is_kept_unless_a_point_is_truly_better(graph: Any, run: Any) -> None:
    """What is handed out is the corner itself, bit for bit, and why is said; --best takes the point all the same."""
    ruled = graph.connection("s").merge()
    assert ruled.decision.verdict == "even"
    assert ruled.node.digest == graph.node(ruled.baseline).digest
    assert "the best corner was kept" in ruled.notes[0]
    assert "Note: the best corner was kept" in run("merge", "s").stderr
    best = graph.connection("s").merge(best=True)
    swept = graph.connection("s").swept()
    assert best.parameter == tuple(swept.parameters[swept.best("valid")])


OWN = """
import numpy as np
from torch import nn

def net():
    return nn.Linear(2, 2)

def data():
    x = np.random.default_rng(0).standard_normal((1500, 2)).astype(np.float32)
    y = (x.sum(1) + np.random.default_rng(1).normal(0, 0.2, 1500) > 0).astype(int)
    train, valid, test = ((x[i : i + 500], y[i : i + 500]) for i in (0, 500, 1000))
    return {"train": train, "valid": valid, "test": test, "classes": 2}
"""


def test_a_point_that_is_truly_better_is_merged_and_a_search_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mode looks at one coordinate, the other at the other, and the class is that of their sum."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    g = mgraph.create("g.mgraph", arch="own.py:net", data="own.py:data", device="cpu")
    for name, weight in (("a", [[-4.0, -1.0], [4.0, 1.0]]), ("b", [[-1.0, -4.0], [1.0, 4.0]])):
        torch.save({"weight": torch.tensor(weight), "bias": torch.zeros(2)}, f"{name}.pt")
        g.add_mode(f"{name}.pt", name=name)
    line = g.connect("a", "b", method=mgraph.Linear(), name="line", grid=4)
    found, refined = line.merge(), line.merge(refine=12)
    assert found.decision.verdict == refined.decision.verdict == "better"
    assert found.parameter in ((pytest.approx(1 / 3),), (pytest.approx(2 / 3),))
    assert refined.parameter[0] == pytest.approx(0.5, abs=0.1)
    assert refined.decision.looked_at > 4
    assert found.difference.verdict == "better"
    assert found.results["test"]["loss"].value < min(c["test"]["loss"].value for c in found.corners.values())
    assert found.to_dict()["path_cost"] == 0.0  # nothing was trained on the line
