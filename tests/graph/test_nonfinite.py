"""What is not a number never passes: not as a control point, not as a loss, not as a metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import NonFiniteError
from mgraph.operations.sweeplog import SweepLog
from mgraph_store import Node

# The loss is finite at w = 1 and w = -1, and the root of a negative number between them.
OWN = """
import torch
from torch import nn

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.w

def net():
    return Scale()

def root(outputs, targets):
    return (outputs.abs() - 0.2).sqrt().mean()

def data():
    x, y = torch.ones(20, 1), torch.zeros(20, 1)
    return {"train": (x, y), "valid": (x, y), "test": (x, y), "loss": root}
"""


@pytest.fixture
def rooted(commands: Any, tmp_path: Path) -> Any:
    """A runner beside a graph with modes plus (w = 1) and minus (w = -1)."""
    (tmp_path / "own.py").write_text(OWN)
    run = commands(tmp_path)
    run("init", "g.mgraph", "--arch", "own.py:net", "--data", "own.py:data")
    for name, value in (("plus", 1.0), ("minus", -1.0), ("zero", 0.0)):
        torch.save({"w": torch.tensor([value])}, tmp_path / f"{name}.pt")
    for name in ("plus", "minus"):
        run("add-mode", f"{name}.pt", "--name", name)
    return run


def test_a_nan_on_the_way_fails_the_connection(rooted: Any) -> None:
    done = rooted("connect", "plus", "minus", "--linear", "--name", "line", "--grid", 5, code=2)
    assert done.stderr.count("\n") == 1
    assert "line: the train loss is nan at 0.5; it is marked failed and makes no edge." in done.stderr
    row = rooted("show", "line", "--json").row
    assert (row["status"], row["reason"]) == ("failed", "the train loss is nan at 0.5")
    assert {e["split"] for e in row["edges"]} == {"train", "valid", "test"}
    assert all(e["peak"] is None and e["barrier"] is None and e["drop"] is None for e in row["edges"])
    named = rooted("show", "line", "--json").document["non_finite"]
    assert "row.edges[0].peak" in named
    assert {s["value"] for s in row["summary"] if s["metric"] == "loss"} == {None}
    assert rooted("log", "--json").rows[-1]["status"] == "complete"  # the sweep did its work
    listed = rooted("ls", "--kind", "connection", "--json").document
    assert listed["rows"][0]["peak"] is None
    assert "rows[0].peak" in listed["non_finite"]
    for limit in ("--max-barrier", "--max-peak", "--max-drop"):
        found = rooted("components", limit, 1e9, "--metric", "loss", "--json").row
        assert [c["size"] for c in found["components"]] == [1, 1]
        assert found["edges"] == []


def test_a_sweep_that_fails_undoes_no_renaming(rooted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a connection that is renamed after the sweep has judged it, and before it is stored."""
    rooted("connect", "plus", "minus", "--linear", "--name", "line", "--grid", 3, "--no-sweep")
    original = SweepLog.finish

    def slow(log: SweepLog, *arguments: Any) -> Any:
        mgraph.open(tmp_path / "g.mgraph", trust=True).rename("line", "better")
        return original(log, *arguments)

    monkeypatch.setattr(SweepLog, "finish", slow)
    with pytest.raises(NonFiniteError, match="it is marked failed"):
        mgraph.open(tmp_path / "g.mgraph", trust=True).connection("line").sweep(grid=5)
    row = rooted("show", "better", "--json").row
    assert (row["name"], row["status"], row["reason"]) == ("better", "failed", "the train loss is nan at 0.5")


def test_a_failed_connection_stays_failed(rooted: Any, tmp_path: Path) -> None:
    import mgraph

    rooted("connect", "plus", "minus", "--linear", "--name", "line", "--grid", 3, code=2)
    rooted("sweep", "line", "--grid", 2)  # only the ends, which are finite
    rooted("sweep", "line", "--grid", 4)  # finer than the first, and it misses the middle
    found = rooted("components", "--max-barrier", 1e9, "--json").row
    assert [c["size"] for c in found["components"]] == [1, 1]
    nx_graph = mgraph.open(tmp_path / "g.mgraph").to_networkx()
    assert (nx_graph.number_of_nodes(), nx_graph.number_of_edges()) == (2, 0)
    rooted("sweep", "line", "--grid", 3, code=2)
    rooted("plot", "line", "-o", "line.png")  # what there is can be looked at


def test_a_failed_connection_is_sound_again_when_its_point_is_measured_anew(rooted: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    rooted("connect", "plus", "minus", "--linear", "--name", "line", "--grid", 3, code=2)
    done = rooted("sweep", "line", "--grid", 4)
    assert (
        "line: it stays marked failed (the train loss is nan at 0.5), because that point was not measured again"
        in done.stderr
    )
    # The same numbers, but for the root: as if what was wrong that day is right again.
    own.write_text(OWN.replace("(outputs.abs() - 0.2).sqrt()", "(outputs.abs() - 0.2).abs().sqrt()"))
    done = rooted("sweep", "line", "--grid", 3, "--trust")  # numbers of other code are not reused
    assert "line: it is no longer marked failed (the train loss is nan at 0.5): its train loss is finite" in done.stderr
    row = rooted("show", "line", "--json").row
    assert (row["status"], row["reason"]) == (
        "complete",
        "swept again, and its train loss is finite; before, it was marked failed: the train loss is nan at 0.5",
    )
    assert [r["target"] for r in rooted("neighbours", "plus", "--json").rows] == ["minus"]


def test_an_overflow_in_bf16_leaves_the_connection_alone(rooted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rooted("connect", "plus", "minus", "--linear", "--name", "line", "--grid", 2)
    done = rooted("sweep", "line", "--grid", 5, "--precision", "bf16", code=2)  # it has the point that is none
    assert "the train loss is nan at 0.5; in bf16 it makes no edge; measure it in fp32." in done.stderr
    assert rooted("show", "line", "--json").row["status"] == "complete"
    assert [r["precision"] for r in rooted("neighbours", "plus", "--json").rows] == ["fp32"]


def test_a_mode_without_a_finite_loss_is_not_stored(rooted: Any) -> None:
    done = rooted("add-mode", "zero.pt", "--name", "zero", code=2)
    assert "The mode has a train loss of nan; it was not stored." in done.stderr
    assert len(rooted("ls", "--json").rows) == 2
    assert rooted("log", "--json").rows[-1]["status"] == "failed"


def test_a_merged_point_without_a_finite_loss_is_not_stored(rooted: Any) -> None:
    rooted("connect", "plus", "minus", "--linear", "--name", "line", "--no-sweep")
    assert "train loss of nan" in rooted("merge", "line", "--at", 0.5, code=2).stderr
    assert rooted("ls", "--kind", "merged", "--json").rows == []
    assert rooted("merge", "line", "--at", 0, "--json").row["parameter"] == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_control_point_that_is_no_number_is_not_stored(
    graph: Any, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    import mgraph
    from mgraph.methods.base import Outcome

    original = mgraph.BezierCurve.run

    def spoiled(self: Any, *args: Any) -> Outcome:
        outcome = original(self, *args)
        outcome.control_points[1, 3] = bad
        return outcome

    monkeypatch.setattr(mgraph.BezierCurve, "run", spoiled)
    before = graph.nodes("control"), graph.connections()
    with pytest.raises(NonFiniteError, match="control point"):
        graph.connect("a", "b", method=mgraph.BezierCurve(epochs=1), name="bad")
    assert (graph.nodes("control"), graph.connections()) == before
    assert graph.runs()[-1]["status"] == "failed"


def test_the_store_itself_takes_no_nan(graph: Any) -> None:
    parameters = np.array(graph.session.store.read_parameters("a"))
    parameters[7] = np.nan
    with pytest.raises(NonFiniteError), graph.session.store.transaction() as tx:
        tx.write_parameters([parameters])
    with graph.session.store.reading() as reader:
        assert len(reader.all(Node, kind="mode")) == 4


@pytest.mark.stress
def test_json_of_a_failed_connection_is_strict(rooted: Any) -> None:
    rooted("connect", "plus", "minus", "--linear", "--name", "line", "--grid", 3, code=2)

    def refuse(text: str) -> None:
        raise AssertionError(text)

    json.loads(rooted("show", "line", "--json").stdout, parse_constant=refuse)
    json.loads(rooted("ls", "--json").stdout, parse_constant=refuse)
