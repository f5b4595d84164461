"""The workers of an engine that explores: each stores its own results, and what one was doing as it died goes on."""

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


@pytest.fixture
def g(four_modes: Any) -> Any:
    return four_modes


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


@pytest.mark.stress  # what an executor does is tested with the engines
def test_an_executor_gives_the_same(g: Any, tmp_path: Path) -> None:
    import mgraph

    other = mgraph.open(shutil.copytree(g.path, tmp_path / "other.mgraph"), device="cpu")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        found = other.explore(method=curve(), max_pairs=1, grid=3, engine=mgraph.Pool(executor, places=1))
    here = g.explore(method=curve(), max_pairs=1, grid=3)
    assert [(d.suggestion.ends, d.peak, d.barrier) for d in found.done] == [
        (d.suggestion.ends, d.peak, d.barrier) for d in here.done
    ]
    assert found.connected == 1


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


def test_work_goes_on_after_its_worker_was_killed(g: Any, tmp_path: Path) -> None:
    import mgraph

    other = mgraph.open(shutil.copytree(g.path, tmp_path / "other.mgraph"), device="cpu")
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
