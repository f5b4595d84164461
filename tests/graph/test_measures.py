"""Measures of the graph's points: computed from what is stored, stored with the point, and told by show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, LayoutMismatchError, NonFiniteError
from mgraph_store import Measure, Run


def test_points_of_every_kind_are_compared_as_they_are(graph: Any) -> None:
    sample = graph.connection("line").swept().node_ids[2]  # derived: halfway between a and b
    found = graph.compare("a", "b", sample)
    assert [(p.source, p.target) for p in found.pairs] == [("a", "b"), ("a", sample), ("b", sample)]
    a, b, middle = (graph.node(n).tensors() for n in ("a", "b", sample))
    for pair, (left, right) in zip(found.pairs, ((a, b), (a, middle), (b, middle)), strict=True):
        for t in pair.similarity.tensors:
            x, y = left[t.name].ravel().astype(float), right[t.name].ravel().astype(float)
            assert t.distance == pytest.approx(np.linalg.norm(x - y), rel=1e-9)
            assert t.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-9)
            assert t.variances == pytest.approx((x.var(), y.var()), rel=1e-9)
    assert [p.similarity.same_run for p in found.pairs] == [False, True, True]
    first, second, _ = found.describe()
    assert first["verdict"].startswith("a and b look like independent runs: the median cosine of 4 weight tensors is ")
    assert second["verdict"].startswith(f"a and {sample} look like the same run: ")
    assert "misleads" in first["whole"]["note"]
    rows = found.rows()
    assert len(rows) == 3 * (len(first["layers"]) + 1)
    assert {row["layer"] for row in rows if row["source"] == "a"} == {
        *(r["layer"] for r in first["layers"]),
        "(all)",
    }


def test_a_copy_is_identical(graph: Any, tmp_path: Any) -> None:
    graph.node("a").export(tmp_path / "a.pt")
    with pytest.warns(Warning, match="same checkpoint twice"):
        copy = graph.add_mode(tmp_path / "a.pt", name="copy")
    pair = graph.compare("a", copy).pairs[0]
    assert pair.identical
    assert pair.verdict == "a and copy have exactly the same parameters"
    assert pair.describe()["same_run"]


def test_what_cannot_be_compared(graph: Any) -> None:
    graph.add_space("mlp?hidden=4", "digits", name="mlp")
    z = graph.train(seed=0, epochs=1, space="mlp", name="z")
    with pytest.raises(
        LayoutMismatchError, match=r"a \(space .*\) and z \(space mlp\) have different networks: 0.weight"
    ):
        graph.compare("a", z)
    with pytest.raises(InputError, match="at least 2 points; 1 given"):
        graph.compare("a")
    with pytest.raises(InputError, match="a is given twice"):
        graph.compare("a", "b", "a")
    with pytest.raises(InputError, match="line is a connection, not a node"):
        graph.compare("a", "line")


def test_points_of_one_network_on_other_data_are_compared(graph: Any, tmp_path: Any) -> None:
    with np.load(mgraph.__path__[0] + "/data/digits.npz") as digits:
        x, y = digits["images"], digits["labels"]
    np.savez(tmp_path / "half.npz", x_train=x[:300, None], y_train=y[:300], x_test=x[300:400, None], y_test=y[300:400])
    arch = graph.spaces()[0]["arch"]
    graph.add_space(arch, f"npz:{tmp_path / 'half.npz'}", name="half")
    z = graph.train(seed=0, epochs=1, space="half", name="z")
    assert len(graph.compare("a", z).pairs[0].similarity.tensors) == 12


SETTINGS = {"directions": 2, "radii": (0.01, 0.1), "examples": 200}


def test_sharpness_is_stored_and_told(graph: Any) -> None:
    a = graph.node("a")
    found = a.sharpness(mgraph.SharpnessSettings(**SETTINGS), seed=5)
    assert (found.examples, found.head, found.split) == (200, "11", "train")
    assert found.batchnorm.startswith("recompute(examples=1077")
    with graph.session.store.reading() as reader:
        rows = reader.all(Measure, node_id=a.id)
        run = reader.get(Run, id=rows[0].run_id)
    assert {r.run_id for r in rows} == {run.id}
    assert (run.command, run.seed, run.status) == ("sharpness", 5, "complete")
    stored = {(r.quantity, r.radius, r.statistic): r for r in rows}
    assert len(stored) == len(rows) == 2 + 2 * 3
    for i, radius in enumerate(found.profile.radii):
        for statistic, values in (("mean", found.profile.mean), ("std", found.profile.std), ("max", found.profile.max)):
            row = stored["sharpness", radius, statistic]
            assert (row.value, row.samples, row.examples) == (values[i], 2, 200)
            assert row.subset == found.subset != "all"
    assert stored["relative_flatness", None, "mean"].value == found.flatness.value > 0
    assert stored["relative_flatness", None, "mean"].standard_error == found.flatness.standard_error
    assert stored["loss", None, "mean"].value == found.profile.loss
    told = a.describe()["measures"]
    assert [m["value"] for m in told] == [r.value for r in rows]
    # Measuring again adds to what is there.
    a.sharpness(**SETTINGS, seed=5)
    again = a.describe()["measures"]
    assert [m["value"] for m in again] == [m["value"] for m in told] * 2
    assert len({m["run_id"] for m in again}) == 2


def test_sharpness_of_a_sample_and_of_other_splits(graph: Any) -> None:
    sample = graph.node(graph.connection("curve").swept().node_ids[1])
    found = sample.sharpness(directions=1, radii=(0.05,), split="test", examples=None, what="profile")
    assert (found.flatness, found.examples, found.subset) == (None, 360, "all")
    loss = graph.connection("curve").swept().values["test", "loss"][1]
    assert found.profile.loss == pytest.approx(loss, rel=1e-5)
    assert found.describe()["profile"] == [
        {"radius": 0.05, "mean": found.profile.changes[0, 0], "std": None, "max": found.profile.changes[0, 0]}
    ]


def test_flatness_alone(graph: Any) -> None:
    found = graph.node("b").sharpness(what="flatness")
    assert found.profile is None
    assert found.flatness.count == 1077
    assert [m["quantity"] for m in graph.node("b").describe()["measures"]] == ["relative_flatness"]
    with pytest.raises(InputError, match="b was measured without a profile"):
        found.plot("x.png")


OWN = """
import numpy as np
from torch import nn
from torch.nn import functional as F

def network():
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))

def data():
    x = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
    y = x.sum(1, keepdims=True)
    return {"train": (x[:40], y[:40]), "valid": (x[40:50], y[40:50]), "test": (x[50:], y[50:]), "loss": F.mse_loss}
"""


def test_a_task_without_classes_has_a_profile_and_no_flatness(tmp_path: Any, snapshot: Any) -> None:
    (tmp_path / "own.py").write_text(OWN)
    file = tmp_path / "own.py"
    g = mgraph.create(tmp_path / "g.mgraph", arch=f"{file}:network", data=f"{file}:data", device="cpu")
    a = g.train(epochs=1, name="a")
    found = a.sharpness(directions=2)
    assert found.flatness is None
    (why,) = found.notes
    assert why == (
        "Relative flatness is that of a linear layer under mean cross-entropy, and the task's loss is mse_loss."
    )
    before = snapshot(g.path)
    for what in ("both", "flatness"):
        with pytest.raises(
            InputError, match="the task's loss is mse_loss; measure the profile alone with what=profile"
        ):
            a.sharpness(what=what)
    assert snapshot(g.path) == before  # no run either


def test_nothing_is_stored_of_a_loss_that_is_no_number(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mgraph.evaluate import profile

    original, calls = profile.measure, []

    def measure(*args: Any, **options: Any) -> Any:
        found = original(*args, **options)
        calls.append(found)
        return found if len(calls) == 1 else {"loss": replace(found["loss"], value=float("nan"))}

    monkeypatch.setattr(profile, "measure", measure)
    with pytest.raises(NonFiniteError, match=r"The valid loss became NaN or infinite at radius 0\.1"):
        graph.node("a").sharpness(directions=1, radii=(0.1,), split="valid")
    assert graph.node("a").describe()["measures"] == []
    assert graph.runs()[-1]["status"] == "failed"
