"""The matrix of all pairs against networkx, and the pictures that are drawn from it."""

from __future__ import annotations

import os
import shutil
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.query.arrays import EdgeArrays
from mgraph.query.criterion import Criterion
from mgraph.query.edges import Vertex
from mgraph.query.matrix import Chart, Matrix, best_routes, leaf_order
from mgraph.query.tree import Dendrogram
from mgraph.report.graphplots import plot_map, plot_matrix, short
from mgraph.report.scales import scale_of_costs
from mgraph.report.treeplots import draw_dendrogram, plot_dendrogram

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

EDGES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.0, 0.1, 0.3, 0.3, 2.0])).filter(
        lambda e: e[0] != e[1]
    ),
    max_size=15,
)


@settings(max_examples=15 * MANY, deadline=None)
@given(EDGES)
def test_best_routes_are_bottleneck_routes(edges: list[tuple[int, int, float]]) -> None:
    graph = nx.Graph()
    graph.add_nodes_from(range(7))
    for one, other, value in sorted(edges, key=lambda e: -e[2]):
        graph.add_edge(one, other, weight=value)
    best = best_routes(EdgeArrays.of(7, *(list(zip(*edges, strict=True)) or [(), (), ()])))
    forest = nx.minimum_spanning_tree(graph)
    for i, j in combinations(range(7), 2):
        if not nx.has_path(graph, i, j):
            assert np.isnan(best[i, j])
            continue
        way = nx.shortest_path(forest, i, j)
        assert best[i, j] == best[j, i] == max(forest[x][y]["weight"] for x, y in pairwise(way))
    assert np.isnan(np.diag(best)).all()


def tree(linkage: list[list[float]], n: int, own: list[float] | None = None, quantity: str = "peak") -> Dendrogram:
    leaves = [Vertex(f"m{i}", f"mode-{i}", "mode") for i in range(n)]
    values = np.full(n, np.nan) if own is None else np.array(own)
    return Dendrogram(Criterion(quantity), leaves, np.array(linkage).reshape(-1, 4), values)


def test_numbers_in_a_matrix_hide_nothing() -> None:
    found = [short(value) for value in (0.0, 4.5e-4, 0.0143, 0.254, 1.25, 12.5)]
    assert found == ["0", "4.5e-4", ".014", ".25", "1.25", "12"]


@pytest.mark.parametrize("quantity", ["peak", "barrier"])
def test_a_limit_far_away_leaves_the_tree_its_size(quantity: str) -> None:
    from matplotlib.figure import Figure

    one = tree([[0, 1, 0.010, 2], [2, 3, 0.015, 3]], 3, [0.005, 0.006, 0.007] if quantity == "peak" else None, quantity)
    for limit, marked in ((0.5, False), (0.02, True), (50.0, False)):
        axis = draw_dendrogram(Figure().subplots(), one, limit)
        low, high = axis.get_ylim()
        assert (0.015 - (0.005 if quantity == "peak" else 0.0)) / (high - low) > 0.3
        assert (f"dashed: {limit:g}" in axis.get_title()) == marked
        assert ("lies far above" in axis.get_title()) != marked


def test_a_map_of_good_edges_does_not_look_dramatic() -> None:
    scale = scale_of_costs(np.array([0.0115, 0.0154]), 0.1)
    assert (scale.low, scale.high, scale.logarithmic) == (0.0, 0.1, False)
    assert scale_of_costs(np.array([0.001, 1.5])).logarithmic


def test_leaves_that_merge_early_stand_together() -> None:
    assert leaf_order(tree([[1, 3, 0.1, 2], [0, 4, 0.2, 2], [5, 6, 0.3, 4]], 5)) == [1, 3, 0, 4, 2]
    assert leaf_order(tree([], 3)) == [0, 1, 2]


@pytest.mark.parametrize(("n", "limit"), [(2, None), (5, 0.3), pytest.param(60, 0.3, marks=pytest.mark.stress)])
def test_anything_can_be_drawn(n: int, limit: float | None, tmp_path: Path) -> None:
    random = np.random.default_rng(n)
    direct = np.where(random.random((n, n)) < 0.4, random.random((n, n)), np.nan)
    direct = np.fmin(direct, direct.T)
    np.fill_diagonal(direct, np.nan)
    modes = [Vertex(f"m{i}", None if i % 2 else f"a-long-name-{i}", "mode") for i in range(n)]
    criterion = Criterion("barrier", limit)
    components = random.integers(0, 3, n)
    shown = Chart(criterion, modes, components, {"peak": direct + 1, "barrier": direct, "drop": direct}, direct)
    for layout in ("barrier", "distance"):
        assert plot_map(shown, {layout: direct}, tmp_path / f"{layout}.png").stat().st_size > 5000
    plot_matrix(Matrix(criterion, modes, direct, np.fmax(direct, 0.1)), tmp_path / "matrix.svg")
    merges = [[k if k == 0 else n + k - 1, k + 1, 0.1 * (k + 1), k + 2] for k in range(n - 2)]  # one mode stays alone
    for name, own in (("peaks", (0.05 * random.random(n)).tolist()), ("barriers", None)):
        plot_dendrogram(tree(merges, n, own), limit, tmp_path / f"{name}.pdf")
    assert len(list(tmp_path.iterdir())) == 5


def test_all_edges_flat_and_no_edge_at_all(tmp_path: Path) -> None:
    modes = [Vertex(f"m{i}", None, "mode") for i in range(3)]
    for direct in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        values = dict.fromkeys(("peak", "barrier", "drop"), direct)
        chart = Chart(Criterion(), modes, np.zeros(3, dtype=np.int64), values, direct)
        plot_map(chart, {"barrier": direct}, tmp_path / "map.png")
        plot_matrix(Matrix(Criterion(), modes, direct, direct), tmp_path / "matrix.png")
    plot_dendrogram(tree([], 2), None, tmp_path / "tree.png")
    plot_dendrogram(tree([[0, 1, 0.0, 2]], 2, quantity="barrier"), 0.0, tmp_path / "tree.png")


def test_the_same_graph_gives_the_same_files_and_loads_no_torch(path: Path, python: Any, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import mgraph
g = mgraph.open(sys.argv[1])
for i in "12":
    g.plot_map(f"map{i}.svg", max_barrier=0.5)
    g.plot_map(f"far{i}.png", layout="distance")
    g.plot_dendrogram(f"tree{i}.pdf", max_peak=1.0)
    g.plot_matrix(f"matrix{i}.png", by="barrier")
assert "torch" not in sys.modules
for name in ("map*.svg", "far*.png", "tree*.pdf", "matrix*.png"):
    one, two = sorted(Path().glob(name))
    assert one.read_bytes() == two.read_bytes(), name
    assert len(one.read_bytes()) > 3000
"""
    python(script, path, cwd=tmp_path)


def test_the_matrix_of_a_graph(graph: Any) -> None:
    matrix = graph.matrix(by="barrier")
    edges = graph.to_networkx()
    place = {label: i for i, label in enumerate(matrix.labels)}
    lowest: dict[tuple[str, str], float] = {}
    for one, other, (_, split, metric), data in edges.edges(keys=True, data=True):
        if (split, metric) == ("train", "loss"):
            pair = tuple(sorted((edges.nodes[one]["name"], edges.nodes[other]["name"])))
            lowest[pair] = min(data["barrier"], lowest.get(pair, np.inf))
    for (one, other), value in lowest.items():
        assert matrix.direct[place[one], place[other]] == matrix.direct[place[other], place[one]] == value
    assert np.isfinite(matrix.direct).sum() == 2 * len(lowest)
    assert (matrix.best <= matrix.direct)[np.isfinite(matrix.direct)].all()
    rows = {(row["source"], row["target"]): row for row in matrix.rows()}
    assert len(rows) == len(place) * (len(place) - 1) / 2


def test_commands(run: Any, tmp_path: Path) -> None:
    assert run("map", "-o", "map.png", "--max-barrier", 0.5).stdout == "map.png\n"
    assert run("map", "-o", "far.svg", "--layout", "distance").stdout == "far.svg\n"
    assert run("dendrogram", "-o", "tree.pdf", "--max-peak", 2).stdout == "tree.pdf\n"
    assert run("matrix", "-o", "matrix.png").stdout == "matrix.png\n"
    rows = run("matrix", "--by", "barrier", "--json").rows
    assert {"source", "target", "direct", "best"} == set(rows[0])
    assert all((run.directory / name).exists() for name in ("map.png", "far.svg", "tree.pdf", "matrix.png"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["map", "-o", "map.gif"], ".png, .pdf, .svg"),
        (["map", "-o", "nowhere/map.png"], "does not exist"),
        (["map", "-o", "map.png", "--layout", "circle"], "barrier, distance, disagreement, not by"),
        (["map"], "--output"),
        (["map", "-o", "map.png", "--max-barrier", "1", "--max-peak", "2"], "at most one"),
        (["dendrogram", "-o", "tree.txt"], ".png, .pdf, .svg"),
        (["matrix", "-o", "m.jpeg"], ".png, .pdf, .svg"),
        (["matrix", "--by", "height"], "height"),
    ],
)
def test_bad_input(run: Any, args: list[str], says: str) -> None:
    done = run(*args, code=2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in run.directory.iterdir()) == ["digits.mgraph"]


def test_a_graph_without_edges_says_what_to_do(path: Path, tmp_path: Path) -> None:
    import mgraph

    g = mgraph.create(tmp_path / "empty.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")
    for draw in (g.plot_map, g.plot_dendrogram, g.plot_matrix):
        with pytest.raises(InputError, match="mgraph connect"):
            draw(tmp_path / "x.png")
    shutil.rmtree(g.path)
