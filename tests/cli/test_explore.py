"""suggest and explore, as people and programs use them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mgraph_store import GraphStore, assert_consistent

NET = """
from pathlib import Path
from torch import nn

class Net(nn.Module):
    steps = 0
    def __init__(self, classes, input_shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
    def forward(self, x):
        Net.steps += 1
        if Net.steps == 300:
            (Path(__file__).parent / "under-way").touch()
        return self.layers(x)

def make(classes, input_shape):
    return Net(classes, input_shape)
"""


def test_suggest_names_pairs_reasons_and_commands(run: Any) -> None:
    rows = run("suggest", "a", "b", "c", "d", "-n", 9, "-s", "epochs=1", "--json").rows
    # s, wall, line and curve join all four by now; bare was never swept.
    assert rows[0]["step"] == "sweep"
    assert rows[0]["command"] == "mgraph sweep bare"
    assert all(row["reason"].endswith(".") for row in rows)
    new = [row for row in rows if row["step"] != "sweep"]
    assert {row["step"] for row in new} <= {"improve", "fill"}
    assert ["a", "b"] not in [sorted(row["ends"]) for row in new]  # --curve has connected them
    assert new[0]["command"] == f"mgraph connect {' '.join(new[0]['ends'])} --curve -s epochs=1"
    bare = next(row["id"] for row in run("ls", "--kind", "connection", "--json").rows if row["name"] == "bare")
    assert bare == rows[0]["subject"]
    assert run("suggest").stdout == (
        "sweep c d: The linear bare was never swept; until it is swept, it makes no edge.\n  mgraph sweep bare\n"
    )
    assert run("suggest", "--csv").stdout.startswith("step,ends,ids,subject,reason,command\n")
    assert "Nothing to do" in run("suggest", "--until", "components(1000) == 1").stdout


def test_explore_plans_works_and_says_why_it_stopped(run: Any) -> None:
    common = ("explore", "-s", "epochs=1", "--grid", 3, "--max-pairs", 2)
    planned = run(*common, "--plan", "--json").row
    assert [s["step"] == "sweep" for s in planned["steps"]] == [True, False, False]
    assert planned["seconds"] > 0
    assert planned["basis"] == "the median of 1 earlier connection with other settings"
    text = run(*common, "--plan").stdout
    assert "MB of tensors, by the median of 1 earlier connection" in text
    assert "No estimate yet" in run("explore", "--method", "chain", "--max-pairs", 1, "--plan").stdout
    done = run(*common, "--json")
    assert (done.row["connected"], done.row["stopped"]) == (2, "2 pairs were to be connected")
    assert [d["step"] == "sweep" for d in done.row["done"]] == [True, False, False]
    assert all(d["problem"] is None and d["barrier"] >= 0 for d in done.row["done"])
    more = run("explore", "--until", "components(1000) == 1 and max_barrier <= 1e6")
    assert "Stopped: the goal is met: components(1000) == 1 and max_barrier <= 1e+06.\n" in more.stdout
    assert "Goal met: components(1000) = 1, max_barrier = " in more.stdout
    told = run("explore", "-s", "epochs=1", "--grid", 3, "--max-pairs", 1)
    assert "barrier" in told.stderr
    assert run("explore", "--max-pairs", 9, "--budget", "0.000001s", "--csv").stdout.startswith("step,ends,connection,")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["suggest", "--method", "curves"], "Did you mean curve?"),
        (["suggest", "--method", "surface"], "4 modes"),
        (["suggest", "-s", "epochss=1"], "Did you mean epochs?"),
        (["suggest", "a"], "there is only a"),
        (["suggest", "a", "zz"], "zz"),
        (["suggest", "--until", "all joined"], "is not one"),
        (["suggest", "--until", "components(0.1) == 1 and components(0.1) == 2"], "contradict"),
        (["suggest", "--until", "components(0.1) == 9"], "only 4 modes"),
        (["suggest", "--metric", "f1"], "edges are measured by loss, error, and 'f1' is not one of these"),
        (["suggest", "-n", "0"], "at least 1 suggestion"),
        (["explore"], "Say when to stop"),
        (["explore", "--plan"], "Say when to stop"),
        (["explore", "--max-pairs", "0"], "at least 1 pair"),
        (["explore", "--budget", "tomorrow"], "2h, 1h30m"),
        (["explore", "--budget", "-3"], "a number above 0"),
        (["explore", "--max-pairs", "1", "--engine", "pbs"], "known are local:N"),
        (["explore", "--max-pairs", "1", "--engine", "slurm"], "at least 1 worker, as in slurm:2"),
        (["explore", "--max-pairs", "1", "--engine", "local:0"], "at least 1 worker"),
        (["explore", "--max-pairs", "1", "--grid", "1"], "at least 2"),
    ],
)
def test_bad_input(commands: Any, shared: Path, refused: Any, args: list[str], says: str) -> None:
    refused(commands(shared.parent), args, (says,))


def test_a_graph_of_one_mode(commands: Any, template: Path, tmp_path: Path) -> None:
    import mgraph

    g = mgraph.create(tmp_path / "one.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")
    run = commands(tmp_path)
    assert "Connecting needs two modes, and there is none" in run("suggest", code=2).stderr
    g.train(epochs=1, name="alone")
    assert "there is only alone; add modes with mgraph train" in run("explore", "--max-pairs", 1, code=2).stderr


def test_suggesting_and_planning_load_no_torch(path: Path, python: Any) -> None:
    script = """
import sys
from mgraph_cli.main import cli
for args in (["suggest"], ["suggest", "--help"], ["explore", "--max-pairs", "2", "--plan"], ["explore", "--help"]):
    try:
        cli([*args, *(["--graph", sys.argv[1]] if "--help" not in args else [])], prog_name="mgraph")
    except SystemExit as done:
        assert done.code == 0, args
    assert "torch" not in sys.modules, args
"""
    python(script, path)


@pytest.mark.stress
def test_ctrl_c_stops_the_workers_and_keeps_what_they_have(tmp_path: Path, process: Any, commands: Any) -> None:
    import mgraph

    (tmp_path / "net.py").write_text(NET)
    g = mgraph.create(tmp_path / "g.mgraph", arch=f"{tmp_path}/net.py:make", data="digits", device="cpu")
    for seed in range(2):
        g.train(seed=seed, epochs=1)
    saving = os.environ | {"MGRAPH_SAVE_SECONDS": "0.2"}
    working = process("explore", "--max-pairs", 1, "-s", "epochs=200", "--engine", "local:1", cwd=tmp_path, env=saving)
    while not list((g.path / "states").glob("*/state-*.safetensors")):
        assert working.poll() is None, working.communicate()
        time.sleep(0.05)
    working.send_signal(signal.SIGINT)
    _, said = working.communicate(timeout=60)
    assert working.returncode == 130
    assert said.strip().startswith(
        "Interrupted. 0 pairs are connected and stored, 1 was under way; exploring again continues"
    )
    assert said.strip().count("\n") == 0
    assert "Run again: mgraph explore --max-pairs 1" in said
    run = commands(tmp_path)
    assert [r["status"] for r in run("log", "--json").rows][-1] == "interrupted"
    assert run("suggest", "--json").rows[0]["step"] == "resume"
    assert_consistent(GraphStore.open(g.path))
    assert list((g.path / "states").iterdir()) != []
    done = run("explore", "--max-pairs", 1, "--grid", 3, "--engine", "local:1", "--json").row["done"]
    assert [(d["step"], d["problem"]) for d in done] == [("resume", None)]
    runs = [(r["command"], r["status"]) for r in run("log", "--json").rows if r["command"] != "train"]
    assert runs == [("connect", "complete"), ("sweep", "complete")]
    assert not (g.path / "states").exists()
    assert_consistent(GraphStore.open(g.path))
