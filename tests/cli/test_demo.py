"""The demonstration, made small; the real one is what ``make demo`` runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mgraph.demo
from mgraph.demo import Demo
from mgraph.graph.graph import Graph
from mgraph.graph.handles import Connected


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    create, train, connect, ensemble = mgraph.demo.create, Graph.train, Graph.connect, Connected.ensemble

    def connect_coarsely(self: Graph, *ends: Any, method: Any, **options: Any) -> Any:
        if isinstance(method, mgraph.BezierSurface):
            method = mgraph.BezierSurface(epochs=8)
        return connect(self, *ends, method=method, grid=3, **options)

    small_cnn = "cnn?channels=4,8&hidden=16,"
    monkeypatch.setattr(mgraph.demo, "create", lambda path, **options: create(path, **options | {"arch": small_cnn}))
    monkeypatch.setattr(Graph, "train", lambda self, **options: train(self, epochs=4, lr=0.1, **options))
    monkeypatch.setattr(Graph, "connect", connect_coarsely)
    monkeypatch.setattr(Connected, "ensemble", lambda self, **options: ensemble(self, grid=3, **options))


@pytest.mark.usefixtures("small")
def test_the_demo_shows_everything_once(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = commands(tmp_path)
    (tmp_path / "shown" / "digits.mgraph").mkdir(parents=True)
    assert "--overwrite" in run("demo", "-o", "shown", code=2).stderr
    done = run("demo", "-o", "shown", "--overwrite", "--json")
    rows = done.rows
    assert [r["what"].split()[0] for r in rows] == ["mode"] * 4 + ["line"] * 6 + ["bilinear", "trained", "merged"] + [
        "ensemble"
    ] * 2
    assert "Training the Bézier surface." in done.stderr
    for row in rows[:4]:
        assert row["test_accuracy"] > 0.5
        assert row["standard_error"] > 0
    wall, surface = rows[10], rows[11]
    assert surface["max_train_loss"] < wall["max_train_loss"]
    # Honest: every better model is compared with what it should beat, in words that follow from the numbers.
    for row in rows[12:]:
        beyond = abs(row["difference"]) > 2 * row["difference_error"]
        assert row["verdict"] == ("even" if not beyond else "better" if row["difference"] > 0 else "worse")
        assert row["verdict"] in row["compared"]
        assert row["against"] in row["compared"]
    shown = tmp_path / "shown"
    assert {p.name for p in shown.iterdir()} == {
        *("digits.mgraph", "surface.png", "line.png", "merged.safetensors", "merged.safetensors.md")
    }
    g = mgraph.open(shown / "digits.mgraph")
    assert g.node("merged").evaluate("test")["accuracy"].value == rows[12]["test_accuracy"]
    assert g.node("merged").record.selected_on == "valid"
    assert {c["name"] for c in g.connections()} >= {"wall", "surface", "line-ab", "line-cd"}

    # The same once more, for people.
    result = Demo(rows, 4, 1, [Path("shown/surface.png"), Path("shown/digits.mgraph")])
    monkeypatch.setattr(mgraph.demo, "run_demo", lambda *_, **__: result)
    text = run("demo", "-o", "shown", "--overwrite").stdout
    assert "Components at train barrier <= 0.1: 4 by straight lines, 1 with the trained surface." in text
    assert "Wrote shown/surface.png" in text
    assert "mgraph ls --graph shown/digits.mgraph" in text
    assert "mode a" in text


def test_an_interrupted_demo_says_how_to_start_again(
    commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Graph, "train", stop)
    run = commands(tmp_path)
    assert "Run again: mgraph demo -o shown --overwrite" in run("demo", "-o", "shown", code=130).stderr
    error = json.loads(run("demo", "-o", "shown", "--overwrite", "--json", code=130).stderr.splitlines()[-1])["error"]
    assert error["kind"] == "interrupted"
