"""Exploring: joins what it should, goes on where it stopped, and gives the same on every engine."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgraph.errors import InputError
from mgraph_store import Connection, Edge, Member, Node, Run, Sweep, assert_consistent, new_id

RAY = pytest.param(
    "ray:2",
    marks=[
        pytest.mark.stress,  # what Ray does with a dead worker is tested with the engines
        pytest.mark.skipif(
            importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'mgraph[ray]'"
        ),
        pytest.mark.filterwarnings("ignore"),
    ],
)
CURVE = {"epochs": 1, "lr": 0.05}


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of four modes and nothing else."""
    import mgraph

    path = tmp_path_factory.mktemp("explore") / "g.mgraph"
    g = mgraph.create(path, arch="mlp?bn=true&hidden=8,", data="digits", device="cpu")
    for seed, name in enumerate("abcd"):
        g.train(seed=seed, epochs=2, lr=0.1, name=name)
    return path


@pytest.fixture
def g(four: Path, tmp_path: Path) -> Any:
    import mgraph

    return mgraph.open(shutil.copytree(four, tmp_path / "explore" / "g.mgraph"), device="cpu")


def curve(**settings: Any) -> Any:
    import mgraph

    return mgraph.BezierCurve(**(CURVE | settings))


def described(g: Any) -> Any:
    """What the connections are, ids and times aside."""
    with g.session.store.reading() as reader:
        digests = {n.id: n.digest for n in reader.all(Node)}
        rows = []
        for c in reader.all(Connection):
            members = reader.all(Member, connection_id=c.id, role=["end", "control"])
            points = [(m.role, digests[m.node_id]) for m in members]
            edges = [(e.split, e.metric, e.peak, e.barrier) for e in reader.all(Edge, connection_id=c.id)]
            rows.append((points, sorted(edges), c.settings, c.status))
    return sorted(rows)


def pairs(g: Any) -> list[tuple[str, ...]]:
    return [tuple(sorted(row["ends"])) for row in g.connections()]


def test_it_joins_all_to_the_lowest_and_then_has_nothing_to_do(g: Any) -> None:
    (first,) = g.suggest(method=curve())
    assert first.step == "join"
    plan = g.plan(method=curve(), until="components(10) == 1")
    assert (plan.estimate, plan.seconds, plan.nbytes) == (None, None, None)
    told: list[Any] = []
    found = g.explore(method=curve(), until="components(10) == 1", grid=3, tell=told.append)
    assert (found.goal_met, found.connected, found.state) == (True, 3, "components(10) = 1")
    assert found.stopped == "the goal is met: components(10) == 1"
    assert told == found.done
    assert [d.suggestion.ends for d in found.done] == [s.ends for s in plan.suggestions]
    assert found.done[0].suggestion.ends == first.ends
    lowest = min(g.nodes("mode"), key=lambda row: row["train_loss"])["name"]
    assert all(lowest in ends for ends in pairs(g))
    edges = {row["id"]: row["barrier"] for row in g.connections()}
    assert [d.barrier for d in found.done] == [edges[d.connection.id] for d in found.done]
    again = g.explore(method=curve(), until="components(10) == 1")
    assert (again.done, again.goal_met) == ([], True)
    assert g.suggest(method=curve(), until="components(10) == 1") == []


@pytest.mark.stress  # the tests below stop for either reason, of fewer pairs
def test_it_stops_after_so_many_pairs_and_goes_on(g: Any) -> None:
    found = g.explore(method=curve(), max_pairs=2, grid=3)
    assert (found.connected, found.goal_met, found.stopped) == (2, None, "2 pairs were to be connected")
    g.explore(method=curve(), max_pairs=1, grid=3)
    assert len(set(pairs(g))) == 3
    found = g.explore(method=curve(), max_pairs=100, grid=3)
    assert (found.connected, found.stopped) == (3, "every pair has been tried")
    assert len(set(pairs(g))) == 6
    assert {d.suggestion.step for d in found.done} <= {"improve", "fill"}
    # What one method has connected is new to another one.
    assert g.suggest(method=__import__("mgraph").Linear())[0].step in ("improve", "fill")


def test_the_graph_is_read_once_for_each_pair_and_once_at_the_end(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mgraph.explore import exploring

    read: list[None] = []

    class Counted(exploring.PlannedGraph):
        def __init__(self, *given: Any, **more: Any) -> None:
            read.append(None)
            super().__init__(*given, **more)

    monkeypatch.setattr(exploring, "PlannedGraph", Counted)
    found = g.explore(method=curve(), until="components(0) == 1", max_pairs=2, grid=3)
    assert (found.connected, found.goal_met, len(read)) == (2, False, 3)


@pytest.mark.stress  # what an executor does is tested with the engines
def test_an_executor_gives_the_same(g: Any, four: Path, tmp_path: Path) -> None:
    import mgraph

    other = mgraph.open(shutil.copytree(four, tmp_path / "other.mgraph"), device="cpu")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        found = other.explore(method=curve(), max_pairs=1, grid=3, engine=mgraph.Pool(executor, places=1))
    here = g.explore(method=curve(), max_pairs=1, grid=3)
    assert [(d.suggestion.ends, d.peak, d.barrier) for d in found.done] == [
        (d.suggestion.ends, d.peak, d.barrier) for d in here.done
    ]
    assert found.connected == 1


def test_a_plan_costs_what_the_runs_so_far_cost(g: Any) -> None:
    g.explore(method=curve(), max_pairs=2, grid=3)
    with g.session.store.reading() as reader:
        runs = [r for r in reader.all(Run) if r.command in ("connect", "sweep")]
        controls = reader.all(Node, kind="control")
    seconds = sum((r.ended - r.started).total_seconds() for r in runs) / 2  # the median of two is their mean
    plan = g.plan(method=curve(), max_pairs=3)
    assert len(plan.suggestions) == 3
    assert plan.seconds == pytest.approx(3 * seconds)
    assert plan.nbytes == 3 * controls[0].nbytes
    assert g.plan(method=curve(), max_pairs=3, engine="local:2").seconds == pytest.approx(2 * seconds)
    assert str(plan.estimate) == "the median of 2 earlier connections with the same settings"
    other = g.plan(method=curve(epochs=2), max_pairs=3)
    assert str(other.estimate) == "the median of 2 earlier connections with other settings"
    assert g.plan(method=curve(bends=1), budget=2.5 * seconds).seconds <= 2.5 * seconds
    assert len(g.plan(budget=1e6).suggestions) == 4  # all that are left
    assert g.plan(method=__import__("mgraph").PolygonalChain(), max_pairs=1).estimate is None
    before = pairs(g)
    assert g.explore(method=curve(), budget=seconds / 1e6).connected == 0
    assert pairs(g) == before


def test_unfinished_sweeps_come_first(g: Any) -> None:
    import mgraph

    c = g.connect("a", "b", method=mgraph.Linear(), name="bare", sweep=False)
    (first,) = g.suggest()
    assert (first.step, first.subject, first.command) == ("sweep", c.id, "mgraph sweep bare")
    found = g.explore(method=curve(), max_pairs=1, grid=3)
    assert [d.suggestion.step for d in found.done] == ["sweep", found.done[1].suggestion.step]
    assert found.connected == 1
    assert list(g.connection("bare").swept().sweep.grid) == [3]


def test_some_modes_only(g: Any) -> None:
    found = g.explore("d", "b", g.node("c"), method=curve(), max_pairs=9, grid=3)
    assert found.stopped == "every pair has been tried"
    assert set(pairs(g)) == {("b", "c"), ("b", "d"), ("c", "d")}


def test_a_pair_that_fails_twice_is_left_alone(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph
    from mgraph.errors import NonFiniteError

    real = mgraph.BezierCurve.run
    a, b = g.node("a"), g.node("b")
    vectors = [g.session.store.read_parameters(n.record) for n in (a, b)]

    def run(self: Any, flat: Any, task: Any, family: Any, start: Any, *more: Any, **further: Any) -> Any:
        if all(any((row == v).all() for v in vectors) for row in start.rows):
            raise NonFiniteError("It diverged.")
        return real(self, flat, task, family, start, *more, **further)

    monkeypatch.setattr(mgraph.BezierCurve, "run", run)
    for attempt in (1, 2):
        found = g.explore("a", "b", "c", method=curve(), max_pairs=9, grid=3)
        assert [d.problem for d in found.done if d.problem] == ["It diverged."]
        assert found.connected == (2 if attempt == 1 else 0)
    assert g.explore("a", "b", "c", method=curve(), max_pairs=9).done == []
    assert {r["status"] for r in g.runs() if r["reason"] == "It diverged."} == {"failed"}


def test_after_three_failures_in_a_row_it_stops(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph

    def run(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(mgraph.BezierCurve, "run", run)
    found = g.explore(method=curve(), max_pairs=9)
    assert found.stopped == "3 pairs in a row failed"
    assert {d.problem for d in found.done} == {"RuntimeError: no memory"}


def test_a_sweep_that_fails_is_not_tried_again_and_again(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph.operations.sweeps

    def measure(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(mgraph.operations.sweeps, "_measure", measure)
    found = g.explore(method=curve(), max_pairs=2)
    assert [d.suggestion.step for d in found.done] == ["join", "join"]
    assert all(d.connection is not None and d.problem for d in found.done)
    monkeypatch.undo()
    assert [d.suggestion.step for d in g.explore(method=curve(), max_pairs=1, grid=3).done][:2] == ["sweep", "sweep"]


def test_ctrl_c_keeps_what_is_done_and_says_so(g: Any) -> None:
    told: list[Any] = []

    def progress(_: Any) -> None:
        if told:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        g.explore(method=curve(), max_pairs=3, grid=3, tell=told.append, progress=progress)
    assert "1 pair is connected and stored, 1 was under way; exploring again continues" in stopped.value.__notes__[0]
    (next_one,) = g.suggest(method=curve())
    (run,) = [r for r in g.runs() if r["status"] == "interrupted"]
    assert (next_one.step, next_one.subject) == ("resume", run["id"])
    assert next_one.command == f"mgraph resume {run['id']}"
    g.explore(method=curve(), until="components(10) == 1", grid=3)
    assert len(set(pairs(g))) == len(pairs(g)) == 3
    assert_consistent(g.session.store)


NET = """
import os, signal
from pathlib import Path
from torch import nn

class Net(nn.Module):
    steps = 0
    def __init__(self, classes, input_shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
    def forward(self, x):
        Net.steps += 1
        flag = Path(os.environ.get("KILL_ONCE", "/"))
        if Net.steps == 15 and not flag.exists():  # in the middle of the first connection of this process
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(x)

def make(classes, input_shape):
    return Net(classes, input_shape)
"""


@pytest.mark.parametrize("engine", [pytest.param("local:2", marks=pytest.mark.stress), RAY])
def test_an_engine_gives_the_same_even_when_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    import mgraph

    (tmp_path / "net.py").write_text(NET)
    g = mgraph.create(tmp_path / "g.mgraph", arch=f"{tmp_path}/net.py:make", data="digits", device="cpu")
    for seed in range(3):
        g.train(seed=seed, epochs=1)
    here = mgraph.open(shutil.copytree(g.path, tmp_path / "here.mgraph"), trust=True)
    here.explore(method=curve(), max_pairs=2, grid=3)
    monkeypatch.setenv("KILL_ONCE", str(tmp_path / "killed"))
    found = g.explore(method=curve(), until="components(10) == 1", grid=3, engine=engine)
    assert (tmp_path / "killed").exists()
    assert (found.goal_met, found.connected) == (True, 2)
    assert [d.problem for d in found.done] == [None, None]
    assert described(g) == described(here)
    with g.session.store.reading() as reader:
        sweeps, runs = reader.all(Sweep), reader.all(Run)
    assert [s.status for s in sweeps] == ["complete"] * 2
    assert {r.status for r in runs} == {"complete"}
    assert len([r for r in runs if r.command == "connect"]) == 2  # what was begun went on
    assert os.getpid() not in {r.pid for r in runs if r.command in ("connect", "sweep")}
    assert_consistent(g.session.store)


@pytest.mark.stress
def test_a_worker_that_dies_every_time_leaves_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph

    (tmp_path / "net.py").write_text(NET.replace("flag.touch()", "pass"))
    g = mgraph.create(tmp_path / "h.mgraph", arch=f"{tmp_path}/net.py:make", data="digits", device="cpu")
    for seed in range(2):
        g.train(seed=seed, epochs=1)
    monkeypatch.setenv("KILL_ONCE", str(tmp_path / "never"))
    found = g.explore(method=curve(), max_pairs=5, grid=3, engine="local:1")
    (done,) = found.done
    assert "ended 3 times without a result" in done.problem
    (failed,) = [r for r in g.runs() if r["status"] == "failed"]
    assert (failed["command"], failed["reason"]) == ("connect", done.problem)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Say when to stop"),
        ({"max_pairs": 0}, "at least 1 pair"),
        ({"budget": "soon"}, "2h, 1h30m"),
        ({"budget": 0}, "a number above 0"),
        ({"max_pairs": 1, "engine": "dask"}, "no engine 'dask'"),
        ({"max_pairs": 1, "engine": "local:0"}, "at least 1 worker"),
        ({"until": "done"}, "is not one"),
        ({"until": "components(0.1) == 5"}, "only 4 modes"),
        ({"max_pairs": 1, "grid": 1}, "grid"),
        ({"max_pairs": 1, "metric": "f1"}, "sweeps measure loss, error, and 'f1' is not one of these"),
        ({"max_pairs": 1, "split": "dev"}, "no split 'dev'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(g: Any, options: Any, says: str) -> None:
    before = g.runs()
    with pytest.raises(InputError, match=says):
        g.explore(method=curve(), **options)
    assert g.runs() == before


def test_what_no_pair_can_take_is_refused(g: Any) -> None:
    import mgraph

    with pytest.raises(InputError, match="4 modes"):
        g.suggest(method=mgraph.BezierSurface())
    with pytest.raises(InputError, match="no trainable parameter"):
        g.explore(method=curve(train_only=("nothing*",)), max_pairs=3)
    with pytest.raises(InputError, match="given twice"):
        g.suggest("a", "a")
    with pytest.raises(InputError, match="there is only a"):
        g.suggest("a")
    with pytest.raises(InputError, match="at least 1 suggestion"):
        g.suggest(count=0)
    g.add_space("mlp?hidden=4,", "digits", name="empty")
    with pytest.raises(InputError, match="there is none"):
        g.suggest(space="empty")
    with pytest.raises(InputError, match="in one space"):
        g.suggest("a", "b", space="empty")


def test_merged_nodes_may_be_named(path: Path) -> None:
    import mgraph

    g = mgraph.open(path, device="cpu")
    assert "m" not in {n for s in g.suggest(count=99, method=curve()) for n in s.names}
    assert {frozenset(s.names) for s in g.suggest("m", "a", "b", count=9, method=curve())} >= {frozenset("ma")}
    control = g.connection("curve").describe()["control_points"][1]["node"]
    with pytest.raises(InputError, match="is a control"):
        g.suggest("a", control)


def joining(g: Any, run: str, *ends: str, **settings: Any) -> Any:
    from mgraph.explore.workers import Work
    from mgraph.jobs.connections import ConnectJob

    return Work(run, ConnectJob(ends=tuple(g.node(end).id for end in ends), method=curve(**settings)))


def done_by_a_worker(g: Any, work: Any) -> Any:
    from mgraph.explore.workers import Place, do

    return pickle.loads(pickle.dumps(do(Place(g.path, "cpu"), pickle.loads(pickle.dumps(work)))))


def test_a_worker_stores_its_results_and_returns_warnings(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph
    from mgraph.errors import MGraphWarning

    real = mgraph.BezierCurve.run

    def run(*given: Any, **further: Any) -> Any:
        warnings.warn("It was lowered.", MGraphWarning, stacklevel=2)
        return real(*given, **further)

    monkeypatch.setattr(mgraph.BezierCurve, "run", run)
    chosen = new_id("r")
    done = done_by_a_worker(g, joining(g, chosen, "a", "b"))
    assert (done.problem, done.refused, [w.text for w in done.warnings]) == (None, False, ["It was lowered."])
    assert pairs(g) == [("a", "b")]
    assert (done.connection.run_id, g.runs()[-1]["id"], g.runs()[-1]["status"]) == (chosen, chosen, "complete")
    before = g.runs()
    refused = done_by_a_worker(g, joining(g, new_id("r"), "a", "a"))
    assert (refused.refused, refused.connection) == (True, None)
    assert "given twice" in refused.problem
    assert g.runs() == before
    assert_consistent(g.session.store)


def killed(g: Any, work: Any) -> None:
    """Do a piece of work in a process that is killed in the middle of it, its first states saved."""
    code = """
import os, pickle, signal, sys
from mgraph.explore.workers import Place, perform, _session
def progress(p):
    if p.done >= 12:
        os.kill(os.getpid(), signal.SIGKILL)
perform(_session(Place(sys.argv[1], "cpu")), pickle.loads(sys.stdin.buffer.read()), progress=progress)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, g.path],
        input=pickle.dumps(work),
        env=os.environ | {"MGRAPH_SAVE_SECONDS": "0"},
        check=False,
        capture_output=True,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr


def test_work_goes_on_after_its_worker_was_killed(g: Any, four: Path, tmp_path: Path) -> None:
    import mgraph

    other = mgraph.open(shutil.copytree(four, tmp_path / "other.mgraph"), device="cpu")
    done_by_a_worker(other, joining(other, new_id("r"), "a", "b"))
    work = joining(g, new_id("r"), "a", "b")
    killed(g, work)
    assert pairs(g) == []
    (step, *_) = g.suggest(method=curve())  # who explores without knowing of the worker goes on with it, too
    assert (step.step, step.subject) == ("resume", work.run)
    done = done_by_a_worker(g, work)
    assert (done.problem, done.connection.run_id) == (None, work.run)
    assert described(g) == described(other)
    with g.session.store.reading() as reader:
        (run,) = reader.all(Run, command="connect")
    assert run.status == "complete"
    (again,) = json.loads(run.resumptions)
    assert again["at"]  # not from the beginning
    assert_consistent(g.session.store)


def test_a_worker_that_its_cluster_ends_stops_as_after_ctrl_c(g: Any) -> None:
    work = joining(g, new_id("r"), "a", "b", epochs=10_000)
    code = """
import pickle, sys
from mgraph.explore.workers import Place, do
print(do(Place(sys.argv[1], "cpu"), pickle.loads(sys.stdin.buffer.read())).problem)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, g.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"MGRAPH_SAVE_SECONDS": "0"},
    ) as worker:
        assert worker.stdin is not None
        worker.stdin.write(pickle.dumps(work))
        worker.stdin.close()
        while not list((g.path / "states").glob("*/state-*.safetensors")):
            assert worker.poll() is None
            time.sleep(0.05)
        worker.terminate()
        assert worker.stdout is not None
        assert worker.stdout.read() == b"interrupted\n"
    assert worker.returncode == 0
    (run,) = [r for r in g.runs() if r["command"] == "connect"]
    assert (run["id"], run["status"], run["reason"]) == (work.run, "interrupted", "stopped by the user")


def test_what_may_be_connected_elsewhere_is_not_said_to_be_done(g: Any) -> None:
    """A run on another machine, of which nobody here knows whether it has ended."""
    settings = {"method": "curve", "ends": [g.node("a").id, g.node("b").id]}
    run = Run(new_id("r"), "connect", json.dumps(settings), host="elsewhere", pid=1)
    with g.session.store.transaction() as tx:
        tx.add(run)
    found = g.explore("a", "b", method=curve(), max_pairs=1)
    assert (found.done, g.suggest("a", "b", method=curve())) == ([], [])
    assert found.stopped == (
        "every pair has been tried or, as far as can be seen from here, is being connected by another process: "
        f"run {run.id} (mgraph log)"
    )
    with g.session.store.transaction() as tx:
        tx.update(replace(run, status="failed"), since=run)
    assert len(g.suggest("a", "b", method=curve())) == 1


@pytest.mark.parametrize("step", ["connect", "sweep"])
def test_work_that_only_its_answer_was_lost_of_is_not_done_again(g: Any, step: str) -> None:
    from mgraph.explore.workers import Work
    from mgraph.jobs.connections import SweepJob

    work = joining(g, new_id("r"), "a", "b")
    done = done_by_a_worker(g, work)
    if step == "sweep":
        work = Work(new_id("r"), SweepJob(connection=done.connection.id, grid=(3,)))
        done_by_a_worker(g, work)
    before = described(g), g.runs()
    again = done_by_a_worker(g, work)
    assert (again.connection, again.problem) == (done.connection, None)
    assert (described(g), g.runs()) == before
    resumed = done_by_a_worker(g, Work(done.connection.run_id))
    assert resumed.connection == done.connection


def test_work_that_failed_is_not_done_again(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph

    def run(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no memory")

    work = joining(g, new_id("r"), "a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(mgraph.BezierCurve, "run", run)
        assert done_by_a_worker(g, work).problem == "RuntimeError: no memory"
    assert "no memory" in done_by_a_worker(g, work).problem
    assert pairs(g) == []


def test_work_whose_worker_lives_after_all_is_left_to_it(g: Any) -> None:
    from mgraph.session.runs import record_failure
    from mgraph_store.underway import RunLock

    work = joining(g, new_id("r"), "a", "b")
    killed(g, work)
    lock = RunLock(g.session.store.folder.root, work.run)
    assert lock.acquire()
    assert "is under way in another process" in done_by_a_worker(g, work).problem
    record_failure(g.session.store, work.run, "connect", {}, "It was lost.")
    assert status_of(g, work) == "running"
    lock.release()
    assert pairs(g) == []
    record_failure(g.session.store, work.run, "connect", {}, "It was lost.")
    assert status_of(g, work) == "failed"
    record_failure(g.session.store, chosen := new_id("r"), "connect", {}, "It was lost.")  # before it had begun
    assert {r["id"]: r["reason"] for r in g.runs() if r["status"] == "failed"} == dict.fromkeys(
        (work.run, chosen), "It was lost."
    )


def status_of(g: Any, work: Any) -> str:
    with g.session.store.reading() as reader:
        return str(reader.get(Run, id=work.run).status)


def test_what_a_worker_does_now_is_not_suggested_again(g: Any) -> None:
    from mgraph.explore.planning import PlannedGraph

    begun, made = joining(g, new_id("r"), "a", "b"), joining(g, new_id("r"), "a", "c")
    killed(g, begun)  # and is about to be done again
    connection = done_by_a_worker(g, made).connection  # and the answer is on its way
    request = g._request(g.nodes("mode")[:0], {"method": curve()})
    plan = PlannedGraph(g.session.store, request)
    assert [(s.step, s.subject) for s in plan.steps(2)] == [("resume", begun.run), ("sweep", connection.id)]
    plan = PlannedGraph(g.session.store, request, aside={begun.run, made.run})
    assert {s.step for s in plan.steps()} <= {"join", "improve", "fill"}


def test_settings_are_those_of_the_default_method(g: Any) -> None:
    done = g.explore("a", "b", max_pairs=1, settings={"epochs": 1}, grid=3).done
    (connection,) = g.connections()
    assert len(done) == 1
    assert g.connection(connection["id"]).describe()["settings"]["epochs"] == 1
    with pytest.raises(InputError, match="A curve has no setting 'epoch'; did you mean 'epochs'"):
        g.suggest("a", "b", settings={"epoch": 2})
