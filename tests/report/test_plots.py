"""Pictures are real pictures of what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh, TriMesh
from matplotlib.image import imread
from matplotlib.tri import LinearTriInterpolator, Triangulation

import mgraph
from mgraph.data.task import ACCURACY
from mgraph.errors import InputError
from mgraph.families import BezierSurfaceFamily, Family, Grid, PolygonalChainFamily, Segment, SimplexFamily, TensorGrid
from mgraph.metric import LOSS
from mgraph.query.sweepdata import SweepData
from mgraph.report.heatmaps import CORNERS, small_triangles
from mgraph.report.plots import Wanted, draw_maps, draw_path, plot_sweep
from mgraph.report.scales import scale_of
from mgraph_store import Sweep


def check_picture(path: Path, width: int, height: int) -> None:
    """Check size in pixels, and that it is neither blank nor of a single colour."""
    pixels = imread(path)[..., :3]
    assert abs(pixels.shape[1] - width) <= 2
    assert abs(pixels.shape[0] - height) <= 2
    colours = {tuple(p) for p in pixels[::7, ::7].reshape(-1, 3).round(2).tolist()}
    assert len(colours) > 5
    assert 0.02 < (pixels.min(axis=2) < 0.95).mean() < 0.95


def cells_of(axis: Any) -> Callable[[float, float], float]:
    """Look a colour's value up by where it is in the picture: u upwards, v to the right."""
    (mesh,) = (c for c in axis.collections if isinstance(c, QuadMesh))
    corners, values = mesh.get_coordinates(), np.asarray(mesh.get_array())
    v, u = corners[0, :, 0], corners[:, 0, 1]
    assert np.all(np.diff(u) > 0)
    assert np.all(np.diff(v) > 0)
    return lambda at_u, at_v: float(values[np.searchsorted(u, at_u) - 1, np.searchsorted(v, at_v) - 1])


def swept(family: Family, grid: Grid, *splits: str) -> SweepData:
    """A sweep of loss and accuracy that are simple functions of the coefficients."""
    record = Sweep("w" * 13, "k" * 13, None, grid.counts, "none", "fp32")
    loss = (family.coefficients(grid.points) ** 2).sum(axis=1)
    values = {(s, m): loss if m == "loss" else 1 - loss / 2 for s in splits for m in ("loss", "accuracy")}
    errors = {key: np.full(len(loss), 0.01) for key in values}
    ids = [f"s{i}" for i in range(len(loss))]
    return SweepData(
        record,
        family,
        grid,
        ids,
        values,
        errors,
        dict.fromkeys(values, 100),
        dict.fromkeys(splits, "all"),
        metrics=(ACCURACY,),
    )


SPLITS = ("train", "valid", "test")


def test_a_simplex_of_three_is_a_triangle(tmp_path: Path) -> None:
    family = SimplexFamily(3)
    data = swept(family, family.grid(6), *SPLITS)
    check_picture(plot_sweep(data, ["left", "right", "top"], tmp_path / "t.png"), 765, 2 * 585 + 105)
    axis, *_ = draw_maps(data, ["left", "right", "top"], "", None).axes
    places = {t.get_text(): tuple(np.round(t.xy, 3)) for t in axis.texts}
    assert places == {"left": (0, 0), "right": (1, 0), "top": (0.5, 0.866)}
    (mesh,) = (c for c in axis.collections if isinstance(c, TriMesh))
    inside = mesh._triangulation
    # Between the points the picture is smooth, which is nearer the truth than flat facets; it never goes beyond them.
    x, y, shown = inside.x, inside.y, np.asarray(mesh.get_array())
    truth = sum(alpha**2 for alpha in (1 - x - y / np.sqrt(3), x - y / np.sqrt(3), 2 * y / np.sqrt(3)))
    coarse = Triangulation(*(data.parameters @ CORNERS).T, small_triangles(data.grid))
    flat = LinearTriInterpolator(coarse, data.values["train", "loss"])(x, y)
    assert np.abs(shown - truth).mean() < np.abs(flat - truth).mean() / 2
    assert shown.min() >= data.values["train", "loss"].min() - 1e-12
    assert shown.max() <= data.values["train", "loss"].max() + 1e-12
    corners = mesh.get_array()[[np.hypot(inside.x - x, inside.y - y).argmin() for x, y in places.values()]]
    assert np.asarray(corners) == pytest.approx([1, 1, 1])
    middle = int(np.hypot(inside.x - 0.5, inside.y - np.sqrt(3) / 6).argmin())
    assert mesh.get_array()[middle] == pytest.approx(1 / 3, abs=0.03)


def test_the_whole_triangle_is_filled_but_for_what_is_not_finite(tmp_path: Path) -> None:
    family = SimplexFamily(3)
    data = swept(family, family.grid(5), "train")
    triangles = small_triangles(data.grid)
    assert len(triangles) == 4**2
    data.values["train", "loss"][4] = np.nan
    (mesh,) = (c for c in draw_maps(data, list("abc"), "", None).axes[0].collections if isinstance(c, TriMesh))
    whole = len(triangles) - sum(4 in t for t in triangles)
    assert len(mesh._triangulation.get_masked_triangles()) == whole * 4**4
    data.values["train", "loss"][:] = np.nan
    plot_sweep(data, list("abc"), tmp_path / "nothing.png")


def test_a_simplex_of_others_has_no_picture(tmp_path: Path) -> None:
    for corners in (2, 4):
        data = swept(SimplexFamily(corners), SimplexFamily(corners).grid(3), "train")
        with pytest.raises(InputError, match=f"triangle of three modes, and this one has {corners}"):
            plot_sweep(data, list("abcd")[:corners], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_uneven_cells_lie_around_their_points() -> None:
    family = BezierSurfaceFamily((1, 1))
    grid = TensorGrid((np.array([0.0, 0.1, 1.0]), np.array([0.0, 0.6, 0.7, 1.0])))
    data = swept(family, grid, "train")
    axis = draw_maps(data, list("abcd"), "", None).axes[0]
    shown = cells_of(axis)
    for point, value in zip(grid.points, data.values["train", "loss"], strict=True):
        assert shown(*point) == value
    assert shown(0.54, 0.64) == shown(0.1, 0.6)  # just below and left of halfway
    assert shown(0.56, 0.66) == shown(1.0, 0.7)
    assert (min(axis.get_ylim()), max(axis.get_ylim())) == pytest.approx((-0.05, 1.45))


def test_the_bends_of_a_chain_are_marked(tmp_path: Path) -> None:
    import matplotlib as mpl

    family = PolygonalChainFamily(3)
    data = swept(family, TensorGrid((np.array([0.0, 0.3, 0.35, 1.0]),)), *SPLITS)
    for axis in draw_path(data, ["a", "b"], "", None).axes:
        marked = sorted(
            line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--" and len(line.get_xdata())
        )
        assert marked == [0.25, 0.5, 0.75]
    with mpl.rc_context({"svg.fonttype": "none"}):
        assert "bend" in plot_sweep(data, ["a", "b"], tmp_path / "c.svg").read_text()
        straight = swept(Segment(), Segment().grid(5), *SPLITS)
        assert "bend" not in plot_sweep(straight, ["a", "b"], tmp_path / "l.svg").read_text()


@pytest.mark.stress
def test_a_surface_before_and_after(graph: Any, tmp_path: Path) -> None:
    s, wall = graph.connection("s"), graph.connection("wall")
    check_picture(s.plot(tmp_path / "both.png", before=wall), 2 * 690 + 75, 2 * 585 + 105)
    check_picture(s.plot(tmp_path / "one.png"), 765, 2 * 585 + 105)
    both, one = imread(tmp_path / "both.png"), imread(tmp_path / "one.png")
    assert both.shape != one.shape


def test_curves_and_lines(graph: Any, tmp_path: Path) -> None:
    curve, line = graph.connection("curve"), graph.connection("line")
    check_picture(curve.plot(tmp_path / "curve.png", before=line), 2 * 720, 585)
    check_picture(line.plot(tmp_path / "line.png"), 2 * 720, 585)
    assert not np.array_equal(imread(tmp_path / "curve.png"), imread(tmp_path / "line.png"))


@pytest.mark.parametrize("suffix", [pytest.param(".png", marks=pytest.mark.stress), ".svg"])
def test_the_same_numbers_give_the_same_file(graph: Any, tmp_path: Path, suffix: str) -> None:
    s, one = graph.connection("s"), {"splits": ["test"], "metrics": ["loss"]}
    first, second = (s.plot(tmp_path / f"{i}{suffix}", **one).read_bytes() for i in range(2))
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
    data = graph.connection("s").swept()
    figure = draw_maps(data, list("abcd"), "s", None)
    axis = figure.axes[0]
    shown = cells_of(axis)
    assert sorted(t.get_text() for t in axis.texts) == list("abcd")
    for name, (u, v) in (("b", (0, 1)), ("c", (1, 0))):
        label = next(t for t in axis.texts if t.get_text() == name)
        assert tuple(label.xy) == (v, u)
        assert shown(u, v) == data.values["train", "loss"][data.index_of(np.array([u, v], float))]


def test_a_sweep_of_fewer_splits_is_drawn_too(graph: Any, tmp_path: Path) -> None:
    s = graph.connection("s")
    for splits in (("train",), ("test",)):
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


def test_losses_that_span_a_decade_are_logarithmic_and_dark_is_good_everywhere() -> None:
    family = BezierSurfaceFamily((1, 1))
    data = swept(family, family.grid((5, 5)), *SPLITS)
    assert not scale_of(LOSS, data.values.values()).logarithmic
    data.values["train", "loss"][:] = np.geomspace(1e-3, 2.0, 25)
    loss, accuracy = draw_maps(data, list("abcd"), "").axes[:2]
    (lost,), (right,) = ([c for c in axis.collections if isinstance(c, QuadMesh)] for axis in (loss, accuracy))
    assert sum(lost.to_rgba(1e-3)[:3]) < sum(lost.to_rgba(2.0)[:3])
    assert sum(right.to_rgba(0.9)[:3]) < sum(right.to_rgba(0.1)[:3])
    steps = [sum(lost.to_rgba(value)[:3]) for value in (1e-3, 1e-2, 1e-1, 1.0)]
    assert np.all(np.diff(steps) > 0.1)  # linear, the first three would be one colour
    curves = draw_path(swept(Segment(), Segment().grid(25), *SPLITS), ["a", "b"], "").axes
    assert [axis.get_yscale() for axis in curves] == ["linear", "linear"]
    line = swept(Segment(), Segment().grid(25), *SPLITS)
    line.values["train", "loss"][:] = np.geomspace(1e-3, 2.0, 25)
    assert [axis.get_yscale() for axis in draw_path(line, ["a", "b"], "").axes] == ["log", "linear"]


def test_a_panel_is_drawn_on_the_axes_that_are_given(graph: Any) -> None:
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    assert graph.connection("curve").draw(axis, metrics=["accuracy"], splits=["valid"]) is axis
    assert axis.get_ylabel() == "accuracy"
    assert axis.get_legend_handles_labels()[1][0] == "valid"
    axis = Figure().subplots()
    assert graph.connection("s").draw(axis) is axis
    assert [c for c in axis.collections if isinstance(c, QuadMesh)]


def test_splits_and_metrics_are_chosen(graph: Any, tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        text = graph.connection("s").plot(tmp_path / "s.svg", splits=["valid"], metrics=["loss"]).read_text()
    assert "valid loss, max" in text
    assert "accuracy" not in text.replace("best on", "")
    with pytest.raises(InputError, match="has no top5, only loss, accuracy; measure it: mgraph sweep"):
        graph.connection("s").plot(tmp_path / "s.svg", metrics=["top5"])
    with pytest.raises(InputError, match="has no holdout split, only train, valid, test"):
        graph.connection("s").plot(tmp_path / "s.svg", splits=["holdout"])


def test_a_relief_is_as_high_as_what_was_measured(graph: Any, tmp_path: Path) -> None:
    family = BezierSurfaceFamily((1, 1))
    data = swept(family, family.grid((3, 4)), *SPLITS)
    (axis, *_) = draw_maps(data, list("abcd"), "", None, Wanted(relief=True)).axes
    assert axis.name == "3d"
    loss = data.values["train", "loss"]
    assert axis.get_zlim() == pytest.approx((loss.min(), loss.max()), abs=1e-6)
    assert [text.get_text() for text in axis.texts] == list("abcd")
    with pytest.raises(InputError, match="this is a path"):
        graph.connection("line").plot(tmp_path / "x.png", relief=True)


def test_a_file_says_what_it_shows(graph: Any, tmp_path: Path) -> None:
    line = graph.connection("line")
    wanted = f"command: mgraph plot line; graph: digits.mgraph; sweep: {line.swept().sweep.id}"
    for suffix in (".png", ".svg", ".pdf"):
        assert wanted.encode() in line.plot(tmp_path / f"line{suffix}").read_bytes()


def test_plotting_changes_nothing(graph: Any, tmp_path: Path, snapshot: Any) -> None:
    copy = Path(shutil.copytree(graph.path, tmp_path / "copy" / "g.mgraph"))
    g = mgraph.open(copy)
    before = snapshot(copy)
    g.connection("s").plot(tmp_path / "s.png", before=g.connection("wall"), splits=["test"], metrics=["loss"])
    assert snapshot(copy) == before
