"""What a sweep measures: metrics by name, the user's own, subsets, precisions; and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mgraph.operations.sweeps import SweepWarning
from mgraph.query.sweepdata import load_sweep
from mgraph_store import Edge, Evaluation, Sweep


def test_metrics_are_stored_under_their_names(g: Any, beside: Any) -> None:
    directory = g.path.parent
    (directory / "own.py").write_text("def margin(outputs, targets):\n    return outputs.max(1).values\n")
    args = ("sweep", "line", "--grid", 3, "--metric", "top3", "--metric", "ece", "--metric", "own.py:margin", "--json")
    row = beside(*args).row
    names = {"loss", "accuracy", "top3", "ece", "margin"}
    assert {s["metric"] for s in row["summary"]} == names | {"geometry"}
    assert {e["metric"] for e in row["edges"]} == {
        "loss",
        "error",
        "top3",
        "ece",
    }  # of margin none, it has no direction
    data = g.connection("line").swept()
    assert {m for _, m in data.values} == names
    assert (data.values["test", "top3"] >= data.values["test", "accuracy"]).all()
    assert np.isnan(data.errors["test", "ece"]).all()
    assert (data.errors["test", "margin"] > 0).all()
    assert "3 of 3 points" in beside(*args).stderr
    # Changed code is another metric.
    (directory / "own.py").write_text("def margin(outputs, targets):\n    return 0.0\n")
    assert "points" not in (told := beside(*args).stderr)
    assert "it is not known whether higher or lower margin is better" in told
    assert g.connection("line").swept().values["test", "margin"].tolist() == [0.0] * 3


def test_a_metric_in_python_is_any_function(g: Any, reporter: Any) -> None:
    line = g.connection("line")

    def largest(outputs: Any, targets: Any) -> Any:
        return outputs.amax(1)

    assert ("test", "largest") in line.sweep(3, metrics=[largest, "brier"]).values
    line.sweep(3, metrics=[largest], progress=(progress := reporter()))
    assert len(progress.seen) == 3  # nothing says that it is the same function
    with pytest.warns(SweepWarning, match="line: the train broken is nan at 0, .*; only what is computed"):
        line.sweep(3, metrics=[_named("broken", lambda out, _: float("nan"))])
    row = g.connection("line").describe()  # nothing but that metric is touched
    assert row["status"] == "complete"
    assert all(np.isfinite(e["peak"]) for e in row["edges"])
    assert {s["metric"] for s in row["summary"] if np.isnan(s["value"])} == {"broken"}


def test_the_finest_sweep_is_shown_and_not_the_newest(g: Any, beside: Any) -> None:
    line = g.connection("line")
    fine = line.sweep(7)
    done = beside("sweep", "line", "--grid", 3, "--json")
    assert done.row["sweep"] != fine.sweep.id  # a sweep prints its own numbers
    assert {e["resolution"] for e in done.row["edges"]} == {3}
    assert f"there is a finer sweep, {fine.sweep.id} of 7 points: its edges count, not these" in done.stderr
    told = beside("sweep", "line", "--grid", 3).stdout
    named = re.search(r"^sweep   (w\w+) of 3 points; summary and edges are of this one$", told, re.MULTILINE)
    assert named is not None
    assert named[1] != fine.sweep.id
    assert line.swept().sweep.id == fine.sweep.id
    row = beside("show", "line", "--json").row
    assert (row["sweep"], {e["resolution"] for e in row["edges"]}) == (fine.sweep.id, {7})
    assert beside("show", "line", "--table", "--json").row["points"] == 7
    # What was measured on test data alone hides nothing, however fine it is.
    line.sweep(9, splits=("test",))
    assert line.swept().sweep.id == fine.sweep.id
    assert set(line.merge(at=0).results) == {"train", "valid", "test"}


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = name
    return function


def test_subsets_are_named_and_have_their_own_standard_errors(g: Any, tables: Any) -> None:
    data = g.connection("line").sweep(3, examples=100)
    assert set(data.counts.values()) == {100}
    rows = [e for e in tables(g, Evaluation)["Evaluation"] if e.sweep_id == data.sweep.id]
    names = {e.split: e.subset for e in rows}
    assert data.subsets == names
    assert all(len(name) == 16 for name in names.values())
    for e in rows:
        if e.metric == "accuracy":  # of a share: √(p (1 - p) / (n - 1))
            assert e.standard_error == pytest.approx((e.value * (1 - e.value) / 99) ** 0.5)
    whole = g.connection("line").sweep(3)
    assert set(whole.subsets.values()) == {"all"}
    difference = data.values["train", "loss"] - whole.values["train", "loss"]
    assert (np.abs(difference) < 4 * data.errors["train", "loss"]).all()


def test_precision_is_recorded_with_every_number(g: Any, beside: Any, tables: Any) -> None:
    full = g.connection("line").sweep(3)
    row = beside("sweep", "line", "--grid", 3, "--precision", "bf16", "--json").row
    assert [s["precision"] for s in row["sweeps"]] == ["fp32", "bf16"]
    assert g.connection("line").swept().sweep.precision == "fp32"  # of equally fine ones the full precision
    (stored,) = [s for s in tables(g, Sweep)["Sweep"] if s.id == row["sweep"]]
    with g.session.store.reading() as reader:
        half = load_sweep(reader, g.connection("line").record, stored)
    for rows in tables(g, Evaluation, Edge).values():
        assert {r.precision for r in rows if r.sweep_id == half.sweep.id} == {"bf16"}
    for key, values in half.values.items():
        assert not np.array_equal(values, full.values[key]) or key[1] == "accuracy"
        assert values == pytest.approx(full.values[key], rel=0.05, abs=0.02)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--precision", "fp8"], "The precision must be one of fp32, tf32, bf16"),
        (["--precision", "tf32"], "TF32 needs an NVIDIA GPU"),
        (["--metric", "f1"], "There is no metric 'f1'"),
        (["--metric", "top11"], "top11 needs at least 11 classes"),
        (["--metric", "none.py:f"], "none.py does not exist"),
        (["--refine", "0"], "positive number"),
        (["--refine", "0.1", "--refine-on", "test"], "a split and a metric"),
        (["--refine", "0.1", "--refine-on", "test ece"], "does not measure the metric ece"),
        (["--refine", "0.1", "--max-points", "20"], "61 points, more than the 20"),
        (["--max-points", "20"], "go with --refine"),
        (["--refine-on", "test loss"], "go with --refine"),
        (["--splits", ""], "There is no split ''"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(g: Any, beside: Any, args: list[str], message: str) -> None:
    before = len(g.runs())
    done = beside("sweep", "line", *args, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(g.runs()) == before
    assert beside("show", "line", "--json").row["sweeps"] == []
