"""Ctrl-C in a real process: it stops at the next step, keeps nothing half-made, and says how to go on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm

from mgraph_store import GraphStore, Run, assert_consistent
from mgraph_store.upkeep.check import garbage

Process = subprocess.Popen[str] | warm.Process


NEVER_TRAINED = ("train", ["train", "--epochs", "100000", "--seed", "9", "--name", "never"])


def interrupt(child: Process, path: Path, command: str, after: int) -> tuple[str, str]:
    """Wait until the run of a command is in the log and under way, send SIGINT, and return what was said."""
    store = GraphStore.open(path)
    deadline = time.monotonic() + 60
    while True:
        with store.reading() as reader:
            running = [r for r in reader.all(Run)[after:] if (r.command, r.status) == (command, "running")]
        if running:
            break
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # into the steps
    child.send_signal(signal.SIGINT)
    return child.communicate(timeout=60)


def leftovers(path: Path) -> list[Path]:
    return [*(path / "tmp").iterdir(), *(p for p in path.parent.iterdir() if p.name.startswith("."))]


@pytest.mark.parametrize(
    ("start", "command", "args"),
    [
        # That Ctrl-C also ends the program that imports everything itself, the test of a watched page shows.
        pytest.param("process", *NEVER_TRAINED, marks=pytest.mark.stress),
        ("warm_process", *NEVER_TRAINED),
        ("warm_process", "connect", ["connect", "a", "b", "--curve", "--epochs", "100000", "--name", "never"]),
    ],
)
def test_ctrl_c_while_training(
    request: pytest.FixtureRequest,
    path: Path,
    run: Any,
    snapshot: Callable[..., Any],
    start: str,
    command: str,
    args: list[str],
) -> None:
    before = snapshot(path, runs=False)
    runs = len(run("log", "--json").rows)
    child = request.getfixturevalue(start)(*args, cwd=path.parent)
    out, err = interrupt(child, path, command, runs)
    assert child.returncode == 130
    assert out == ""
    rows = run("log", "--json").rows
    assert len(rows) == runs + 1
    assert err.strip() == f"Interrupted; nothing half-made was stored. Continue with: mgraph resume {rows[-1]['id']}"
    assert (rows[-1]["status"], rows[-1]["reason"]) == ("interrupted", "stopped by the user")
    assert snapshot(path, runs=False) == before
    assert leftovers(path) == []
    run("train", "--epochs", 1, "--name", "never")  # the name is free, the graph is not locked


def test_ctrl_c_while_sweeping_keeps_the_connection(warm_process: Callable[..., Process], path: Path, run: Any) -> None:
    runs = len(run("log", "--json").rows)
    args = ["connect", *"abcd", "--linear", "--name", "kept", "--grid", "300,300", "--graph", str(path), "--json"]
    child = warm_process(*args, cwd=path.parent)
    out, err = interrupt(child, path, "sweep", runs)
    assert (child.returncode, out) == (130, "")
    message = json.loads(err.splitlines()[-1])["error"]
    assert message["kind"] == "interrupted"
    resume = f"mgraph resume {run('log', '--json').rows[-1]['id']} --graph {path}"
    assert message["message"].endswith(f"Continue with: {resume}")
    row = run("show", "kept", "--json").row
    assert (row["status"], row["sweeps"], row["edges"]) == ("complete", [], [])
    assert [r["status"] for r in run("log", "--json").rows[runs:]] == ["complete", "interrupted"]
    assert leftovers(path) == []
    store = GraphStore.open(path)
    assert_consistent(store)
    assert garbage(store) == []
    assert run("sweep", "kept", "--grid", 2, "--json").row["sweeps"][0]["grid"] == [2, 2]


def test_ctrl_c_while_exporting_leaves_no_half_directory(run: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph.exporting.ensembles

    written = 0

    def write(*args: Any, **kwargs: Any) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise KeyboardInterrupt
        original(*args, **kwargs)

    original = mgraph.exporting.ensembles.write_safetensors
    monkeypatch.setattr(mgraph.exporting.ensembles, "write_safetensors", write)
    done = run("export", "s", "--ensemble", "--grid", 3, "-o", "e", code=130)
    assert done.stderr.strip().endswith("Run again: mgraph export s --ensemble --grid 3 -o e")
    assert sorted(p.name for p in path.parent.iterdir()) == ["digits.mgraph"]


def test_ctrl_c_before_the_command_line_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import builtins

    from mgraph_cli.__main__ import main

    original = builtins.__import__

    def interrupted(name: str, *args: Any, **further: Any) -> Any:
        if name == "mgraph_cli.main":
            raise KeyboardInterrupt
        return original(name, *args, **further)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "Interrupted; nothing was started.\n"
