"""Measuring points with metrics of choice: in Python, and by ``mgraph evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import InputError
from mgraph.operations.evaluating import StoredNumberWarning

MINE = """
import torch

def confidence(outputs, targets):
    return outputs.softmax(1).max(1).values{}
"""


def confidence(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    del targets
    return outputs.softmax(1).amax(1)


def by_hand(graph: Any, point: Any) -> tuple[torch.Tensor, torch.Tensor]:
    test = graph.session.workspace(graph.session.space()).task.test
    x, y = test.examples(torch.arange(len(test)), device=torch.device("cpu"))
    with torch.no_grad():
        return point.model()(x), y


def sample_of(graph: Any) -> Any:
    swept = graph.connection("s").swept()
    return next(p for p in map(graph.node, swept.node_ids) if p.kind == "sample")


@pytest.mark.parametrize("which", ["mode", "merged", "sample", "place"])
def test_any_point_is_measured_by_any_metric(graph: Any, snapshot: Any, which: str) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    s = graph.connection("s")
    makers = {"mode": lambda: graph.node("a"), "merged": lambda: graph.node("m"), "sample": lambda: sample_of(graph)}
    point = makers.get(which, lambda: s.at(0.3, 0.4))()
    before = snapshot(graph.path)
    macro = torchmetrics.classification.MulticlassAccuracy(num_classes=10, average="micro")
    found = point.evaluate(
        "test",
        metrics=["top3", "ece", confidence, mgraph.Metric("same", confidence, better="higher"), macro],
    )
    out, y = by_hand(graph, point)
    sure = confidence(out, y).double()
    assert {"loss", "accuracy", "top3", "ece", "confidence", "same", "MulticlassAccuracy"} == set(found)
    assert found["confidence"] == found["same"]
    assert found["confidence"].value == pytest.approx(float(sure.mean()))
    assert found["confidence"].standard_error == pytest.approx(float(sure.std()) / len(sure) ** 0.5)
    top = out.topk(3, 1).indices.eq(y[:, None]).any(1).double().mean()
    assert found["top3"].value == pytest.approx(float(top))
    assert found["MulticlassAccuracy"].value == pytest.approx(found["accuracy"].value)
    assert snapshot(graph.path) == before


def test_examples_are_a_fixed_random_subset(graph: Any) -> None:
    a = graph.node("a")
    some, again, all_of_them = a.evaluate("train", examples=50), a.evaluate("train", examples=50), a.evaluate("train")
    assert some == again
    assert (some["loss"].count, some["loss"].value != all_of_them["loss"].value) == (50, True)
    assert some["loss"].standard_error > all_of_them["loss"].standard_error
    assert a.evaluate("train", examples=10**9) == all_of_them
    swept = graph.connection("line").sweep(grid=2, examples=50)
    assert swept.counts["train", "loss"] == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tets"}, r"no split 'tets'; did you mean 'test'\? choose from train, valid, test"),
        ({"metrics": ["eec"]}, r"no metric 'eec'; did you mean 'ece'\?"),
        ({"metrics": [confidence, confidence]}, "Two metrics are called confidence"),
        ({"metrics": [3]}, "3"),
        ({"examples": 0}, "at least 1 example"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(graph: Any, options: dict[str, Any], message: str) -> None:
    for point in (graph.node("a"), graph.connection("s").at(0.3, 0.4)):
        with pytest.raises(InputError, match=message):
            point.evaluate(**options)


def test_a_misspelt_keyword_is_named(graph: Any) -> None:
    with pytest.raises(TypeError, match=r"evaluate\(\) got .* 'metric'; did you mean metrics\?"):
        graph.node("a").evaluate("test", metric=["ece"])


def test_saved_numbers_are_shown_and_listed(graph: Any, run: Any) -> None:
    a = graph.node("a")
    kept = a.evaluate("test", metrics="ece", save=True)
    a.evaluate("test", metrics="ece", examples=30, save=True)
    rows = [e for e in a.describe()["evaluations"] if e["metric"] == "ece" and e["sweep_id"] is None]
    assert [(e["subset"] == "all", e["count"]) for e in rows] == [(True, 360), (False, 30)]
    assert rows[0]["value"] == kept["ece"].value
    assert graph.nodes(where="test_ece > 0", sort="test_ece")[0]["test_ece"] == kept["ece"].value
    (listed,) = run("ls", "--where", "test_ece > 0", "--json").rows
    assert (listed["name"], listed["test_accuracy"]) == ("a", a.evaluate("test")["accuracy"].value)
    assert run("sql", "SELECT test_ece FROM modes WHERE name = 'a'", "--json").rows == [{"test_ece": kept["ece"].value}]
    assert "subset" in run("show", "a").stdout
    assert graph.runs()[-1]["command"] == "evaluate"


def test_numbers_that_are_there_stay(graph: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    a, code = graph.node("a"), path.parent / "mine.py"
    code.write_text(MINE.format(""))
    first = a.evaluate("test", metrics="mine.py:confidence", save=True)["confidence"]
    before = a.describe()["evaluations"]
    assert a.evaluate("test", metrics="mine.py:confidence", save=True)["confidence"] == first
    assert a.describe()["evaluations"] == before
    code.write_text(MINE.format(" / 2"))
    with pytest.warns(StoredNumberWarning, match=r"stored test confidence of 0\.\d+, which stays"):
        second = a.evaluate("test", metrics="mine.py:confidence", save=True)["confidence"]
    assert second.value == pytest.approx(first.value / 2)
    assert a.describe()["evaluations"] == before


def test_only_nodes_of_their_own_are_saved(graph: Any) -> None:
    with pytest.raises(InputError, match="is a sample; only modes and merged nodes"):
        sample_of(graph).evaluate(save=True)
    with pytest.raises(InputError, match=r"<place 0\.3,0\.4 of s> is not a node"):
        graph.connection("s").at(0.3, 0.4).evaluate(save=True)


def test_the_command_prints_numbers_with_their_errors(graph: Any, run: Any, snapshot: Any) -> None:
    before = snapshot(graph.path)
    told = run("evaluate", "a", "m", "--split", "test", "--metric", "ece", "--metric", "top2", "--examples", 40)
    assert told.stdout.split("\n")[0].split() == ["node", "split", "metric", "value", "standard", "error", "examples"]
    assert told.stdout.count("top2") == 2
    rows = run("evaluate", "a", "m", "--split", "test", "--metric", "ece", "--json").rows
    assert [row["node"] for row in rows] == ["a", "m"]
    for row in rows:
        found = graph.node(row["node"]).evaluate("test", metrics=["ece"])
        for name in ("loss", "accuracy", "ece"):
            assert row[f"test_{name}"] == found[name].value
            assert row[f"test_{name}_standard_error"] == found[name].standard_error
        assert row["test_examples"] == 360
        assert "train_loss" not in row
    assert snapshot(graph.path) == before
    run("evaluate", "a", "--metric", "ece", "--save")
    assert np.isfinite(run("ls", "--where", "name = 'a'", "--json").rows[0]["valid_ece"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--split", "tain"), "did you mean 'train'?"),
        (("--metric", "acc"), "There is no metric 'acc'"),
        (("--examples", "0"), "at least 1 example"),
        (("--metric", "nowhere.py:f"), "nowhere.py"),
    ],
)
def test_the_command_refuses_by_name(run: Any, args: tuple[str, ...], message: str) -> None:
    done = run("evaluate", "a", *args, code=2)
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr


def test_its_job_is_written_and_done(graph: Any) -> None:
    job = mgraph.EvaluateJob(node=graph.node("a").id, splits=("valid",), metrics=("ece",), examples=60, save=True)
    assert mgraph.read_job(job.to_json()) == job
    assert graph.run(job)["valid"]["ece"].count == 60
    assert not mgraph.EvaluateJob(node="m", metrics=(confidence,)).can_be_written
