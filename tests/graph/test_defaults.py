"""The defaults hold: seeds 0 to 3, named before anything was tuned (benchmarks/robustness.py has many more)."""

from __future__ import annotations

from pathlib import Path

import pytest

import mgraph


@pytest.mark.stress
def test_default_surface_and_curve_stay_low(tmp_path: Path) -> None:
    g = mgraph.create(tmp_path / "g.mgraph", arch="cnn", data="digits", device="cpu")
    modes = [g.train(seed=seed) for seed in range(4)]
    surface = g.connect(*modes, method=mgraph.BezierSurface(), sweep=False).sweep(splits=("train",))
    assert surface.values["train", "loss"].shape == (121,)
    assert surface.values["train", "loss"].max() < 0.06
    assert surface.values["train", "accuracy"].min() > 0.97
    curve = g.connect(*modes[:2], method=mgraph.BezierCurve(), sweep=False).sweep(splits=("train",))
    assert curve.values["train", "loss"].shape == (61,)
    assert curve.values["train", "loss"].max() < 0.05
    line = g.connect(*modes[:2], method=mgraph.Linear(), sweep=False).sweep(7, splits=("train",))
    assert line.values["train", "loss"].max() > 0.5  # where there was a barrier before
