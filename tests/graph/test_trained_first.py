"""What was trained is stored before anything is measured; what could not be measured can be measured later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph.data.task import DataWarning
from mgraph.operations.evaluating import OwnStatisticsWarning

OWN = """
from pathlib import Path
import torch
from torch import nn

class Scaled(nn.Module):
    # BatchNorm that hardly updates its statistics, on inputs that are far from what it starts with.
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(2, momentum=1e-9), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(self.norm(1000 * x + 5000))

def net():
    return nn.Linear(2, 2)

def data(metric="one"):
    x = torch.randn(1100, 2, generator=torch.Generator().manual_seed(0))
    part = lambda a, b: (x[a:b], (x[a:b, 0] > 0).long())
    return {"train": part(0, 1010), "valid": part(1010, 1050), "test": part(1050, 1100), "classes": 2,
            "metrics": {metric: globals()[metric]}}

def one(out, y):
    return float((out.argmax(1) == y).float().mean())

def each(out, y):
    return (out.argmax(1) == y).float()

def wide(out, y):
    return out

def nan(out, y):
    return float("nan")

def later(out, y):
    if Path("fail").exists() and len(y) > 8:  # not on the few examples that it is tried on
        raise ValueError("not today")
    return 1.0
"""


@pytest.fixture
def make(tmp_path: Path, commands: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    run = commands(tmp_path)

    def make(metric: str, net: str = "net", code: int = 0) -> Any:
        done = run(
            "init", f"{metric}.mgraph", "--arch", f"own.py:{net}", "--data", f"own.py:data?metric={metric}", code=code
        )
        return run, done

    return make


def test_a_metric_of_the_data_may_be_one_number_of_the_whole_split(make: Any) -> None:
    run, _ = make("one")
    run("train", "--epochs", 1, "--name", "a")
    g = mgraph.open("one.mgraph")
    measured = g.node("a").evaluate("train")["one"]
    assert (measured.count, measured.standard_error) == (1010, None)
    with pytest.warns(DataWarning, match="It is unknown whether more or less of the metric each is better"):
        each = mgraph.create("each.mgraph", arch="own.py:net", data="own.py:data?metric=each")
    each.train(epochs=1, name="a")
    per_example = each.node("a").evaluate("train")["each"]
    assert measured.value == pytest.approx(per_example.value)  # over both batches
    assert per_example.standard_error > 0


def test_a_metric_that_is_none_is_refused_at_init(make: Any) -> None:
    _, done = make("wide", code=2)
    assert "The metric wide returned torch.float32 of shape [8, 2] for 8 examples; it must return" in done.stderr
    assert not Path("wide.mgraph").exists()


def test_a_mode_that_cannot_be_measured_is_stored(make: Any, tmp_path: Path) -> None:
    run, _ = make("later")
    (tmp_path / "fail").touch()
    done = run("train", "--epochs", 1, "--name", "a", code=2)
    assert done.stderr.endswith(
        "It could not be measured: The metric later failed: ValueError: not today. a is stored; measure it with: "
        "mgraph evaluate a\n"
    )
    assert [row["train_loss"] for row in run("ls", "--json").rows] == [None]
    assert run("evaluate", "a", code=2).stderr.count("a is stored") == 1
    (tmp_path / "fail").unlink()
    (row,) = run("evaluate", "a", "--json").rows
    assert row["test_later"] == 1.0
    (listed,) = run("ls", "--json").rows
    assert listed["train_loss"] == row["train_loss"]
    before = run("show", "a", "--json").row["evaluations"]
    run("evaluate", "a")  # once more: what is there stays, and nothing is there twice
    assert run("show", "a", "--json").row["evaluations"] == before


def test_a_metric_that_is_no_number_spoils_only_itself(make: Any) -> None:
    run, _ = make("nan")
    for seed, name in enumerate("ab"):
        run("train", "--epochs", 1, "--seed", seed, "--name", name)
    done = run("connect", "a", "b", "--linear", "--grid", 3, "--name", "line")
    assert (
        done.stderr.count("line: the train nan is nan at 0, the valid nan is nan at 0, the test nan is nan at 0;") == 1
    )
    assert [row["source"] for row in run("neighbours", "a", "--json").rows] == ["a"]


def test_statistics_that_do_not_fit_the_weights_are_said(make: Any) -> None:
    run, _ = make("each", net="Scaled")
    done = run("train", "--epochs", 3, "--name", "a")
    assert "with its own BatchNorm statistics, and of" in done.stderr
    with pytest.warns(OwnStatisticsWarning, match="a has a train loss of .* its own do not fit"):
        mgraph.open("each.mgraph").node("a").measure()
