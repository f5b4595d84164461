"""What makes measuring cheap: how a connection's sweep is bounded, and what it costs said before."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import mgraph
from mgraph.errors import InputError, MGraphError
from mgraph.operations.sweepcost import Cost, examples_of_policy, seconds_each


def confidence(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    del targets
    return outputs.softmax(1).amax(1)


def test_a_connection_is_swept_as_it_says(g: Any) -> None:
    made = g.connect(
        "a",
        "b",
        method=mgraph.Linear(),
        grid=3,
        splits=("train", "test"),
        examples=30,
        bn_examples=64,
        metrics=["ece", confidence],
    )
    swept = made.swept()
    assert {split for split, _ in swept.values} == {"train", "test"}
    assert {metric for _, metric in swept.values} == {"loss", "accuracy", "ece", "confidence"}
    assert set(swept.counts.values()) == {30}
    assert swept.sweep.batchnorm.startswith("recompute(examples=64")
    again = made.sweep(grid=3, splits=("train", "test"), examples=30, bn_examples=64, metrics=["ece"])
    assert again.values["test", "ece"].tolist() == swept.values["test", "ece"].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ("tran",)}, r"no split 'tran'; did you mean 'train'\?"),
        ({"examples": 0}, "at least 1 example"),
        ({"bn_examples": 1}, "at least 2 examples"),
        ({"metrics": ["eec"]}, r"no metric 'eec'; did you mean 'ece'\?"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_the_training(g: Any, options: dict[str, Any], message: str) -> None:
    before = len(g.runs())
    with pytest.raises(InputError, match=message):
        g.connect("a", "b", method=mgraph.BezierCurve(epochs=1), **options)
    assert len(g.runs()) == before


def test_the_job_says_so_too() -> None:
    sweep = mgraph.Following(grid=(3,), splits=("valid",), examples=9, bn_examples=7, metrics=("ece", "own.py:f"))
    job = mgraph.ConnectJob(ends=("a", "b"), method=mgraph.Linear(), sweep=sweep)
    assert mgraph.read_job(job.to_json()) == job
    assert job.code == ("own.py:f",)
    from mgraph.jobs.registry import code_in

    assert code_in(json.loads(job.to_json())) == ("own.py:f",)
    own = mgraph.ConnectJob(ends=("a", "b"), method=mgraph.Linear(), sweep=mgraph.Following(metrics=(confidence,)))
    assert not own.can_be_written
    with pytest.raises(MGraphError, match="cannot be written down"):
        own.to_json()


def test_the_command_takes_it(beside: Any, g: Any) -> None:
    options = ("--grid", 3, "--examples", 30, "--splits", "train,valid", "--metric", "ece", "--metric", "top2")
    row = beside("connect", "a", "b", "--linear", *options, "--bn-examples", 64, "--name", "x", "--json").row
    found = g.connection("x").swept()
    assert {split for split, _ in found.values} == {"train", "valid"}
    assert {"ece", "top2"} < {metric for _, metric in found.values}
    assert {s["metric"] for s in row["summary"]} >= {"ece", "top2"}
    assert set(found.counts.values()) == {30}


def test_with_auto_a_metric_is_the_limit_s(beside: Any) -> None:
    done = beside("connect", "a", "b", "--auto", "--max-peak", 1, "--metric", "error", "--grid", 3, "--json")
    assert done.row["winner"]
    for option in (("--examples", 5), ("--bn-examples", 64), ("--splits", "train")):
        refused = beside("connect", "a", "c", "--auto", "--max-peak", 9, *option, code=2)
        assert f"{option[0]} is for one method" in refused.stderr
    twice = beside("connect", "a", "c", "--auto", "--max-peak", 9, "--metric", "loss", "--metric", "error", code=2)
    assert "give one" in twice.stderr


def test_a_large_sweep_says_first_what_it_costs(g: Any, beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line, notes = g.connection("line"), []

    def hear(progress: Any) -> None:
        if progress.note:
            notes.append((progress.note, progress.done))

    line.sweep(grid=2, examples=20, progress=hear)
    assert not notes  # small
    monkeypatch.setattr("mgraph.operations.sweepcost.LONG", 0.0)
    line.sweep(grid=4, progress=hear)
    ((told, done),) = notes
    assert done == 0
    batchnorm = examples_of_policy(line.swept().sweep.batchnorm)
    assert told.startswith(f"Sweep: 4 points × 1797 examples (and {batchnorm} for BatchNorm statistics): about ")
    assert "judging by the last sweep of this space" in told
    assert beside("sweep", "wall", "--grid", 2).stderr.count("Sweep: 4 points × 1797 examples") == 1


def test_what_it_costs_is_said_in_examples_where_nothing_tells_the_time() -> None:
    cost = Cost(121, 60_000, 2000)
    assert cost.passes == 121 * 62_000
    assert cost.said(None) is None
    assert Cost(1210, 60_000).said(None) == (
        "1210 points × 60000 examples: 72.6 million through the network; --examples takes fewer."
    )
    assert cost.said(1e-6) is None  # soon done, however many
    assert "about 2 h 5 m, judging" in str(cost.said(1e-3))


def test_the_time_is_that_of_the_last_sweep_that_measured(g: Any) -> None:
    space = g.session.space().id

    def each() -> float | None:
        with g.session.store.reading() as reader:
            return seconds_each(reader, space, "cpu")

    assert each() is None
    g.connection("line").sweep(grid=3)
    first = each()
    assert first is not None
    assert 0 < first < 1
    g.connection("line").sweep(grid=3)  # all reused: it tells nothing
    assert each() == first
    with g.session.store.reading() as reader:
        assert seconds_each(reader, space, "cuda:0") is None
