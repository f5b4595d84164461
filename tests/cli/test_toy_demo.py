"""The demonstration on landscapes, made small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

import mgraph
from mgraph import toydemo


def test_the_toy_demo_draws_a_band_that_moves(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valley = next(toy for toy in toydemo._TOYS if toy.potential == "valley")
    monkeypatch.setattr(toydemo, "_TOYS", (replace(valley, steps=(5, 20)),))
    run = commands(tmp_path)
    done = run("demo", "--toy", "-o", "shown", "--json")
    assert "landscape valley" in done.stderr
    assert [(r["connection"], r["steps"]) for r in done.rows] == [
        ("valley-line", 0),
        ("valley-5", 5),
        ("valley-20", 20),
    ]
    saddles = [r["saddle"] for r in done.rows]
    assert saddles == sorted(saddles, reverse=True)
    assert saddles[-1] == pytest.approx(valley.saddle, rel=0.2)
    g = mgraph.open(tmp_path / "shown" / "toy.mgraph")
    assert {c["name"] for c in g.connections()} == {r["connection"] for r in done.rows}
    pixels = imread(tmp_path / "shown" / "toy.png")[..., :3]
    assert pixels.shape[0] > 900
    assert len(np.unique(pixels[::5, ::5].reshape(-1, 3).round(2), axis=0)) > 20  # shades, and a colour per moment

    assert "--overwrite" in run("demo", "--toy", "-o", "shown", code=2).stderr
    result = toydemo.ToyDemo(done.rows, [Path("shown/toy.png")])
    monkeypatch.setattr(toydemo, "run_toy_demo", lambda *_, **__: result)
    text = run("demo", "--toy", "-o", "shown", "--overwrite").stdout
    assert "Wrote shown/toy.png" in text
    assert "valley-20" in text
