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

from mgraph_store import GraphStore, assert_consistent

Start = Callable[..., "subprocess.Popen[str]"]

CURVE = ["connect", "a", "b", "--curve", "--epochs", "60", "--grid", "7"]
SURFACE = ["connect", *"abcd", "--surface", "--phases", "edges:12,surface:12", "--grid", "3"]
NEB = ["connect", "a", "b", "--neb", "--pivots", "3", "--cycles", "3x40@0.05", "--batch-size", "256", "--grid", "7"]
TRAIN = ["train", "--seed", "9", "--epochs", "40", "--keep", "3,30"]


def stop(child: subprocess.Popen[str], path: Path, how: int, after: float) -> str:
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
        pytest.param(SURFACE, signal.SIGKILL, id="surface"),
        pytest.param(TRAIN, signal.SIGKILL, id="train"),
        pytest.param(NEB, signal.SIGKILL, id="neb"),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    args: list[str], how: int, process: Start, path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0.05")
    child = process(*args, "--name", "x", "--device", "cpu", cwd=path.parent, env=dict(os.environ))
    said = stop(child, path, how, random.Random(str(args)).uniform(0, 0.5))
    row = run("log", "--json").rows[-1]
    assert (row["status"], row["name"], row["resumable"], row["resumed"]) == ("interrupted", "x", True, 0)
    if how == signal.SIGINT:
        assert child.returncode == 130
        kept = f"Interrupted. The state at {row['saved']} is saved. Go on with: mgraph resume {row['id']}"
        assert said.strip() == kept
    else:
        assert row["reason"] == "its process is gone"
    assert row["saved"].startswith("cycle " if args is NEB else "step ")
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
