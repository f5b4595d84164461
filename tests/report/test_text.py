"""No text of a picture is cut off by its edge, or printed over another: measured, for every picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import mgraph
from mgraph.report.landscape import LandscapePanel, Moment, plot_landscapes

_SLACK = 1.5  # pixels by which extents may touch: they include the air around the letters
Faults = list[str]


def faults(figure: Figure) -> Faults:
    """Return what is wrong with the texts of a figure, as they are drawn."""
    figure.draw_without_rendering()  # settles the layout, as savefig does
    drawn: list[tuple[str, Bbox, float]] = []
    original = Text.draw

    def record(self: Text, renderer: Any, *args: Any, **kwargs: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            drawn.append((self.get_text(), self.get_window_extent(renderer), self.get_rotation()))
        original(self, renderer, *args, **kwargs)

    Text.draw = record  # type: ignore[method-assign]
    try:
        figure.draw_without_rendering()
    finally:
        Text.draw = original  # type: ignore[method-assign]
    page = figure.bbox
    found = [f"{text!r} is cut off" for text, box, _ in drawn if not _inside(box, page)]
    for (one, box, turned), (other, theirs, _) in combinations(drawn, 2):
        slanted = turned % 90 != 0  # the extents of slanted names overlap though the letters do not
        if not slanted and _meet(box, theirs):
            found.append(f"{one!r} is printed over {other!r}")
    return found


def _inside(box: Bbox, page: Bbox) -> bool:
    edges = (box.x0 - page.x0, box.y0 - page.y0, page.x1 - box.x1, page.y1 - box.y1)
    return min(edges) >= -_SLACK


def _meet(box: Bbox, other: Bbox) -> bool:
    across = min(box.x1, other.x1) - max(box.x0, other.x0)
    along = min(box.y1, other.y1) - max(box.y0, other.y0)
    return min(across, along) > _SLACK


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Faults]]:
    """Look at every figure that is written."""
    found: list[Faults] = []

    def look(self: Figure, *_: Any, **__: Any) -> None:
        found.append(faults(self))

    monkeypatch.setattr(Figure, "savefig", look)
    yield found
    assert found, "nothing was drawn"
    assert [f for f in found if f] == []


def test_faults_are_found() -> None:
    figure = Figure(figsize=(3, 2), layout="constrained")
    axis = figure.subplots()
    assert faults(figure) == []
    axis.set_title("much longer than the figure is wide, at this size")
    axis.text(0.2, 0.5, "one")
    axis.text(0.21, 0.5, "other")
    said = faults(figure)
    assert len(said) == 2
    assert "cut off" in said[0]
    assert said[1] == "'one' is printed over 'other'"


@pytest.fixture(scope="module")
def named(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The template with one mode of a long name."""
    path = Path(shutil.copytree(template, tmp_path_factory.mktemp("named") / "digits.mgraph"))
    g = mgraph.open(path, device="cpu")
    g.rename("c", "resnet-20-seed-3")
    g.plane("a", "b", "resnet-20-seed-3", name="abc", grid=5, splits=["train"], examples=100)
    g.plane("a", random=True, name="around", grid=4, splits=["train", "test"], examples=100)
    return g


def sharp(g: Any) -> list[Any]:
    how = {"directions": 2, "radii": (0.01, 0.1), "examples": 50, "what": "profile"}
    if not hasattr(g, "found"):
        g.found = [g.node(name).sharpness(**how) for name in ("a", "b", "resnet-20-seed-3", "d")]
    return list(g.found)


PICTURES: dict[str, Callable[[Any, Path], Any]] = {
    "surface": lambda g, path: g.connection("s").plot(path, before=g.connection("wall")),
    "one map": lambda g, path: g.connection("s").plot(path, splits=["test"], metrics=["loss"], dark=True),
    "curve": lambda g, path: g.connection("curve").plot(path, before=g.connection("line")),
    "training": lambda g, path: g.node("a").plot(path),
    "map": lambda g, path: g.plot_map(path, max_barrier=0.5),
    "two maps": lambda g, path: g.plot_map(path, layout="distance,disagreement"),
    "dendrogram": lambda g, path: g.plot_dendrogram(path, max_peak=0.5, dark=True),
    "matrix": lambda g, path: g.plot_matrix(path, by="barrier"),
    "plane": lambda g, path: g.connection("abc").plot(path, paths=["curve", "line"]),
    "random plane": lambda g, path: g.connection("around").plot(path),
    "relief": lambda g, path: g.connection("s").plot(path, before=g.connection("wall"), relief=True),
    "compared": lambda g, path: g.compare("a", "b", "resnet-20-seed-3", "d").plot(path),
    "sharp": lambda g, path: sharp(g)[0].plot(path, *sharp(g)[1:]),
    "flips": lambda g, path: g.connection("line").plot_flips(path, grid=5),
    "basins": lambda g, path: g.connection("s").plot_basins(path, depth=0),
    "paths": lambda g, path: g.plot_paths(path, paths=["line", "curve"]),
    "panels": lambda g, path: panels(g).savefig(path),
    "votes": lambda g, path: g.connection("line").plot_ensemble(path, grid=3),
    "landscapes": lambda g, path: landscapes(path),
}


def landscapes(path: Path) -> None:
    """A ring with bands on it, as the demo of landscapes draws them."""
    x, along = np.linspace(-1.4, 1.4, 21), np.linspace(0, 1, 11)
    bands = [
        np.stack([-np.cos(np.pi * along), share * np.sin(np.pi * along)], axis=1) for share in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    moments = [
        Moment(f"{20 * i} steps" if i else "straight line", band, along, ((band**2).sum(axis=1) - 1) ** 2)
        for i, band in enumerate(bands)
    ]
    ring = LandscapePanel("ring", x, x, ((x[:, None] ** 2 + x[None] ** 2) - 1) ** 2, moments, 0.02)
    plot_landscapes([ring, ring, ring], path)


def panels(g: Any) -> Figure:
    """Panels that a reader puts together, each on an Axes of theirs."""
    figure = Figure(figsize=(18, 12), layout="constrained")
    axes = iter(figure.subplots(3, 3).ravel())
    g.connection("curve").draw(next(axes), metrics=["accuracy"])
    g.connection("s").draw(next(axes))
    g.connection("s").draw_basins(next(axes))
    g.draw_map(next(axes))
    g.draw_matrix(next(axes))
    g.draw_dendrogram(next(axes), max_peak=0.5)
    g.draw_paths(next(axes), paths=["line", "curve"])
    g.connection("abc").draw_distances(next(axes), paths=["curve"])
    g.node("a").draw(next(axes), quantity="distance")
    return figure


RARELY = {  # with make stress
    *("paths", "votes", "landscapes", "one map", "training", "relief", "two maps", "compared", "sharp", "random plane"),
    *("flips", "basins"),  # drawn as the maps of a surface are
    "panels",  # of pictures that are looked at one by one
}


@pytest.mark.parametrize(
    "picture", [pytest.param(name, marks=pytest.mark.stress if name in RARELY else ()) for name in PICTURES]
)
def test_all_text_can_be_read(named: Any, tmp_path: Path, checked: list[Faults], picture: str) -> None:
    PICTURES[picture](named, tmp_path / "x.png")
