"""Panels drawn on an Axes: every picture has one, it shows what was measured, and names are taken literally."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import mgraph
from mgraph.errors import InputError
from mgraph.graph.handles import Connected, Point
from mgraph.operations.comparisons import Comparison
from mgraph.operations.surroundings import Sharpness

STRANGE = "$\\alpha$"


@pytest.fixture(scope="module")
def drawn(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The template, in which d has the name of a formula, with a plane."""
    path = Path(shutil.copytree(template, tmp_path_factory.mktemp("panels") / "digits.mgraph"))
    plane = {"grid": 5, "splits": ["train"], "examples": 50, "bn_examples": 50}
    mgraph.open(path, device="cpu").plane("a", "b", "c", name="plane", **plane)
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET name = ? WHERE name = 'd'", [STRANGE])
    return mgraph.open(path, device="cpu")


@pytest.mark.parametrize("kind", [mgraph.Graph, Connected, Point, Comparison, Sharpness])
def test_whatever_is_plotted_can_be_drawn_on_an_axes(kind: type) -> None:
    names = [name for name in dir(kind) if name == "plot" or name.startswith("plot_")]
    assert names
    for name in names:
        draw = getattr(kind, name.replace("plot", "draw", 1))
        _, ax, *others = inspect.signature(draw).parameters.values()
        assert (ax.name, ax.default) == ("ax", None)
        assert {p.kind for p in others} <= {ax.KEYWORD_ONLY, ax.VAR_KEYWORD, ax.VAR_POSITIONAL}


PANELS: dict[str, Callable[..., Any]] = {
    "map": lambda g, *ax: g.draw_map(*ax, layout="distance"),
    "matrix": lambda g, *ax: g.draw_matrix(*ax, by="barrier"),
    "dendrogram": lambda g, *ax: g.draw_dendrogram(*ax, max_peak=0.5),
    "paths": lambda g, *ax: g.draw_paths(*ax, paths=["line", "curve"], split="test", metric="accuracy"),
    "curve": lambda g, *ax: g.connection("curve").draw(*ax, before=g.connection("line")),
    "surface": lambda g, *ax: g.connection("s").draw(*ax, splits=["test"], metrics=["accuracy"]),
    "plane": lambda g, *ax: g.connection("plane").draw(*ax, paths=["curve"]),
    "distances": lambda g, *ax: g.connection("plane").draw_distances(*ax, paths=["curve", g.connection("line")]),
    "basins": lambda g, *ax: g.connection("wall").draw_basins(*ax, depth=0),
    "tree of basins": lambda g, *ax: g.connection("wall").draw_basins(*ax, what="tree"),
    "votes": lambda g, *ax: g.connection("s").draw_ensemble(*ax, grid=2),
    "votes along": lambda g, *ax: g.connection("line").draw_ensemble(*ax, what="along", grid=3),
    "shares": lambda g, *ax: g.connection("line").draw_flips(*ax, grid=3),
    "flips": lambda g, *ax: g.connection("line").draw_flips(*ax, what="examples", grid=3),
    "training": lambda g, *ax: g.node("a").draw(*ax),
    "cosines": lambda g, *ax: g.compare("a", "b", "c", STRANGE).draw(*ax),
    "variances": lambda g, *ax: g.compare("a", STRANGE).draw(*ax, what="variance"),
}


RARELY = {"votes along", "flips", "variances", "tree of basins", "distances"}  # with make stress


@pytest.mark.parametrize(
    "panel", [pytest.param(name, marks=pytest.mark.stress if name in RARELY else ()) for name in PANELS]
)
def test_a_panel_is_drawn_on_the_axes_that_is_given_which_is_returned(drawn: Any, panel: str) -> None:
    mine, other = Figure().subplots(1, 2)
    other.set_title("$x$")
    assert PANELS[panel](drawn, mine) is mine
    assert mine.has_data() or mine.texts
    assert not other.has_data()
    assert other.title.get_parse_math()  # the reader's own formulas stay formulas


def test_without_an_axes_a_figure_is_made_and_pyplot_left_alone(drawn: Any) -> None:
    first, second = (drawn.connection("line").draw() for _ in range(2))
    assert first.figure is not second.figure
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_where_pyplot_is_in_use_the_figure_is_one_of_its(drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Figure] = []

    class Pyplot:
        @staticmethod
        def figure(**how: Any) -> Figure:
            made.append(Figure(**how))
            return made[-1]

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", Pyplot)
    assert drawn.connection("line").draw().figure is made[0]


def test_names_are_literal_on_axes_of_ones_own(drawn: Any) -> None:
    axis = Figure().subplots()
    drawn.connection("s").draw(axis)
    (name,) = (text for text in axis.texts if text.get_text() == STRANGE)
    assert not name.get_parse_math()
    drawn.draw_matrix(axis := Figure().subplots())
    axis.figure.draw_without_rendering()
    assert "\\$\\alpha\\$" in [label.get_text() for label in axis.get_xticklabels()]


def test_panels_show_what_was_measured(drawn: Any) -> None:
    line, curve = (drawn.connection(name).swept() for name in ("line", "curve"))
    axis = drawn.draw_paths(paths=["line", "curve"], split="test", metric="accuracy")
    for drawn_line, data in zip(axis.lines, (line, curve), strict=True):
        np.testing.assert_array_equal(drawn_line.get_ydata(), data.values["test", "accuracy"])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["line", "curve"]
    assert "a at 0, b at 1" in axis.get_xlabel()
    (cells,) = (c for c in drawn.connection("s").draw().collections if isinstance(c, QuadMesh))
    losses = drawn.connection("s").swept().values["train", "loss"]
    np.testing.assert_array_equal(np.sort(cells.get_array().ravel()), np.sort(losses))
    recorded = [row["value"] for row in drawn.node("a").series() if row["quantity"] == "distance"]
    np.testing.assert_array_equal(drawn.node("a").draw(quantity="distance").lines[0].get_ydata(), recorded)
    away = drawn.connection("plane").project("curve").distance
    (shown,) = drawn.connection("plane").draw_distances(paths=["curve"]).lines
    np.testing.assert_array_equal(shown.get_ydata(), away)


def test_a_path_from_the_other_end_is_turned_around(graph: Any) -> None:
    graph.connect("b", "a", method=mgraph.Linear(), name="back", grid=5)
    line, back = graph.draw_paths(paths=["line", "back"]).lines
    np.testing.assert_allclose(back.get_xdata(), 1 - np.linspace(0, 1, 5))
    assert np.interp(0.25, back.get_xdata()[::-1], back.get_ydata()[::-1]) == pytest.approx(
        np.interp(0.25, line.get_xdata(), line.get_ydata()), rel=1e-4
    )


def test_a_relief_needs_three_dimensions(drawn: Any) -> None:
    assert drawn.connection("s").draw(relief=True).name == "3d"
    with pytest.raises(InputError, match="three dimensions"):
        drawn.connection("s").draw(Figure().subplots(), relief=True)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda g: g.draw_map(layout="barrier,distance"), "room for one layout"),
        (lambda g: g.draw_paths(paths=["line", "s"]), "s is a surface; only paths"),
        (lambda g: g.draw_paths(paths=["line", "bare"]), "line joins a and b, but bare joins c and"),
        (lambda g: g.draw_paths(paths=["line", "line"]), "line is given twice"),
        (lambda g: g.draw_paths(paths=[]), "Name the paths"),
        (lambda g: g.draw_paths(paths=["line"], metric="ece"), "The sweep has no ece"),
        (lambda g: g.connection("s").draw(before=g.connection("wall")), "Two heat maps"),
        (lambda g: g.connection("s").draw(paths=["line"]), "seen from above, and s is a surface"),
        (lambda g: g.connection("plane").draw_distances(), "Name the paths"),
        (lambda g: g.connection("s").draw_basins(what="maps"), "map or tree, not 'maps'"),
        (lambda g: g.connection("s").draw_ensemble(what="along"), "s is a surface; an end"),
        (lambda g: g.connection("s").draw_flips(), "s is a surface; predictions"),
        (lambda g: g.connection("line").draw_series(), "No 'train_loss' was noted for line, only nothing"),
        (lambda g: g.node("a").draw(quantity="lr"), "only train_loss, train_accuracy, learning_rate, distance"),
        (lambda g: g.node("m").draw(), "noted for m, only nothing"),
        (lambda g: g.compare("a", "b").draw(what="angle"), "cosine, relative, variance, not 'angle'"),
        (lambda g: g.connection("bare").draw(), "mgraph sweep bare"),
    ],
)
def test_what_cannot_be_drawn_is_said(drawn: Any, draw: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        draw(drawn)


def test_several_paths_are_plotted_together(run: Any, graph: Any) -> None:
    assert run("plot", "line", "curve", "-o", "p.svg", "--split", "test", "--dark").stdout == "p.svg\n"
    text = (graph.path.parent / "p.svg").read_text()
    ids = " ".join(graph.connection(name).swept().sweep.id for name in ("line", "curve"))
    assert f"command: mgraph plot line curve --split test --dark; graph: digits.mgraph; sweeps: {ids}" in text
    assert "given twice" in run("plot", "line", "line", "-o", "x.png", code=2).stderr
    assert "by --split and --metric" in run("plot", "line", "curve", "--flips", "-o", "x.png", code=2).stderr
    assert "a is a mode" in run("plot", "line", "a", "-o", "x.png", code=2).stderr


COMMANDS = (
    "plot s --split test --metric loss --no-before",
    "plot s --3d --no-before",
    "plot line",
    "plot a",
    "plot s --basins --split train --metric loss",
    "plot line --flips --grid 3",
    "plot line --ensemble --grid 3",
    "map --layout disagreement --max-barrier 0.5",
    "matrix --by barrier",
    "dendrogram --max-peak 0.5 --split test",
    "compare a b",
    "sharpness a -s radii=0.01,0.1 -s directions=2 -s examples=50",
)


@pytest.mark.parametrize(
    "words", [pytest.param(one, marks=pytest.mark.stress if one.startswith("plot") else ()) for one in COMMANDS]
)
def test_every_picture_says_which_command_drew_it_and_can_be_dark(
    drawn: Any, commands: Any, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """What files hold of this is tested with one picture."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, path, metadata, **_: told.update({"paper": self.axes[0].get_facecolor()} | metadata),
    )
    commands(drawn.path.parent)(*words.split(), "--dark", "-o", "x.png")
    assert told["Description"].startswith(f"command: mgraph {words} --dark; graph: digits.mgraph")
    assert sum(told["paper"][:3]) < 1


def test_dark_without_a_picture_is_refused(run: Any) -> None:
    for words in ("compare a b", "sharpness a", "matrix", "dendrogram", "plane a b c --no-sweep"):
        assert "--dark is for a picture" in run(*words.split(), "--dark", code=2).stderr
