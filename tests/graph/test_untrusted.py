"""A stranger's graph runs nothing: every way on which a spec that names code could come to be run is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, UntrustedError
from mgraph_store import Connection, Node, Run, Space, new_id

EVIL = """
from pathlib import Path
Path({pwned!r}).touch()

def net(**_): ...
def data(): ...
def judge(outputs, targets): return outputs.sum()
"""
COMMANDS: tuple[tuple[Any, ...], ...] = (
    ("sweep", "line", "--grid", 3),
    ("train", "--epochs", 1),
    ("connect", "a", "b", "--curve", "--epochs", 1),
    ("merge", "line"),
    ("ensemble", "line"),
    ("sharpness", "a"),
    ("add-mode", "a.safetensors"),
)
CODE = (
    "evil.py:{}",
    "evil.py%3A{}",
    "%65vil.py:{}",
    "evil:{}",
    "./digits.mgraph/../evil.py:{}",
    "subprocess:getoutput",
)
FORGED = (
    "{{}}",
    '{{"{spec}": {{"kind": "file", "path": "evil.py", "hash": "00"}}}}',
    '{{"a": {{"kind": "file", "path": "a.py", "hash": "00"}}}}',
)


@pytest.fixture
def pwned(path: Path) -> Path:
    """The file that appears if any of the stranger's code runs; that code lies in the graph and in the directory."""
    found = path.parent / "pwned"
    for place in (path, path.parent):
        (place / "evil.py").write_text(EVIL.format(pwned=str(found)))
    return found


def spaces_code(path: Path, factories: str, **specs: str) -> None:
    store = mgraph.open(path).session.store
    with store.reading() as reader:
        (space,) = reader.all(Space)
    with store.transaction() as tx:
        tx.update(replace(space, factories=factories.format(spec=next(iter(specs.values()))), **specs))


def refused(run: Any, pwned: Path, *command: Any) -> None:
    """A command is refused as untrusted, exit code 2, before anything ran or was recorded."""
    graph = command[command.index("--graph") :] if "--graph" in command else ()
    runs = len(run("log", "--json", *graph).rows)
    done = run(*command, "--json", code=2)
    assert json.loads(done.stderr.splitlines()[-1])["error"]["kind"] == "untrusted", done.stderr
    assert not pwned.exists()
    assert len(run("log", "--json", *graph).rows) == runs


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_every_command_that_computes_asks(run: Any, path: Path, pwned: Path, command: tuple[Any, ...]) -> None:
    run("export", "a", "-o", "a.safetensors")
    spaces_code(path, "{{}}", arch="evil.py:net")
    refused(run, pwned, *command)
    run("ls")
    run("show", "a")
    run("components", "--max-barrier", 1)
    assert not pwned.exists()


def test_exploring_asks_for_every_pair(run: Any, path: Path, pwned: Path) -> None:
    spaces_code(path, "{{}}", arch="evil.py:net")
    assert "evil.py, which graph" in run("explore", "--max-pairs", 1, code=2).stderr
    assert not pwned.exists()


@pytest.mark.parametrize(("code", "factories"), list(zip(CODE, cycle(FORGED), strict=False)))
@pytest.mark.parametrize("role", ["arch", "data", "loss"])
def test_what_a_space_names_is_asked_for_whatever_it_lists(
    graph: Any, path: Path, pwned: Path, role: str, code: str, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    spaces_code(path, factories, **{role: code.format({"arch": "net", "data": "data", "loss": "judge"}[role])})
    with pytest.raises(UntrustedError, match="code that you have not trusted yet"):
        mgraph.open(path, device="cpu").node("a").evaluate()
    assert not pwned.exists()


def test_parameters_do_not_hide_code(path: Path, pwned: Path) -> None:
    spaces_code(path, "{{}}", data=f"subprocess:getoutput?cmd=touch%20{pwned}")
    with pytest.raises(UntrustedError):
        mgraph.open(path, device="cpu").connection("line").sweep(grid=3)
    assert not pwned.exists()


def test_data_are_not_fetched_into_a_directory_that_only_the_graph_names(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fetched:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            if not download:
                raise RuntimeError("not there")
            Path(root).mkdir(exist_ok=True)
            self.data, self.targets = np.zeros((4, 28, 28), np.uint8), [0, 1, 2, 3]

    monkeypatch.setattr("torchvision.datasets.MNIST", Fetched)
    spaces_code(path, "{{}}", data="mnist?download=true&root=../elsewhere")
    with pytest.raises(UntrustedError, match=r"mnist is not in .*elsewhere, and only the graph says to fetch it there"):
        mgraph.open(path, device="cpu").node("a").evaluate()
    assert not (path.parent / "elsewhere").exists()
    with pytest.raises(InputError, match="are not those that space"):  # fetched, and other data
        mgraph.open(path, device="cpu", trust=True).node("a").evaluate()
    assert (path.parent / "elsewhere").exists()
    mgraph.create(path.parent / "own.mgraph", arch="mlp", data=f"mnist?download=true&root={path.parent}/mine")
    assert (path.parent / "mine").exists()


def planned(path: Path, operation: str, code: str) -> Run:
    """Put an interrupted run into the graph whose plan names code."""
    store = mgraph.open(path).session.store
    with store.reading() as reader:
        (space,) = reader.all(Space)
        connection, *_ = reader.all(Connection, name="line")
        ends = [reader.all(Node, name=name)[0].id for name in "ab"]
    own = {"name": "made", "directory": str(path.parent)}
    plans: Mapping[str, dict[str, Any]] = {
        "train": {"space": space.id, "settings": {"epochs": 1, "loss": code}},
        "connect": {
            "method": "curve",
            "settings": asdict(mgraph.BezierCurve(epochs=1)) | {"loss": code},
            "ends": ends,
            "init": None,
            "same_layout": False,
            "buffers_from": None,
            "sweep": None,
        },
        "method": {
            "operation": "connect",
            "method": code,
            "settings": {},
            "ends": ends,
            "init": None,
            "same_layout": False,
            "buffers_from": None,
            "sweep": None,
        },
        "sweep": {
            "connection": connection.id,
            "grid": [3],
            "axes": None,
            "splits": ["train"],
            "examples": 50,
            "bn_examples": None,
            "precision": "fp32",
            "metrics": [code],
            "refine": None,
            "reuse": True,
        },
    }
    run = Run(
        new_id("r"),
        "connect" if operation == "method" else operation,
        "{}",
        status="interrupted",
        reason="stopped by the user",
        device="cpu",
        threads=1,
        plan=json.dumps({"operation": operation} | own | plans[operation]),
    )
    with store.transaction() as tx:
        tx.add(run)
    return run


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("operation", ["train", "connect", "method", "sweep"])
def test_what_a_plan_names_is_asked_for(run: Any, path: Path, pwned: Path, operation: str, code: str) -> None:
    resumable = planned(path, operation, code.format("judge"))
    refused(run, pwned, "resume", resumable.id)


@pytest.mark.parametrize("operation", ["train", "connect", "method", "sweep"])
def test_plans_are_asked_for_where_the_code_is_loaded_too(
    path: Path, pwned: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The early question is a courtesy: without it nothing runs, either."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("mgraph.operations.resume._require_consent", lambda *_: None)
    resumable = planned(path, operation, "evil.py%3Ajudge")
    with pytest.raises(UntrustedError, match=r"evil.py, which graph .*digits.mgraph names"):
        mgraph.open(path, device="cpu").resume(resumable.id)
    assert not pwned.exists()


def test_a_bundle_brings_no_trust(run: Any, path: Path, pwned: Path) -> None:
    spaces_code(path, "{{}}", arch="evil.py:net")
    run("pack", "line", "-o", "l.zip")
    mgraph.create(path.parent / "other.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")
    said = run("unpack", "l.zip", "--graph", "other.mgraph")
    assert "names code that is not in the bundle and not trusted yet" in said.stderr + said.stdout
    run("unpack", "l.zip", "--new", "new.mgraph")
    for name in ("other.mgraph", "new.mgraph"):
        (path.parent / name / "evil.py").write_text((path / "evil.py").read_text())
        refused(run, pwned, "sweep", "line", "--grid", 3, "--graph", name)


def test_the_users_word_is_remembered_for_this_graph_and_this_code(run: Any, path: Path, pwned: Path) -> None:
    (path.parent / "mine.py").write_text("def half(outputs, targets):\n    return (outputs ** 2).mean()\n")
    resumable = planned(path, "train", "mine.py:half")
    run("resume", resumable.id, "--trust")
    again = planned(path, "train", "mine.py:half")
    store = mgraph.open(path).session.store
    with store.transaction() as tx:
        plan = json.loads(again.plan or "") | {"name": "other"}
        tx.update(replace(again, plan=json.dumps(plan)))
    run("resume", again.id)
    (path.parent / "mine.py").write_text("def half(outputs, targets):\n    return outputs.mean()\n")
    refused(run, pwned, "resume", planned(path, "train", "mine.py:half").id)
