"""The tables of the papers: what they hold, where they come from, and how they are printed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph


def rows_of(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["quantity"]: row for row in table["rows"]}


def test_a_path_has_min_int_and_max(graph: Any) -> None:
    curve = graph.connection("curve")
    table, data = curve.table(), curve.swept()
    rows = rows_of(table)
    assert list(rows) == ["train loss", "train error (%)", "test error (%)"]
    loss, accuracy = data.values["train", "loss"], data.values["test", "accuracy"]
    assert (rows["train loss"]["min"], rows["train loss"]["max"]) == (loss.min(), loss.max())
    error = rows["test error (%)"]
    assert error["min"] == pytest.approx(100 * (1 - accuracy.max()))
    assert error["max"] == pytest.approx(100 * (1 - accuracy.min()))
    found = {(s["split"], s["metric"], s["statistic"]): s["value"] for s in curve.describe()["summary"]}
    assert rows["train loss"]["int"] == found["train", "loss", "integral"]
    assert error["int"] == pytest.approx(100 * (1 - found["test", "accuracy", "integral"]))
    assert table["length_ratio"] == found["none", "geometry", "length_ratio"] >= 1
    assert (table["connection"], table["kind"], table["ends"]) == ("curve", "curve", ["a", "b"])
    assert (table["grid"], table["points"], table["models"]) == ([5], 5, None)


def test_standard_errors_are_those_of_test_data_and_subsets(graph: Any) -> None:
    curve = graph.connection("curve")
    data, rows = curve.swept(), rows_of(curve.table())
    at = data.values["test", "accuracy"].argmin()
    assert rows["test error (%)"]["max_standard_error"] == pytest.approx(100 * data.errors["test", "accuracy"][at])
    errors = data.errors["test", "accuracy"]
    assert 100 * errors.min() <= rows["test error (%)"]["int_standard_error"] <= 100 * errors.max()
    for name in ("train loss", "train error (%)"):  # of all that there is
        assert {rows[name][f"{s}_standard_error"] for s in ("min", "int", "max")} == {None}
    bare = graph.connection("bare")
    data = bare.sweep(5, examples=200)
    table = bare.table()
    assert table["subsets"] == data.subsets
    assert table["examples"] == {"train": 200, "valid": 200, "test": 200}
    rows = rows_of(table)
    low = data.values["train", "loss"].argmin()
    assert rows["train loss"]["min_standard_error"] == data.errors["train", "loss"][low]
    assert all(row[f"{s}_standard_error"] > 0 for row in rows.values() for s in ("int", "max"))


def test_a_surface_is_chosen_on_validation_and_reported_on_test(graph: Any) -> None:
    s = graph.connection("s")
    table, data = s.table(), s.swept()
    models, accuracy = table["models"], data.values["test", "accuracy"]
    best = data.best("valid")
    assert models["quantity"] == "test accuracy (%)"
    assert models["selected_on"] == "valid"
    assert models["best"]["value"] == pytest.approx(100 * accuracy[best])
    assert models["best"]["node"] == data.node_ids[best] == s.best().id
    assert models["best"]["parameter"] == data.parameters[best].tolist()
    assert models["mean"]["value"] == pytest.approx(100 * accuracy.mean())
    corners = [data.index_of(np.array(c, float)) for c in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert models["corners"]["value"] == pytest.approx(100 * accuracy[corners].mean())
    assert models["oracle"]["value"] == pytest.approx(100 * accuracy.max())
    assert models["best"]["value"] <= models["oracle"]["value"]
    assert models["best"]["standard_error"] == pytest.approx(100 * data.errors["test", "accuracy"][best])
    assert table["length_ratio"] is None


def test_splits_that_were_not_measured_are_left_out(graph: Any) -> None:
    one, other = (graph.connect(*"abcd", method=mgraph.Linear(), sweep=False) for _ in range(2))
    one.sweep(2, splits=("train",))
    table = one.table()
    assert (list(rows_of(table)), table["models"]) == (["train loss", "train error (%)"], None)
    other.sweep(2, splits=("test",))
    models = other.table()["models"]
    assert (models["selected_on"], models["best"]) == (None, None)
    assert models["mean"]["value"] > 0


def test_the_tables_are_printed_for_people_and_programs(run: Any, graph: Any) -> None:
    text = run("show", "curve", "--table").stdout
    ratio = graph.connection("curve").table()["length_ratio"]
    assert f"length ratio  {ratio:.4g}" in text
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert {"train loss", "train error (%)", "test error (%)"} < set(lines)
    assert lines["test error (%)"].count("±") == 3
    assert "±" not in lines["train loss"]
    text = run("show", "s", "--table").stdout
    at = [
        text.index(word) for word in ("best on validation data", "mean of all points", "mean of the corners", "oracle")
    ]
    assert at == sorted(at)
    assert "the best on test data, not a result" in text
    row = run("show", "s", "--table", "--json").row
    assert row == graph.connection("s").table()
    cells = list(csv.DictReader(io.StringIO(run("show", "s", "--table", "--csv").stdout)))
    assert list(cells[0]) == ["quantity", "statistic", "value", "standard_error"]
    assert [c["statistic"] for c in cells] == ["min", "int", "max"] * 3 + ["best", "mean", "corners", "oracle"]
    assert float(cells[0]["value"]) == row["rows"][0]["min"]
    cells = list(csv.DictReader(io.StringIO(run("show", "curve", "--table", "--csv").stdout)))
    assert (cells[-1]["quantity"], float(cells[-1]["value"])) == ("length ratio", ratio)


def test_only_connections_that_were_swept_have_tables(run: Any) -> None:
    assert "a is a mode, not a connection" in run("show", "a", "--table", code=2).stderr
    assert "mgraph sweep bare" in run("show", "bare", "--table", code=2).stderr
    assert "No node" in run("show", "nothing", "--table", code=2).stderr


REGRESSION = """
import torch
from torch import nn

def net():
    return nn.Linear(2, 1)

def mse(outputs, targets):
    return (outputs - targets).square().mean()

def data():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] - x[:, 1:]
    return {"train": (x, y), "valid": (x[:20], y[:20]), "test": (x[20:], y[20:]), "loss": mse}
"""


def test_a_task_without_accuracy_has_tables_of_losses(commands: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(REGRESSION)
    run = commands(tmp_path)
    run("init", "g.mgraph", "--arch", "own.py:net", "--data", "own.py:data")
    for seed in range(3):
        run("train", "--seed", seed, "--epochs", 1, "--name", "abc"[seed])
    run("connect", *"abc", "--simplex", "--name", "tri", "--grid", 4)
    row = run("show", "tri", "--table", "--json").row
    assert [r["quantity"] for r in row["rows"]] == ["train loss", "test loss"]
    models = row["models"]
    assert models["quantity"] == "test loss"
    assert models["oracle"]["value"] <= models["best"]["value"] <= models["mean"]["value"]
    assert {models[m]["standard_error"] for m in ("best", "mean", "corners", "oracle")} == {None}
    assert "test loss" in run("show", "tri", "--table").stdout
