"""The demonstration, made small; the real one is what ``make demo`` runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mgraph.demo
from mgraph.demo import Demo, _words
from mgraph.graph.graph import Graph
from mgraph.graph.handles import Connected
from mgraph.merge.compare import Difference


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    create, connect, on_grid = mgraph.demo.create, Graph.connect, Connected.on_grid

    def connect_coarsely(self: Graph, *ends: Any, grid: Any = None, **options: Any) -> Any:
        return connect(self, *ends, grid=3, **options)

    small_cnn = "cnn?channels=4,8&hidden=16,"
    monkeypatch.setattr(mgraph.demo, "EPOCHS", 2)
    monkeypatch.setattr(mgraph.demo, "KEPT_EVERY", 2)
    monkeypatch.setattr(mgraph.demo, "PLANE_POINTS", 5)
    monkeypatch.setattr(mgraph.demo, "create", lambda path, **options: create(path, **options | {"arch": small_cnn}))
    monkeypatch.setattr(Graph, "connect", connect_coarsely)
    monkeypatch.setattr(Connected, "on_grid", lambda self, grid: on_grid(self, 2 if grid is None else grid))


@pytest.mark.usefixtures("small")
def test_the_demo_shows_everything_once(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = commands(tmp_path)
    (tmp_path / "shown" / "digits.mgraph").mkdir(parents=True)
    assert "--overwrite" in run("demo", "-o", "shown", code=2).stderr
    shown = tmp_path / "shown"
    made: list[Demo] = []
    original = mgraph.demo.run_demo
    monkeypatch.setattr(mgraph.demo, "run_demo", lambda *args, **how: made.append(original(*args, **how)) or made[-1])
    done = run("demo", "-o", "shown", "--overwrite", "--json")
    assert "50% of the training and validation labels are wrong" in done.stderr
    assert "Training the Bézier surface" in done.stderr
    kinds = [r["what"].split()[0] for r in done.rows]
    assert kinds == ["mode"] * 4 + ["line"] * 6 + ["bilinear", "trained"] + (
        ["best", "ensemble", "ensemble", "merged"] + ["instead:"] * 4
    )
    models = done.rows[12:]
    assert [m["cost"] for m in models] == [4, 4, *[5] * 6]
    assert [m["networks"] for m in models] == [1, 4, 4, 1, 1, 1, 5, 5]
    assert {p.name for p in shown.iterdir()} == {
        *("digits.mgraph", "merged.safetensors", "merged.safetensors.md"),
        *("surface.png", "plane.png", "line.png", "report.html"),
    }

    # Honest: chosen on validation data, with labels as noisy as those that train; the verdict follows from the numbers.
    g = mgraph.open(shown / "digits.mgraph")
    assert g.spaces()[0]["data"] == "digits?label_noise=0.5&label_seed=0"
    best = models[0]["what"].rpartition(" ")[2]
    right = [(p.predicted == p.labels).astype(float) for p in (g.predict("merged"), g.predict(best))]
    gain = right[0] - right[1]
    merged = models[3]
    assert merged["gain"] == pytest.approx(gain.mean())
    assert merged["gain_error"] == pytest.approx(gain.std(ddof=1) / len(gain) ** 0.5)
    for row in models[1:]:
        beyond = abs(row["gain"]) > 2 * row["gain_error"]
        assert row["verdict"] == ("even" if not beyond else "better" if row["gain"] > 0 else "worse")
    assert g.node("merged").evaluate("test")["accuracy"].value == merged["test_accuracy"]
    assert g.node("merged").record.selected_on == "valid"
    # What was stopped early was stopped by validation data, and of the kept epochs only these are still there.
    names = {row["name"] for row in g.nodes("mode")}
    assert {*"abcde", "long"} <= names
    assert len(names) <= 12
    story = " ".join(made[0].story)
    rival = max(models[4:], key=lambda row: row["test_accuracy"])
    assert f"Against the best mode ({best}), it is right" in story
    assert f"{100 * merged['gain']:+.1f} ± {100 * merged['gain_error']:.1f} points" in story
    assert f"otherwise ({rival['what'].removeprefix('instead: ')}:" in story  # the one that looks best, with hindsight
    assert "Components at a test accuracy drop of at most 0.1:" in story

    # The same once more, for people.
    monkeypatch.setattr(mgraph.demo, "run_demo", lambda *_, **__: made[0])
    text = run("demo", "-o", "shown", "--overwrite").stdout
    assert made[0].story[-1] in text
    assert "Wrote shown/surface.png" in text
    assert "mgraph ls --graph shown/digits.mgraph" in text
    assert "mode a" in text


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.1, 0.02, "more often: +10.0 ± 2.0 points"),
        (-0.1, 0.02, "less often: -10.0 ± 2.0 points"),
        (0.03, 0.02, "about as often: +3.0 ± 2.0 points, which may be chance"),
    ],
)
def test_the_story_says_no_more_than_the_numbers(value: float, error: float, said: str) -> None:
    assert _words(Difference(value, error)) == said


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
