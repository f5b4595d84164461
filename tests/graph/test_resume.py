"""Runs that go on: what is resumed, what is refused and why, and what is recorded of it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import (
    AmbiguousError,
    ConflictError,
    CorruptError,
    InputError,
    NameTakenError,
    NonFiniteError,
    NotFoundError,
    StoreError,
    UntrustedError,
)
from mgraph.session.keeping import NotSavedWarning
from mgraph.session.runs import ResumedElsewhereWarning, RunInterrupted
from mgraph.train.driver import LearningRateWarning
from mgraph_store import GraphStore, Node, Run, Sweep, new_id
from mgraph_store.states import StateFiles

# What is compared is made twice.
pytestmark = pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")

CURVE = mgraph.BezierCurve(epochs=2, lr=0.05)
GONE = 2**22 + 1  # no process has this number


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")


@pytest.fixture
def stopped(g: Any, reporter: Any) -> Callable[..., Run]:
    """Interrupt an operation after some steps; return its run."""

    def interrupt(operation: Callable[..., Any], after: int = 5) -> Run:
        with pytest.raises(RunInterrupted) as caught:
            operation(progress=reporter(after))
        with g.session.store.reading() as reader:
            run: Run = reader.get(Run, id=caught.value.run_id)
        return run

    return interrupt


def runs(g: Any) -> Any:
    return {row["id"]: row for row in g.runs()}


def digests(g: Any, name: str) -> list[str | None]:
    return [g.node(p["node"]).digest for p in g.connection(name).describe()["control_points"]]


def change(g: Any, run: Run, **changes: Any) -> Run:
    changed = replace(run, **changes)
    with g.session.store.transaction() as tx:
        tx.update(changed)
    return changed


def plan_of(run: Run) -> dict[str, Any]:
    assert run.plan is not None
    plan: dict[str, Any] = json.loads(run.plan)
    return plan


def test_a_mode_goes_on_under_its_own_run(g: Any, stopped: Any) -> None:
    settings: dict[str, Any] = {"seed": 7, "epochs": 3, "keep": (1, 2)}
    run = stopped(lambda progress: g.train(name="x", progress=progress, **settings), 40)
    row = runs(g)[run.id]
    expected = {"status": "interrupted", "reason": "stopped by the user", "resumable": True, "resumed": 0, "name": "x"}
    assert {key: row[key] for key in expected} == expected
    assert row["saved"] == "step 39 of 51 (train)"
    made = g.resume()
    assert made.name == "x"
    assert made.record.run_id == run.id
    row = runs(g)[run.id]
    expected = {"status": "complete", "reason": None, "resumable": False, "resumed": 1, "saved": None}
    assert {key: row[key] for key in expected} == expected
    (resumption,) = made.describe()["run"]["resumptions"]
    assert (resumption["at"], resumption["pid"], resumption["other"]) == ("step 39 of 51 (train)", os.getpid(), {})
    g.train(name="y", **settings)
    for suffix in ("", "-1", "-2"):
        assert g.node("x" + suffix).digest == g.node("y" + suffix).digest
        assert g.node("x" + suffix).evaluate("test") == g.node("y" + suffix).evaluate("test")
    assert not (g.path / "states").exists()


def test_a_connection_goes_on_with_its_sweep_and_everything_it_was_given(g: Any, stopped: Any) -> None:
    method = mgraph.METHODS["chain"](bends=3, epochs=2, samples=2, fixed=(2,), train_only=("*.weight",))
    given: dict[str, Any] = {"method": method, "init": "chain", "buffers_from": "b", "grid": 4}
    run = stopped(lambda progress: g.connect("b", "a", name="x", progress=progress, **given), 9)
    assert stopped(lambda progress: g.resume(progress=progress), 9).id == run.id
    made = g.resume(run.id[:6])
    g.connect("b", "a", name="y", **given)
    x, y = (g.connection(name).describe() for name in "xy")
    assert digests(g, "x") == digests(g, "y")
    assert made.id == x["id"]
    for key in ("ends", "family", "settings", "reason", "summary", "edges"):
        assert x[key] == y[key]
    assert x["sweeps"][0]["grid"] == [4]
    assert x["run"]["settings"] == y["run"]["settings"]
    assert runs(g)[run.id]["resumed"] == 2


def test_without_a_sweep_it_is_not_swept(g: Any, stopped: Any) -> None:
    stopped(lambda progress: g.connect("a", "b", method=CURVE, name="x", sweep=False, progress=progress))
    assert g.resume("x").describe()["sweeps"] == []


def test_before_its_first_state_a_run_begins_again(g: Any, stopped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "1000")
    run = stopped(lambda progress: g.connect("a", "b", method=CURVE, name="x", sweep=False, progress=progress))
    assert (runs(g)[run.id]["saved"], runs(g)[run.id]["resumable"]) == (None, True)
    g.resume()
    g.connect("a", "b", method=CURVE, name="y", sweep=False)
    assert digests(g, "x") == digests(g, "y")


@pytest.mark.parametrize("reuse", [True, pytest.param(False, marks=pytest.mark.stress)])
def test_a_sweep_goes_on_and_measures_nothing_twice(
    g: Any, stopped: Any, reporter: Any, reuse: bool, tables: Callable[..., Any]
) -> None:
    asked: dict[str, Any] = {"grid": 5, "metrics": ["ece"], "examples": 100, "refine": 0.05, "reuse": reuse}
    g.connection("chain").sweep(3)
    run = stopped(lambda progress: g.connection("chain").sweep(progress=progress, **asked), 4)
    assert runs(g)[run.id]["resumable"]
    seen = reporter()
    g.resume("chain", progress=seen)
    sweeps = [s for s in tables(g, Sweep)["Sweep"] if s.run_id == run.id]
    assert [s.status for s in sweeps] == ["complete"]
    resumed = g.connection("chain").swept()
    assert resumed.sweep.id == sweeps[0].id
    g.connection("chain").sweep(**{**asked, "reuse": False})
    again = g.connection("chain").swept()
    assert again.sweep.id != resumed.sweep.id
    for key in again.values:
        np.testing.assert_array_equal(again.values[key], resumed.values[key])
    assert len(seen.seen) == len(again.node_ids) - 4


def test_a_sweep_by_a_function_cannot_go_on(g: Any, reporter: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        g.connection("line").sweep(5, metrics=[lambda outputs, targets: 0.0], progress=reporter(2))
    run = g.runs()[-1]
    assert (run["status"], run["resumable"]) == ("interrupted", False)
    with pytest.raises(InputError, match="A run of sweep cannot be resumed; give the command again"):
        g.resume(run["id"])


def test_which_run_is_meant(g: Any, stopped: Any) -> None:
    with pytest.raises(NotFoundError, match="no interrupted run"):
        g.resume()
    first = stopped(lambda progress: g.connect("a", "b", method=CURVE, name="x", progress=progress))
    second = stopped(lambda progress: g.train(epochs=1, seed=9, progress=progress))
    with pytest.raises(AmbiguousError) as caught:
        g.resume()
    assert str(caught.value) == (
        f"Several runs can be resumed: {first.id} (connect of x, step 4 of 34 (curve)), {second.id} (train, "
        f"step 4 of 17 (train)); say which one."
    )
    with pytest.raises(NotFoundError, match="No interrupted run is 'nothing' or was to make it"):
        g.resume("nothing")
    with pytest.raises(NotFoundError):
        g.resume(first.id[:3])
    with pytest.raises(NotFoundError, match=r"was to make it; a is stored\.$"):
        g.resume("a")
    assert g.resume(second.id[:8]).kind == "mode"
    assert g.resume("x").name == "x"


def test_what_was_stored_but_not_measured_is_told_how(g: Any) -> None:
    """A run that was killed between the two is complete."""
    g.connect("a", "b", method=mgraph.Linear(), name="unswept", sweep=False)
    with pytest.raises(NotFoundError, match="unswept is stored, but was not measured: mgraph sweep unswept"):
        g.resume("unswept")
    with GraphStore.open(g.path).transaction() as tx:
        tx.add(replace(g.node("a").record, id=new_id("m"), name="unmeasured"))
    with pytest.raises(NotFoundError, match="unmeasured is stored, but was not measured: mgraph evaluate unmeasured"):
        g.resume("unmeasured")


def test_a_run_that_is_given_up_goes_and_leaves_nothing(g: Any, stopped: Any, beside: Any) -> None:
    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    other = stopped(lambda progress: g.train(epochs=1, seed=9, progress=progress))
    row = beside("resume", "x", "--discard", "--json").row
    assert (row["id"], row["status"], row["resumable"]) == (run.id, "interrupted", False)
    assert row["reason"] == "stopped by the user; given up"
    assert [p.name for p in (g.path / "states").iterdir()] == [other.id]
    with pytest.raises(InputError, match="cannot be resumed; give the command again"):
        g.resume(run.id)
    assert g.discard()["id"] == other.id
    assert not (g.path / "states").exists()
    g.train(epochs=1, name="x")


def test_a_sweep_that_another_run_went_on_with_is_not_resumed(g: Any, stopped: Any) -> None:
    run = stopped(lambda progress: g.connection("line").sweep(5, progress=progress), 2)
    g.connection("line").sweep(5)
    row, newer = runs(g)[run.id], g.runs()[-1]
    assert (row["status"], row["resumable"]) == ("interrupted", False)
    assert row["reason"] == f"run {newer['id']} continued its sweep"


def test_runs_that_cannot_go_on_say_why(g: Any, stopped: Any) -> None:
    complete = g.runs()[0]["id"]
    with pytest.raises(InputError, match=f"Run {complete} is complete; there is nothing left to do"):
        g.resume(complete)
    with pytest.warns(LearningRateWarning), pytest.raises(NonFiniteError):
        g.connect("a", "b", method=mgraph.BezierCurve(epochs=3, lr=1e25, momentum=0.0))
    failed = g.runs()[-1]
    assert (failed["status"], failed["resumable"], failed["saved"]) == ("failed", False, None)
    with pytest.raises(InputError, match=f"Run {failed['id']} failed and cannot be resumed: The loss became"):
        g.resume(failed["id"])
    run = stopped(lambda progress: g.train(epochs=1, progress=progress))
    change(g, run, status="running", ended=None)  # by this very process, which is there
    with pytest.raises(InputError, match=f"Run {run.id} is still under way: process {os.getpid()} on .*Stop it there"):
        g.resume(run.id)
    with pytest.raises(InputError, match="--force does not take over a run that is alive"):
        g.resume(run.id, force=True)
    with pytest.raises(InputError, match="still under way"):
        g.discard(run.id, force=True)
    stated = json.loads(run.settings) | {"processes": 2}
    change(g, run, settings=json.dumps(stated))
    with pytest.raises(InputError, match="was computed by 2 processes together, which keep no state"):
        g.resume(run.id)


def test_a_run_whose_process_is_gone_is_interrupted(g: Any, stopped: Any) -> None:
    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    change(g, run, status="running", reason=None, ended=None, pid=GONE)
    row = runs(g)[run.id]
    assert (row["status"], row["reason"], row["resumable"]) == ("interrupted", "its process is gone", True)
    assert row["seconds"] is None
    assert g.resume("x").name == "x"


@pytest.fixture
def elsewhere(g: Any, stopped: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that another machine is in the middle of, on a disk that both have."""
    monkeypatch.setattr("mgraph_store.underway._is_local", lambda _: False)
    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    versions = json.loads(run.versions)
    versions["process"]["boot"] = "another"
    changes = {"host": "node-a", "pid": 7, "versions": json.dumps(versions)}
    return change(g, run, status="running", reason=None, ended=None, **changes)


def test_a_run_on_another_machine_goes_on_only_at_a_word_of_the_users(g: Any, elsewhere: Run) -> None:
    row = runs(g)[elsewhere.id]
    assert (row["status"], row["resumable"]) == ("running", False)
    assert row["reason"].startswith("may have ended: it ran on another machine")
    known = rf"Run {elsewhere.id} .train of x, step \d+ of 17.* may still be under way: process 7 on node-a, since .*"
    for text in (None, "x", elsewhere.id):
        with pytest.raises(InputError, match=rf"{known}last saved at step \d+ of 17.*--force; .*--discard --force"):
            g.resume(text)
    with pytest.raises(InputError, match=known):
        g.discard("x")
    assert g.resume("x", force=True).name == "x"
    assert runs(g)[elsewhere.id]["status"] == "complete"


def test_a_run_on_another_machine_is_given_up_at_a_word_of_the_users(g: Any, elsewhere: Run, beside: Any) -> None:
    assert "--force" in beside("resume", "--discard", code=2).stderr
    row = beside("resume", elsewhere.id, "--discard", "--force", "--json").row
    assert (row["status"], row["resumable"]) == ("interrupted", False)
    assert row["reason"].endswith("given up")
    assert not (g.path / "states").exists()


def test_a_run_that_was_taken_over_stores_nothing_more(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken_over(progress: Any) -> None:
        run = g.runs()[-1]
        if run["host"] != "node-b":
            with g.session.store.reading() as reader:
                record = reader.get(Run, id=run["id"])
            change(g, record, host="node-b", pid=8)

    with pytest.raises(ConflictError, match="changed or removed"):
        g.train(epochs=1, name="x", progress=taken_over)
    with g.session.store.reading() as reader:
        record = reader.get(Run, id=g.runs()[-1]["id"])
    assert (record.status, record.host, record.pid) == ("running", "node-b", 8)  # it is theirs
    assert "x" not in [node["name"] for node in g.nodes()]


def test_of_two_that_resume_a_run_at_once_one_is_refused(g: Any, stopped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    check = mgraph.operations.modes.check_training

    def meanwhile(*args: Any) -> None:
        check(*args)
        change(g, run, status="running", pid=os.getppid())

    monkeypatch.setattr("mgraph.operations.modes.check_training", meanwhile)
    with pytest.raises(InputError, match=f"Run {run.id} was meanwhile resumed or removed by another process"):
        g.resume()
    row = runs(g)[run.id]
    assert (row["pid"], row["resumed"], row["saved"]) == (os.getppid(), 0, "step 4 of 17 (train)")


def test_what_a_run_needs_may_be_gone_by_now(g: Any, stopped: Any) -> None:
    run = stopped(lambda progress: g.connect("a", "b", method=CURVE, init="chain", name="x", progress=progress))
    plan = plan_of(run)
    lost = new_id("m")
    for name, value, what in (
        ("ends", [plan["ends"][0], lost], "node"),
        ("init", lost, "connection"),
        ("buffers_from", lost, "node"),
    ):
        change(g, run, plan=json.dumps(plan | {name: value}))
        with pytest.raises(
            InputError, match=f"Run {run.id} cannot be resumed: the {what} {lost} is gone from the graph"
        ):
            g.resume()
    change(g, run, plan=json.dumps(plan))
    with g.session.store.transaction() as tx:
        tx.update(replace(g.node("c").record, name="x"))
    with pytest.raises(NameTakenError, match="The name x belongs to mode"):
        g.resume()
    assert runs(g)[run.id]["resumable"]


def test_other_conditions_are_said_and_recorded(unswept: Path, g: Any, stopped: Any) -> None:
    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    before = json.loads(run.versions)
    change(g, run, threads=2, versions=json.dumps(before | {"torch": "2.0"}))
    other = mgraph.open(g.path, device="cpu", threads=1)
    with pytest.warns(
        ResumedElsewhereWarning, match=r"is resumed with torch \S+ instead of 2\.0, threads 1 instead of 2"
    ):
        made = other.resume()
    (resumption,) = made.describe()["run"]["resumptions"]
    assert resumption["other"] == {"torch": before["torch"], "threads": 1}


def test_a_run_goes_on_with_the_threads_that_it_had(g: Any, stopped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    change(g, run, threads=2)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResumedElsewhereWarning)
        mgraph.open(g.path).resume(progress=lambda _: seen.append(torch.get_num_threads()))
    assert set(seen) == {2}


def test_a_full_disk_while_saving_does_not_stop_a_run(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StoreError("No space left for states: nothing was stored.")

    monkeypatch.setattr(StateFiles, "save", full)
    with pytest.warns(NotSavedWarning, match=r"No space left .* The run continues") as caught:
        g.train(epochs=1, seed=8, name="x")
    assert len([w for w in caught if issubclass(w.category, NotSavedWarning)]) == 1
    assert g.runs()[-1]["status"] == "complete"


def test_a_failure_at_the_end_loses_nothing(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the result is to be stored: later, the run goes on from its last state."""
    import mgraph.operations.modes as modes

    def full(*_: Any, **__: Any) -> Any:
        raise StoreError("No space left.")

    monkeypatch.setattr(modes, "store_point", full)
    with pytest.raises(StoreError) as caught:
        g.train(epochs=1, seed=8, name="x")
    row = g.runs()[-1]
    (note,) = caught.value.__notes__
    assert note == f"The state at step 17 of 17 (train) is saved; continue with: mgraph resume {row['id']}."
    assert (row["status"], row["reason"], row["resumable"]) == ("failed", "No space left.", True)
    monkeypatch.undo()
    assert g.resume().digest == g.train(epochs=1, seed=8).digest


def test_a_commit_that_fails_fails_the_run(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mgraph_store import Transaction

    commit = Transaction.commit

    def failing(self: Any) -> None:
        if any(isinstance(record, Node) for record in self._added.get(Node, ())):
            raise StoreError("The index is not to be had.")
        commit(self)

    monkeypatch.setattr(Transaction, "commit", failing)
    with pytest.raises(StoreError):
        g.train(epochs=1, name="x")
    assert (g.runs()[-1]["status"], g.runs()[-1]["reason"]) == ("failed", "The index is not to be had.")


def test_a_damaged_state_is_refused_and_the_run_stays_as_it_is(g: Any, stopped: Any) -> None:
    run = stopped(lambda progress: g.train(epochs=1, name="x", progress=progress))
    (file,) = (g.path / "states" / run.id).glob("state-*")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptError, match="start the run again"):
        g.resume()
    assert (runs(g)[run.id]["status"], runs(g)[run.id]["resumed"]) == ("interrupted", 0)


LOSS = (
    "import torch\n\ndef half(outputs, targets):\n    return torch.nn.functional.cross_entropy(outputs, targets) / 2\n"
)


def test_own_code_that_only_the_graph_names_is_not_run(
    g: Any, stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(LOSS)
    run = stopped(lambda progress: g.train(epochs=1, loss="mine.py:half", progress=progress))
    with pytest.raises(UntrustedError, match=f"Run {run.id} runs your code mine.py:half; if you know it, add --trust"):
        g.resume()
    trusting = mgraph.open(g.path, device="cpu", trust=True)
    monkeypatch.chdir("/")
    with pytest.raises(InputError, match=f"runs mine.py:half from {tmp_path}; go there"):
        trusting.resume()
    monkeypatch.chdir(tmp_path)
    assert trusting.resume().digest == g.train(epochs=1, loss="mine.py:half").digest


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_bad_seconds_are_bad_input(g: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", text)
    before = len(g.runs())
    with pytest.raises(InputError, match=f"MGRAPH_SAVE_SECONDS must be a number of seconds ≥ 0, not '{text}'"):
        g.train(epochs=1)
    assert len(g.runs()) == before


def test_what_keeps_no_state_begins_again(g: Any, stopped: Any) -> None:
    line = g.connection("line")
    line.sweep(3)
    ran = stopped(lambda progress: line.ensemble(grid=3, progress=progress), 2)
    assert g.resume(ran.id).name == "line"
    sharp = stopped(lambda progress: g.node("a").sharpness(directions=2, radii=(0.1,), progress=progress), 1)
    assert g.resume(sharp.id).name == "a"
    for run in (ran, sharp):
        assert runs(g)[run.id]["status"] == "complete"


def test_a_job_is_done_as_its_method_would(g: Any) -> None:
    ends = (g.node("a").id, g.node("b").id)
    job = mgraph.ConnectJob(ends=ends, method=CURVE, name="x", sweep=mgraph.Following((3,)))
    made = g.run(mgraph.read_job(job.to_json()))
    g.connect("a", "b", method=CURVE, name="y", grid=3)
    assert digests(g, "x") == digests(g, "y")
    assert made.swept().grid.counts == (3,)
    with g.session.store.reading() as reader:
        run = reader.get(Run, id=made.record.run_id)
    assert mgraph.read_job(run.plan) == job
