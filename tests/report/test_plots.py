"""Pictures are real pictures of what was measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

import mgraph
from mgraph.errors import InputError


def check_picture(path: Path, width: int, height: int) -> None:
    """Check size in pixels, and that it is neither blank nor of a single colour."""
    pixels = imread(path)[..., :3]
    assert abs(pixels.shape[1] - width) <= 2
    assert abs(pixels.shape[0] - height) <= 2
    colours = {tuple(p) for p in pixels[::7, ::7].reshape(-1, 3).round(2).tolist()}
    assert len(colours) > 5
    assert 0.02 < (pixels.min(axis=2) < 0.95).mean() < 0.95


def test_a_surface_before_and_after(graph: Any, tmp_path: Path) -> None:
    s, wall = graph.connection("s"), graph.connection("wall")
    check_picture(s.plot(tmp_path / "both.png", before=wall), 2 * 690, 2 * 585 + 60)
    check_picture(s.plot(tmp_path / "one.png"), 690, 2 * 585 + 60)
    both, one = imread(tmp_path / "both.png"), imread(tmp_path / "one.png")
    assert both.shape != one.shape


def test_curves_and_lines(graph: Any, tmp_path: Path) -> None:
    curve, line = graph.connection("curve"), graph.connection("line")
    check_picture(curve.plot(tmp_path / "curve.png", before=line), 2 * 720, 540)
    check_picture(line.plot(tmp_path / "line.png"), 2 * 720, 540)
    assert not np.array_equal(imread(tmp_path / "curve.png"), imread(tmp_path / "line.png"))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_numbers_give_the_same_file(graph: Any, tmp_path: Path, suffix: str) -> None:
    first, second = (graph.connection("s").plot(tmp_path / f"{i}{suffix}").read_bytes() for i in range(2))
    assert first == second


def test_the_picture_says_what_it_shows(graph: Any, tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        text = graph.connection("s").plot(tmp_path / "s.svg", before=graph.connection("wall")).read_text()
    after = graph.connection("s").swept()
    before = graph.connection("wall").swept()
    assert f"before training: train loss, max {before.values['train', 'loss'].max():.3g}" in text
    assert f"after training: train loss, max {after.values['train', 'loss'].max():.3g}" in text
    assert f"after training: test accuracy, min {after.values['test', 'accuracy'].min():.3g}" in text
    with mpl.rc_context({"svg.fonttype": "none"}):
        text = graph.connection("line").plot(tmp_path / "l.svg").read_text()
    for word in ("train", "valid", "test", "loss", "accuracy", "a at 0, b at 1"):
        assert word in text


def test_cells_are_where_their_points_are(graph: Any) -> None:
    """u runs upwards and v to the right: the picture's corner at (0, 1) is b."""
    from mgraph.report.plots import _draw_surface

    data = graph.connection("s").swept()
    figure = _draw_surface(data, list("abcd"), "s", None)
    axis = figure.axes[0]
    shown = np.asarray(axis.images[0].get_array())
    assert axis.images[0].origin == "lower"
    assert sorted(t.get_text() for t in axis.texts) == list("abcd")
    for name, (u, v), cell in (("b", (0, 1), (0, 2)), ("c", (1, 0), (2, 0))):
        label = next(t for t in axis.texts if t.get_text() == name)
        assert tuple(label.xy) == (v, u)
        assert shown[cell] == data.values["train", "loss"][data.index_of(np.array([u, v], float))]


def test_a_sweep_of_fewer_splits_is_drawn_too(graph: Any, tmp_path: Path) -> None:
    s = graph.connection("s")
    for splits in (("train",), ("valid",), ("test",)):
        s.sweep(2, splits=splits)
        s.plot(tmp_path / "s.png", before=graph.connection("wall") if splits == ("train",) else None)
    line = graph.connection("line")
    line.sweep(2, splits=("valid",))
    line.plot(tmp_path / "l.png")


def test_what_cannot_be_drawn(graph: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png, \.pdf, \.svg"):
        graph.connection("s").plot(tmp_path / "s.gif")
    with pytest.raises(InputError, match="does not exist"):
        graph.connection("s").plot(tmp_path / "no" / "s.png")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        graph.connection("s").plot(tmp_path / "dir.png")
    with pytest.raises(InputError, match="mgraph sweep bare"):
        graph.connection("bare").plot(tmp_path / "s.png")


def test_plotting_changes_nothing(graph: Any, tmp_path: Path, snapshot: Any) -> None:
    copy = Path(shutil.copytree(graph.path, tmp_path / "copy" / "g.mgraph"))
    g = mgraph.open(copy)
    before = snapshot(copy)
    g.connection("s").plot(tmp_path / "s.png", before=g.connection("wall"))
    assert snapshot(copy) == before
