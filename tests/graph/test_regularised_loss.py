"""The L2-regularised loss of Garipov et al., table 2: a metric of the point, wherever metrics are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mgraph.errors import InputError


def squared_norm(point: Any) -> float:
    return float(sum((tensor.astype(np.float64) ** 2).sum() for tensor in point.tensors().values()))


@pytest.mark.parametrize("decay", [5e-4, 0.01, 0.0])
def test_it_is_the_loss_and_half_the_decay_times_the_squared_norm(graph: Any, decay: float) -> None:
    a = graph.node("a")
    found = a.evaluate("train", metrics=[f"l2loss?decay={decay}"])
    name = "l2loss" if decay == 5e-4 else f"l2loss-{decay:g}"
    assert found[name].value == pytest.approx(found["loss"].value + decay / 2 * squared_norm(a), rel=1e-6)
    assert (found[name].standard_error, found[name].count) == (found["loss"].standard_error, found["loss"].count)


def test_a_sweep_has_it_at_every_point_with_edges(graph: Any) -> None:
    curve = graph.connection("curve")
    swept = curve.sweep(grid=3, metrics=["l2loss", "l2loss?decay=0.01"])
    nodes = [graph.node(i) for i in swept.node_ids]
    added = swept.values["test", "l2loss-0.01"] - swept.values["test", "loss"]
    assert added == pytest.approx([0.005 * squared_norm(node) for node in nodes], rel=1e-5)
    assert (swept.values["train", "l2loss"] > swept.values["train", "loss"]).all()
    edges = {e["metric"]: e["peak"] for e in curve.describe(swept.sweep)["edges"] if e["split"] == "train"}
    assert edges["l2loss"] == pytest.approx(swept.values["train", "l2loss"].max())
    again = curve.sweep(grid=3, metrics=["l2loss", "l2loss?decay=0.01"])
    assert "3 of 3 points were measured before" in " ".join(again.notes)


def test_the_command_names_it(graph: Any, run: Any) -> None:
    (row,) = run("evaluate", "a", "--metric", "l2loss?decay=0.002", "--split", "test", "--save", "--json").rows
    assert row["test_l2loss-0.002"] == pytest.approx(row["test_loss"] + 0.001 * squared_norm(graph.node("a")), rel=1e-6)
    assert run("ls", "--where", "name = 'a'", "--json").rows[0]["test_l2loss-0.002"] == row["test_l2loss-0.002"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("l2loss?decy=1", r"l2loss has no parameter 'decy'; did you mean 'decay'\?"),
        ("l2loss?decay=-1", "at least 0, not -1"),
        ("l2loss?decay=much", "at least 0, not 'much'"),
        ("l2los", r"did you mean 'l2loss'\?"),
    ],
)
def test_what_is_no_decay_is_refused(graph: Any, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph.node("a").evaluate(metrics=[spec])
