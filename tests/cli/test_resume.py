"""Runs that are killed or interrupted in real processes go on to the result of the uninterrupted ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm

from mgraph_store import GraphStore, assert_consistent
from mgraph_store.upkeep.collect import plan_collection

Start = Callable[..., warm.Process]

CURVE = ["connect", "a", "b", "--curve", "--epochs", "30", "--grid", "5"]
SURFACE = ["connect", *"abcd", "--surface", "--phases", "edges:12,surface:12", "--grid", "3"]
NEB = ["connect", "a", "b", "--neb", "--pivots", "3", "--cycles", "2x20@0.05", "--batch-size", "256", "--grid", "7"]
LLPF = ["connect", "a", "b", "--llpf", "--groups", "fdf", "--max-groups", "2", "--ticks", "20", "--keep-every", "7"]
TRAIN = ["train", "--seed", "9", "--epochs", "40", "--keep", "3,30"]


def stop(child: warm.Process, path: Path, how: int, after: float) -> str:
    """Wait for the first state of the child's run, let it go on for some seconds, and send a signal."""
    deadline = time.monotonic() + 120
    while not list(path.glob("states/*/state-*.safetensors")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(after)
    child.send_signal(how)
    return child.communicate(timeout=60)[1]


def numbers(run: Any, name: str) -> Any:
    """Everything about a mode or connection that must not depend on interruptions."""
    row = run("show", name, "--json").row
    if "ends" not in row:
        return row["digest"], [e["value"] for e in row["evaluations"]]
    points = [run("show", p["node"], "--json").row["digest"] for p in row["control_points"]]
    return points, row["reason"], row["settings"], row["summary"], row["edges"]


@pytest.mark.parametrize(
    ("args", "how"),
    [
        pytest.param(CURVE, signal.SIGINT, id="curve"),
        pytest.param(TRAIN, signal.SIGKILL, id="train", marks=pytest.mark.stress),
        pytest.param(NEB, signal.SIGKILL, id="neb", marks=pytest.mark.stress),
        pytest.param([*LLPF, "--grid", "5"], signal.SIGKILL, id="llpf", marks=pytest.mark.stress),
        pytest.param(
            [*LLPF, "--walk", "across", "--origin-ticks", "20", "--no-sweep"],
            signal.SIGINT,
            id="llpf-across",
            marks=pytest.mark.stress,
        ),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    args: list[str], how: int, warm_process: Start, path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0.05")
    child = warm_process(*args, "--name", "x", "--device", "cpu", cwd=path.parent, env=dict(os.environ))
    said = stop(child, path, how, random.Random(str(args)).uniform(0, 0.2))
    row = run("log", "--json").rows[-1]
    assert (row["status"], row["name"], row["resumable"], row["resumed"]) == ("interrupted", "x", True, 0)
    if how == signal.SIGINT:
        assert child.returncode == 130
        kept = f"Interrupted. The state at {row['saved']} is saved. Continue with: mgraph resume {row['id']}"
        assert said.strip() == kept
    else:
        assert row["reason"] == "its process is gone"
    assert row["saved"].startswith("cycle " if args is NEB else "tick " if "--llpf" in args else "step ")
    assert run("ls", "--json").rows == run("ls", "--json").rows
    assert "x" not in [r["name"] for r in run("ls", "--json").rows]
    resumed = run("resume", *(["x"] if how == signal.SIGINT else []), "--json").row
    assert resumed["name"] == "x"
    assert (resumed["run"]["id"], len(resumed["run"]["resumptions"])) == (row["id"], 1)
    assert resumed["run"]["resumptions"][0]["at"] == row["saved"]
    assert not (path / "states").exists()
    run(*args, "--name", "y", "--device", "cpu")
    assert numbers(run, "x") == numbers(run, "y")
    for epoch in (3, 30) if args is TRAIN else ():
        assert numbers(run, f"x-{epoch}") == numbers(run, f"y-{epoch}")
    assert_consistent(GraphStore.open(path))


def stopped_at_random(child: warm.Process, draw: random.Random, seconds: float) -> None:
    """Stop a process at any moment of its life, by a signal of either kind."""
    try:
        child.wait(draw.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        child.send_signal(draw.choice([signal.SIGINT, signal.SIGKILL, signal.SIGKILL]))
    child.communicate(timeout=600)


def named(run: Any, name: str) -> list[Any]:
    return [row for row in run("log", "--json").rows if row["name"] == name]


@pytest.mark.stress
@pytest.mark.parametrize(
    ("args", "others"),
    [
        pytest.param(CURVE, ["--optimizer", "adamw", "--lr", "0.01"], id="curve"),
        pytest.param(CURVE, ["--nesterov", "true", "--samples", "3"], id="nesterov"),
        pytest.param(SURFACE, [], id="surface"),
        pytest.param(["connect", "a", "b", "--chain", "--bends", "3", "--epochs", "60", "--grid", "7"], [], id="chain"),
        pytest.param(NEB, ["--cycles", "3x40@0.05"], id="neb"),
        pytest.param(LLPF, [], id="llpf"),
        pytest.param(TRAIN, [], id="train"),
    ],
)
def test_stopped_at_any_moment_again_and_again(
    args: list[str], others: list[str], warm_process: Start, path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0.02")
    draw = random.Random(str(args + others))
    args = [*args, *others, "--device", "cpu"]
    began = time.monotonic()
    warm_process(*args, "--name", "whole", cwd=path.parent, env=dict(os.environ)).communicate()
    seconds = time.monotonic() - began
    assert named(run, "whole")[0]["status"] == "complete"
    attempt = resumed = 0
    while attempt < 3 or (attempt < 15 and not resumed):  # most of a short run's time a process only starts
        name, attempt = f"x{attempt}", attempt + 1
        for _ in range(3):
            rows = named(run, name)
            if rows and rows[0]["status"] == "complete":
                break
            child = warm_process(*(["resume", name] if rows else [*args, "--name", name]), cwd=path.parent)
            stopped_at_random(child, draw, 1.2 * seconds)
            assert_consistent(GraphStore.open(path))
        rows = named(run, name)
        if not rows or rows[0]["status"] != "complete":
            run(*(["resume", name] if rows else [*args, "--name", name]))
        unfinished = [row for row in run("log", "--json").rows if row["resumable"]]
        if unfinished:  # its sweep
            run("resume", name)
        elif args[0] == "connect" and not run("show", name, "--json").row["sweeps"]:
            grid = args[args.index("--grid") :][:2] if "--grid" in args else []
            run("sweep", name, *grid)  # killed between the two
        elif args[0] == "train" and not run("show", name, "--json").row["evaluations"]:
            run("evaluate", name)  # killed after it was stored, before it was measured
        assert numbers(run, name) == numbers(run, "whole")
        resumed += named(run, name)[0]["resumed"]
        # Of a run that was killed as its results were stored, no more than gc takes.
        going = plan_collection(GraphStore.open(path), min_age=0).items
        left = sorted(path / "states" / item.name for item in going if item.kind == "state")
        assert left == sorted((path / "states").glob("*"))
    assert resumed > 0  # else every signal came too early or too late to show anything
