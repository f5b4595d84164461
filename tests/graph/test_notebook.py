"""What a notebook shows: small HTML tables in which a stranger's text is only ever text."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

import mgraph
from mgraph.notebook import MOST_COLUMNS, MOST_ROWS, to_html

TAGS = {"div", "p", "b", "table", "caption", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """Reads HTML as a browser would: which elements there are, and what is text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert attrs == []
        self.tags[tag] += 1
        self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str | None) -> Page:
    assert html is not None
    page = Page(html)
    assert set(page.tags) <= TAGS
    assert len(html) < 20_000
    return page


@pytest.fixture(scope="module")
def opened(template: Path, tmp_path_factory: pytest.TempPathFactory) -> mgraph.Graph:
    path = shutil.copytree(template, tmp_path_factory.mktemp("opened") / "digits.mgraph")
    return mgraph.open(path, device="cpu")


ASKED: dict[str, tuple[Callable[[mgraph.Graph], Any], tuple[str, ...]]] = {
    "graph": (lambda g: g, ("cnn-digits", "curve", "surface", "nodes", "connections")),
    "node": (lambda g: g.node("a"), ("mode a", "cnn-digits", "accuracy", "standard error")),
    "connection": (lambda g: g.connection("s"), ("surface s", "a b c d", "edges", "barrier")),
    "not swept": (lambda g: g.connection("bare"), ("linear bare", "c d")),
    "place": (lambda g: g.connection("curve").at(0.3), ("Place", "curve", "0.3")),
    "sweep": (lambda g: g.connection("curve").swept(), ("SweepData", "points", "5", "loss")),
    "listing": (lambda g: g.ls(), ("Listed", "nodes", "connections", "train loss")),
    "components": (lambda g: g.components(max_barrier=0.5), ("Components", "threshold")),
    "route": (lambda g: g.route("a", "b"), ("Route", "a → b", "peak")),
    "tree": (lambda g: g.mst(), ("SpanningForest", "trees")),
    "dendrogram": (lambda g: g.dendrogram(), ("Dendrogram", "merges", "modes")),
    "neighbours": (lambda g: g.neighbours("a"), ("Neighbours", "barrier")),
    "matrix": (lambda g: g.matrix(), ("Matrix", "pairs", "direct", "best")),
    "query": (lambda g: g.sql("SELECT name FROM modes ORDER BY name"), ("QueryResult", "a", "d")),
    "comparison": (lambda g: g.compare("a", "b"), ("Comparison", "tensors", "cosine")),
    "check": (lambda g: g.check(), ("CheckResult", "yes")),
    "plan": (lambda g: g.remove("bare", dry_run=True), ("UpkeepPlan", "bare")),
    "ensemble": (lambda g: g.ensemble("a", "b"), ("EnsembleResult", "verdict", "models", "cost")),
    "predictions": (lambda g: g.predict("a"), ("Predicted", "examples", "360")),
}


@pytest.mark.parametrize("what", ASKED)
def test_everything_that_a_graph_returns_shows_itself(opened: mgraph.Graph, what: str) -> None:
    ask, expected = ASKED[what]
    text = " ".join(read(ask(opened)._repr_html_()).texts)
    for part in expected:
        assert part in text


def test_what_makes_nodes_shows_itself(graph: Any) -> None:
    merged = read(graph.connection("s").merge(best=True)._repr_html_())
    assert {"MergeResult", "verdict", "models"} <= {text.partition(":")[0] for text in merged.texts}
    soup = read(graph.soup("a", "b", force=True)._repr_html_())
    assert {"SoupResult", "weights"} <= set(soup.texts)


EVIL = '<script>alert(1)</script><img src=x onerror=alert(1)> & "quoted" \x1b[2J\u202e'


def test_a_strangers_text_is_only_text(graph: Any) -> None:
    graph.node("a").note(by=EVIL)
    graph.connection("s").note(by=EVIL)
    shown = [graph.node("a"), graph.connection("s"), graph.sql(f"SELECT '{EVIL}' AS \"<script>x</script>\"")]
    for thing in shown:
        page = read(thing._repr_html_())
        text = " ".join(page.texts)
        assert "<script>alert(1)</script>" in text
        assert '& "quoted"' in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b" in text


def test_long_tables_and_texts_are_cut_and_say_so() -> None:
    rows = [{f"c{i}": k for i in range(MOST_COLUMNS + 5)} for k in range(MOST_ROWS + 80)]
    page = read(to_html("Many", {"rows": rows, "text": "x" * 5000}))
    assert page.tags["tr"] == 1 + 1 + MOST_ROWS  # the facts, the head, the rows
    assert page.tags["caption"] == 1
    assert "rows: 20 of 100 rows, 12 of 17 columns" in page.texts
    assert max(map(len, page.texts)) < 400


def test_nothing_and_not_a_number_are_shown_as_such() -> None:
    page = read(
        to_html("Title", {"empty": [], "none": None, "yes": True, "rows": [{"a": 1.23456789, "b": float("nan")}]})
    )
    assert page.texts == ["Title", "yes", "yes", "rows", "a", "b", "1.235", "–"]


def test_a_graph_that_is_gone_leaves_the_usual_text(path: Path) -> None:
    g = mgraph.open(path)
    node = g.node("a")
    shutil.rmtree(path)
    assert g._repr_html_() is None
    assert node._repr_html_() is None
    assert repr(node) == "<mode a>"


def test_looking_needs_no_torch(python: Callable[..., str], path: Path) -> None:
    script = """
import sys, mgraph
g = mgraph.open(sys.argv[1])
for thing in (g, g.node("a"), g.connection("s"), g.components(max_barrier=1)):
    assert thing._repr_html_().startswith("<div>")
print("torch" in sys.modules)
"""
    assert python(script, path).strip() == "False"
