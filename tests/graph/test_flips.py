"""Predictions that flip along a path, and between modes, against plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import InputError
from mgraph.operations.flips import Flips, disagreement, flips

TRUE = np.array([0, 1, 2, 0])
PREDICTED = np.array([[0, 1, 2, 1], [0, 0, 2, 1], [0, 0, 2, 0], [1, 1, 2, 0]])


def test_what_flips_is_counted_and_ordered() -> None:
    found = Flips("a", "b", np.linspace(0, 1, 4), PREDICTED, TRUE)
    assert found.moving.tolist() == [1, 3, 0]  # by the first point at which each changes; 2 never does
    assert found.differing(0).tolist() == [0.0, 0.25, 0.5, 0.5]
    assert found.differing(-1).tolist() == [0.5, 0.75, 0.5, 0.0]
    assert found.right.mean(axis=1).tolist() == [0.75, 0.5, 0.75, 0.75]


def test_predictions_are_those_of_the_networks(graph: Any) -> None:
    line = graph.connection("line")
    found = flips(graph.session, line.on_grid(3), None)
    data = graph.session.workspace(line.space).task.splits["test"]
    x, y = data.examples(torch.arange(len(data)))
    assert found.targets.tolist() == y.tolist()
    assert (found.first, found.last) == ("a", "b")
    for point, name in ((0, "a"), (2, "b")):
        with torch.no_grad():
            wanted = graph.node(name).model()(x).argmax(dim=1)
        same = found.predicted[point] == wanted.numpy()
        assert same.mean() > 0.95  # the path's statistics are recomputed, the mode's are its own
    modes = [graph.node(name).record for name in "ab"]
    with torch.no_grad():
        one, other = (graph.node(name).model()(x).argmax(dim=1) for name in "ab")
    shares = disagreement(graph.session, line.space, modes)
    assert shares[0, 1] == shares[1, 0] == pytest.approx(float((one != other).double().mean()))
    assert shares[0, 0] == shares[1, 1] == 0.0


def test_what_has_no_flips(graph: Any, run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="s is a surface; predictions are followed along a path"):
        graph.connection("s").plot_flips(tmp_path / "x.png")
    assert "--grid is one number" in run("plot", "line", "--flips", "--grid", "3,3", "-o", "x.png", code=2).stderr
    assert "takes no --split" in run("plot", "line", "--flips", "--3d", "-o", "x.png", code=2).stderr
    assert "not by 'nearness'" in run("map", "--layout", "nearness", "-o", "x.png", code=2).stderr
    assert "drawn once" in run("map", "--layout", "barrier,barrier", "-o", "x.png", code=2).stderr
    toy = mgraph.create(tmp_path / "toy.mgraph", arch="toy", data="toy", device="cpu")
    for name, at in (("l", [-0.5, 1.4]), ("r", [0.6, 0.0])):
        toy.add_point(at, name=name)
    toy.connect("l", "r", method=mgraph.Linear(), name="line", grid=5)
    with pytest.raises(InputError, match="one class"):
        toy.connection("line").plot_flips(tmp_path / "x.png", grid=3)
    assert not (tmp_path / "x.png").exists()
