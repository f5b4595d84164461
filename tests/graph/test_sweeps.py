"""Sweeps through the public API: every family, what is reused, what an interruption leaves, refinement."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, StoreError
from mgraph.evaluate.sweep import sweep
from mgraph.families import SimplexGrid, TensorGrid
from mgraph.session.recent import RecentPoints
from mgraph_store import Edge, Evaluation, GraphStore, Member, Node, Run, Summary, Sweep, Transaction, assert_consistent
from mgraph_store.underway import versions_of


def numbers(data: Any) -> dict[Any, list[float]]:
    return {key: values.tolist() for key, values in data.values.items()}


@pytest.fixture
def stop(reporter: Any) -> Any:
    """Sweep, and press Ctrl-C after some points."""

    def sweep(connected: Any, after: int, **options: Any) -> BaseException:
        with pytest.raises(KeyboardInterrupt) as stopped:
            connected.sweep(progress=reporter(after), **options)
        return stopped.value

    return sweep


# Every family


@pytest.mark.parametrize(
    ("name", "grid", "points", "kind"),
    [
        pytest.param("line", 4, 4, TensorGrid, marks=pytest.mark.stress),
        ("chain", 7, 7, TensorGrid),
        ("wall", (2, 3), 6, TensorGrid),
        pytest.param("tri", 4, 10, SimplexGrid, marks=pytest.mark.stress),
        ("tetra", 3, 10, SimplexGrid),
    ],
)
def test_every_family_is_swept_and_read_back(
    g: Any, name: str, grid: Any, points: int, kind: type[Any], tables: Any
) -> None:
    connected = g.connection(name)
    data = connected.sweep(grid, splits=("valid", "test"))
    again = connected.swept()
    assert numbers(again) == numbers(data)
    assert isinstance(again.grid, kind)
    assert len(again.grid) == len(again.parameters) == len(again.node_ids) == points
    assert [again.node_ids[i] for i in again.grid.ends] == [end.id for end in connected.ends]
    assert set(again.values) == {(s, m) for s in ("valid", "test") for m in ("loss", "accuracy")}
    if name == "chain":  # at a bend the point is the bend itself
        assert [g.node(again.node_ids[i]).kind for i in (2, 4)] == ["control", "control"]
    pairs = len(connected.ends) * (len(connected.ends) - 1) // 2
    oracles = 0 if pairs == 1 else 3  # all but the validation loss, which chooses the routes
    assert len(tables(g, Edge)["Edge"]) == pairs * (4 + oracles)
    assert connected.best().id == again.node_ids[again.best("valid")]
    assert 0 < connected.merge().results["test"]["accuracy"].value < 1
    assert_consistent(g.session.store)


def test_a_simplex_of_three_has_66_points_by_default(g: Any) -> None:
    data = g.connection("tri").sweep(splits=("valid",), examples=20)
    assert (data.parameters.shape, list(data.sweep.grid)) == ((66, 3), [11])
    assert g.connection("tri").ensemble(grid=3).members == 6
    assert "0.2,0.3,0.5" not in g.connection("tri").merge(at=(0.2, 0.3, 0.5), force=True).notes


@pytest.mark.parametrize("name", ["line", "wall", "tri"])
def test_integrals_are_under_both_measures(g: Any, name: str, tables: Any) -> None:
    data = g.connection(name).sweep(5, splits=("test",))
    values = data.values["test", "loss"]
    found = {s.statistic: s for s in tables(g, Summary)["Summary"] if s.metric == "loss"}
    assert set(found) == {"min", "max", "mean", "integral", "integral_uniform"}
    assert found["integral_uniform"].value == pytest.approx(data.grid.weights @ values)
    assert found["integral_uniform"].standard_error == pytest.approx(data.grid.weights @ data.errors["test", "loss"])
    assert found["max"].standard_error == data.errors["test", "loss"][values.argmax()]
    assert found["mean"].value == pytest.approx(values.mean())
    same = name != "wall"  # a segment and a flat simplex are measured evenly, a bilinear surface is not
    assert (found["integral"].value == pytest.approx(found["integral_uniform"].value)) is same
    assert values.min() < found["integral"].value < values.max()


@pytest.mark.stress  # a refined one is uneven
def test_an_uneven_grid_is_kept_and_drawn(g: Any, tmp_path: Path) -> None:
    axes = (np.array([0.0, 0.1, 0.5, 1.0]), np.array([0.0, 0.7, 1.0]))
    for name, some in (("line", axes[:1]), ("wall", axes)):
        connected = g.connection(name)
        connected.sweep(TensorGrid(some), splits=("train",), examples=50)
        data = connected.swept()
        assert [a.tolist() for a in data.grid.axes] == [a.tolist() for a in some]
        assert connected.describe()["sweeps"][0]["axes"] == [a.tolist() for a in some]
        assert list(data.sweep.grid) == [len(a) for a in some]
        assert connected.plot(tmp_path / f"{name}.png").stat().st_size > 5000
    with pytest.raises(InputError):
        g.connection("tri").sweep(TensorGrid(axes))


# Reuse


def test_a_finer_grid_reuses_the_coarser_ones_points(g: Any, beside: Any, tables: Any, reporter: Any) -> None:
    line = g.connection("line")
    coarse = line.sweep(4)
    progress = reporter()
    fine = line.sweep(10, progress=progress)  # 1/3 and 3/9 differ in their last bits
    assert [(p.phase, p.done, p.total) for p in progress.seen] == [("sweep", i, 6) for i in range(1, 7)]
    assert fine.notes == ("4 of 10 points were measured before and are reused.",)
    assert fine.values["test", "loss"][::3].tolist() == coarse.values["test", "loss"].tolist()
    assert fine.node_ids[::3] == coarse.node_ids
    found = tables(g, Evaluation, Member)
    assert len([m for m in found["Member"] if m.role == "sample" and m.connection_id == line.id]) == 10
    assert len([e for e in found["Evaluation"] if e.sweep_id == fine.sweep.id]) == 10 * 6
    anew = line.sweep(10, reuse=False, progress=(progress := reporter()))
    assert (len(progress.seen), anew.notes, numbers(anew)) == (10, (), numbers(fine))
    assert "10 of 10 points were measured before" in beside("sweep", "line", "--grid", 10).stderr
    assert beside("sweep", "line", "--grid", 10, "--no-reuse").stderr == ""


def test_what_was_measured_under_other_conditions_is_not_reused(g: Any, tables: Any, reporter: Any) -> None:
    line = g.connection("line")
    line.sweep(3, splits=("valid",), examples=50)

    def measured(**options: Any) -> int:
        line.sweep(3, progress=(progress := reporter()), **{"splits": ("valid",), "examples": 50} | options)
        return len(progress.seen)

    assert measured() == 0
    assert measured(examples=60) == measured(bn_examples=100) == measured(precision="bf16") == 3
    assert measured(splits=("valid", "test")) == 3
    assert measured(splits=("test",)) == 0
    assert measured(metrics=["top3"]) == 3
    assert measured(metrics=["top3"]) == 0
    # Another split more: only that one is measured, the numbers of the others are taken over with their run.
    runs = {(e.split, e.run_id) for e in tables(g, Evaluation)["Evaluation"] if e.sweep_id and e.split == "test"}
    assert len(runs) == 1
    # A mode's own numbers, with its own statistics, are no sweep's.
    assert len(line.sweep(2, splits=("train",), progress=reporter()).notes) == 0


# Interruption


@pytest.mark.parametrize("seconds", [0.0, pytest.param(5.0, marks=pytest.mark.stress)])
def test_an_interrupted_sweep_goes_on_and_ends_with_the_same_numbers(
    g: Any, beside: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, tables: Any, reporter: Any, stop: Any
) -> None:
    monkeypatch.setattr("mgraph.operations.sweeplog.FLUSH_SECONDS", seconds)
    tri = g.connection("tri")
    stopped = stop(tri, 7, grid=5)
    assert stopped.__notes__ == ["7 points are measured and stored; the same sweep continues from there."]
    # Stored, but not yet a sweep for those who read.
    found = tables(g, Sweep, Evaluation, Edge, Summary, Run)
    (partial,) = found["Sweep"]
    assert (partial.status, found["Edge"], found["Summary"]) == ("partial", [], [])
    assert len([e for e in found["Evaluation"] if e.sweep_id == partial.id]) == 7 * 6
    assert found["Run"][-1].status == "interrupted"
    with pytest.raises(InputError, match="mgraph sweep tri"):
        tri.swept()
    assert tri.describe()["sweeps"] == []
    assert beside("show", "tri", "--table", code=2).stderr == (
        "Error: tri has not been swept yet; run: mgraph sweep tri\n"
    )
    assert_consistent(g.session.store)
    stop(tri, 5, grid=5)  # and again
    data = tri.sweep(5, progress=(progress := reporter()))
    assert [(p.done, p.total) for p in progress.seen] == [(1, 3), (2, 3), (3, 3)]
    assert data.notes == ("12 of 15 points were measured before and are reused.",)
    assert data.sweep.id == partial.id
    found = tables(g, Sweep, Evaluation, Edge, Run)
    (complete,) = found["Sweep"]
    assert (complete.status, complete.run_id) == ("complete", found["Run"][-1].id)
    assert complete.created > partial.created
    assert len([e for e in found["Evaluation"] if e.sweep_id == partial.id]) == 15 * 6
    assert len(found["Edge"]) == 3 * (6 + 5)  # with the oracles, of all but the train loss
    edges = [replace(e, sweep_id="", route=[]) for e in found["Edge"]]
    whole = tri.sweep(5, reuse=False)
    assert numbers(whole) == numbers(data)
    assert [replace(e, sweep_id="", route=[]) for e in tables(g, Edge)["Edge"][33:]] == edges
    assert_consistent(g.session.store)


def count_commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    commits: list[int] = []
    commit = Transaction.commit

    def counted(self: Transaction) -> None:
        commit(self)
        commits.append(1)

    monkeypatch.setattr(Transaction, "commit", counted)
    return commits


def test_batches_are_as_rare_as_wished(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = count_commits(monkeypatch)
    g.connection("line").sweep(6)
    assert len(commits) == 2  # the run's beginning, and everything else
    clock = iter(range(1000))
    monkeypatch.setattr("mgraph.operations.sweeplog.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr("mgraph.operations.sweeplog.FLUSH_SECONDS", 3.0)
    commits.clear()
    g.connection("chain").sweep(10)
    # Every third look at the clock is late enough, and a commit looks once more.
    assert len(commits) == 2 + 3


def test_an_interrupted_sweep_is_adopted_only_by_its_like(g: Any, tables: Any, stop: Any) -> None:
    line = g.connection("line")
    stop(line, 3, grid=5, examples=50)
    (partial,) = tables(g, Sweep)["Sweep"]
    others: list[dict[str, Any]] = [{"bn_examples": 90}, {"precision": "bf16"}, {"splits": ("train",)}, {"grid": 9}]
    for options, reused in zip(others, ((), (), ("3 of 5",), ("3 of 9",)), strict=True):
        data = line.sweep(**{"grid": 5, "examples": 50} | options)
        assert data.sweep.id != partial.id
        assert data.notes == tuple(f"{r} points were measured before and are reused." for r in reused)
    anew = stop(line, 3, grid=4, examples=50, reuse=False)
    assert anew.__notes__ == ["3 points are measured and stored."]
    assert line.sweep(5, examples=50, reuse=False).sweep.id != partial.id
    assert line.sweep(5, examples=50).sweep.id == partial.id
    assert line.swept().sweep.grid == (9,)  # the finest counts, whichever was completed last


@pytest.mark.parametrize(
    ("host", "pid", "adopted"), [(None, None, False), (None, 2**22 + 1, True), ("elsewhere", 2**22 + 1, False)]
)
def test_a_sweep_that_may_still_run_is_left_alone(
    g: Any, host: str | None, pid: int | None, adopted: bool, tables: Any, reporter: Any, stop: Any
) -> None:
    line = g.connection("line")
    stop(line, 2, grid=4)
    found = tables(g, Sweep, Run)
    (partial,) = found["Sweep"]
    last = found["Run"][-1]
    with g.session.store.transaction() as tx:  # as a run under way, or one that was killed, leaves it
        marks = {} if host is None else {"versions": json.dumps(versions_of(last))}  # nothing says on which machine
        running = replace(last, status="running", host=host or last.host, pid=pid or os.getpid(), ended=None, **marks)
        tx.update(running)
    data = line.sweep(4, progress=(progress := reporter()))
    assert (data.sweep.id == partial.id) is adopted
    assert len(progress.seen) == 2  # its numbers are good in either case
    statuses = sorted(s.status for s in tables(g, Sweep)["Sweep"])
    assert statuses == (["complete"] if adopted else ["complete", "partial"])


def test_an_error_keeps_what_was_measured_before_it(g: Any, monkeypatch: pytest.MonkeyPatch, reporter: Any) -> None:
    line = g.connection("line")
    with pytest.raises(ZeroDivisionError) as failed:
        line.sweep(6, progress=reporter(4, ZeroDivisionError))
    assert failed.value.__notes__ == ["4 points are measured and stored; the same sweep continues from there."]
    assert g.runs()[-1]["status"] == "failed"
    # The last commit fails: the points that waited for it are tried once more, on their own.
    monkeypatch.setattr(
        "mgraph.operations.sweeplog.SweepLog.finish", lambda *_: (_ for _ in ()).throw(StoreError("full"))
    )
    with pytest.raises(StoreError, match="full"):
        line.sweep(6)
    monkeypatch.undo()
    assert line.sweep(6, progress=(progress := reporter())).notes[0].startswith("6 of 6")
    assert progress.seen == []


def test_an_interruption_right_after_the_last_commit_changes_nothing(
    g: Any, monkeypatch: pytest.MonkeyPatch, tables: Any, stop: Any
) -> None:
    monkeypatch.setattr("mgraph.operations.sweeplog.FLUSH_SECONDS", 0.0)
    commit = Transaction.commit
    left = 2 + 3

    def late(self: Transaction) -> None:
        nonlocal left
        commit(self)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Transaction, "commit", late)
    stop(g.connection("line"), 99, grid=3)
    monkeypatch.undo()
    (record,) = tables(g, Sweep)["Sweep"]
    assert record.status == "complete"
    assert len(g.connection("line").swept().values["test", "loss"]) == 3
    assert_consistent(g.session.store)


def test_ctrl_c_on_the_command_line_says_what_is_kept_and_how_to_go_on(
    g: Any, beside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*args: Any, **options: Any) -> Iterator[Any]:
        yield from islice(sweep(*args, **options), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("mgraph.operations.sweeps.sweep", pressed)
    args = ["sweep", "line", "--grid", "5", "--splits", "train,test"]
    said = "Interrupted. 2 points are measured and stored; the same sweep continues from there. Continue with:"
    assert beside(*args, code=130).stderr.strip() == f"{said} mgraph resume {g.runs()[-1]['id']}"
    # What connect sweeps is kept as well, and its connection with it; programs are told in one document.
    new = ["connect", "a", "c", "--linear", "--name", "new", "--grid", "5", "--json"]
    told = json.loads(beside(*new, code=130).stderr)["error"]
    assert told == {"kind": "interrupted", "message": f"{said} mgraph resume {g.runs()[-1]['id']}"}
    monkeypatch.undo()
    notes = beside(*args).stderr.splitlines()
    assert notes[0] == "Note: 2 of 5 points were measured before and are reused."
    assert beside("resume", "new", "--json").row["sweeps"][0]["grid"] == [5]
    assert [(r["command"], r["status"], r["resumed"]) for r in g.runs()[-1:]] == [("sweep", "complete", 0)]


def test_an_error_of_a_sweep_says_what_is_kept(g: Any, beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> Iterator[Any]:
        yield from islice(sweep(*args, **options), 1)
        raise error

    monkeypatch.setattr("mgraph.operations.sweeps.sweep", broken)
    error: Exception = StoreError("The disk is full.")
    said = beside("sweep", "line", "--grid", 5, code=1).stderr
    assert said == "Error: The disk is full. 1 point is measured and stored; the same sweep continues from there.\n"
    error = ZeroDivisionError("by zero")
    said = beside("sweep", "chain", "--grid", 5, "--no-reuse", code=1).stderr
    assert said.endswith(
        "ZeroDivisionError: by zero (mgraph --traceback … shows where) 1 point is measured and stored.\n"
    )


def test_nodes_of_a_stopped_sweep_are_only_those_it_measured(g: Any, tables: Any, stop: Any) -> None:
    stop(g.connection("wall"), 4, grid=3)
    assert len([n for n in tables(g, Node)["Node"] if n.kind == "sample"]) == 2  # the others are corners


# Refinement


def test_a_sweep_is_refined_until_it_interpolates_well(g: Any, beside: Any, tables: Any) -> None:
    line = g.connection("line")
    data = line.sweep(5, refine=0.02, splits=("train",))
    (reached,) = [s for s in tables(g, Summary)["Summary"] if s.statistic == "interpolation_error"]
    assert (reached.split, reached.metric) == ("train", "loss")
    assert 0 < reached.value <= 0.02
    assert "within the bound 0.02" in data.notes[0]
    assert 5 < len(data.grid) == len(line.swept().grid) < 65
    dense = line.sweep(257, splits=("train",))
    shown = np.interp(dense.parameters[:, 0], data.parameters[:, 0], data.values["train", "loss"])
    assert np.abs(shown - dense.values["train", "loss"]).max() < 0.02 * 2
    options = ("--refine", 0.001, "--refine-on", "test:accuracy", "--max-points", 12)
    done = beside("sweep", "chain", "--grid", 5, *options, "--json")
    assert done.row["sweeps"][0]["grid"] == [12]
    assert "12 points, 7 of them by refinement: the interpolation error of the test accuracy is about" in done.stderr
    assert "still above the bound 0.001; a finer grid would have more than --max-points 12." in done.stderr


@pytest.mark.parametrize(("name", "bound"), [("wall", 0.4), pytest.param("tri", 0.2, marks=pytest.mark.stress)])
def test_surfaces_and_simplices_are_refined_too(g: Any, tmp_path: Path, name: str, bound: float, reporter: Any) -> None:
    connected = g.connection(name)
    progress = reporter()
    data = connected.sweep(3, refine=bound, splits=("train",), max_points=150, progress=progress)
    assert "within the bound" in data.notes[0]
    assert "refinement 1" in {p.phase for p in progress.seen}
    assert len(progress.seen) == len(data.grid)  # nothing twice
    assert numbers(connected.swept()) == numbers(data)
    connected.plot(tmp_path / "x.png")


@pytest.mark.stress  # so does one that test_resume resumes in every run
def test_an_interrupted_refinement_goes_on(
    g: Any, monkeypatch: pytest.MonkeyPatch, tables: Any, reporter: Any, stop: Any
) -> None:
    monkeypatch.setattr("mgraph.operations.sweeplog.FLUSH_SECONDS", 0.0)
    line, options = g.connection("line"), {"grid": 5, "refine": 0.003, "splits": ("train",)}
    stop(line, 9, **options)
    (partial,) = tables(g, Sweep)["Sweep"]
    data = line.sweep(**options, progress=(progress := reporter()))
    assert data.sweep.id == partial.id
    assert len(progress.seen) == len(data.grid) - 9
    whole = line.sweep(**options, reuse=False)
    assert (whole.parameters.tolist(), numbers(whole)) == (data.parameters.tolist(), numbers(data))


# What was written a moment ago


def test_a_sweep_does_not_read_what_the_connection_has_just_written(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [], GraphStore.read_parameters
    monkeypatch.setattr(
        GraphStore, "read_parameters", lambda store, node: read.append(node.id) or original(store, node)
    )
    curve = g.connect("a", "b", method=mgraph.METHODS["curve"](epochs=1), grid=4, name="curve")
    assert sorted(read) == sorted(g.node(name).id for name in "ab")  # once each, and no control point
    again = mgraph.open(g.path, device="cpu").connection("curve").sweep(4, reuse=False)
    assert len(read) > 2
    assert numbers(again) == numbers(curve.swept())


def test_points_are_kept_within_a_bound() -> None:
    class Store:
        def read_parameters(self, node: Any) -> np.ndarray:
            read.append(node.id)
            return np.full(4, ord(node.id), np.float32)

    class Named:
        def __init__(self, id: str) -> None:
            self.id = id

    read: list[str] = []
    points: Any = RecentPoints(Store(), most=32)  # two of them
    for name in "abab":
        assert points.read(Named(name))[0] == ord(name)
    assert read == ["a", "b"]
    points.keep("c", np.full(4, ord("c"), np.float32))  # instead of a, which was used before b
    assert points.read(Named("c"))[0] == ord("c")
    points.read(Named("b"))
    points.read(Named("a"))
    assert read == ["a", "b", "a"]
    with pytest.raises(ValueError, match="read-only"):
        points.read(Named("a"))[0] = 0.0
