"""A graph's directory that is copied, moved, replaced while a command works, or not what it should be."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm

import mgraph
from mgraph_store import GraphStore, Node, Run, assert_consistent

Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph without modes, quick to make."""
    path = tmp_path_factory.mktemp("bare") / "g.mgraph"
    mgraph.create(path, arch="mlp?hidden=8,", data="digits", device="cpu")
    return path


@pytest.fixture
def training(
    bare: Path, tmp_path: Path, warm_process: Callable[..., warm.Process]
) -> Iterator[tuple[Path, warm.Process]]:
    """A graph, and a command that trains in it, under way."""
    path = Path(shutil.copytree(bare, tmp_path / "g.mgraph"))
    child = warm_process("train", "--epochs", "12", "--name", "late", "--graph", path, cwd=tmp_path)
    store, deadline = GraphStore.open(path), time.monotonic() + 60
    while True:
        with store.reading() as reader:
            if reader.all(Run):
                break
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield path, child
    child.kill()
    child.communicate()


def names(path: Path) -> list[str | None]:
    with GraphStore.open(path).reading() as reader:
        return [node.name for node in reader.all(Node)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_graph_that_is_moved_while_a_command_trains(
    training: tuple[Path, warm.Process], bare: Path, replaced: bool
) -> None:
    path, child = training
    moved = path.with_name("moved.mgraph")
    path.rename(moved)
    if replaced:
        shutil.copytree(bare, path)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert f"Warning: The graph at {path} was moved to {moved} while it was in use" in err
    assert ("something else is there now" in err) is replaced
    assert "late" in out
    assert names(moved) == ["late"]
    assert_consistent(GraphStore.open(moved))
    if replaced:
        assert names(path) == []
        with GraphStore.open(path).reading() as reader:
            assert reader.all(Run) == []
    else:
        assert not path.exists()


def test_what_was_trained_outlives_a_graph_that_is_removed_meanwhile(
    training: tuple[Path, warm.Process], bare: Path, run: Any
) -> None:
    path, child = training
    shutil.rmtree(path)
    shutil.copytree(bare, path)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "was removed while it was in use" in err
    assert "another one is there now" in err
    assert "Traceback" not in err
    assert names(path) == []
    assert "What was trained is in late-unsaved.safetensors" in err
    run("add-mode", "late-unsaved.safetensors", "--name", "late", "--graph", path)
    assert names(path) == ["late"]


def test_copy(run: Any, path: Path) -> None:
    done = run("copy", "backup.mgraph", "--graph", path)
    assert "objects" in done.stdout
    told = json.loads(run("copy", path, "second.mgraph", "--json").stdout)["row"]
    assert told["objects"] > 4
    assert told["unfinished"] == []
    for name in ("backup.mgraph", "second.mgraph"):
        copy = path.parent / name
        assert sorted(map(str, names(copy))) == sorted(map(str, names(path)))
        assert run("check", "--deep", "--graph", copy).stdout == "No problems.\n"
        assert run("mv", "a", "z", "--graph", copy)
    assert "a" in names(path)
    for args, what in (
        (["copy", path, "backup.mgraph"], "exists already"),
        (["copy", path, "no/copy.mgraph"], "Cannot make a copy"),
        (["copy", "no.mgraph", "c.mgraph"], "There is no graph at"),
        (["copy", path, "c.mgraph", "d.mgraph"], "one new directory"),
    ):
        refused = run(*args, code=2)
        assert what in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["backup.mgraph", path.name, "second.mgraph"]


def test_copy_from_python(path: Path) -> None:
    made = mgraph.open(path).copy(path.with_name("c.mgraph"))
    assert made["path"] == str(path.with_name("c.mgraph"))
    assert mgraph.open(made["path"]).check(deep=True).ok


@pytest.mark.parametrize("entry", ["index.lock", "journal", "tmp"])
@pytest.mark.parametrize("command", [["ls"], ["check"], ["gc"], ["tag", "a", "x"], ["sql", "SELECT 1"], ["copy", "c"]])
def test_a_graph_with_a_link_in_it_is_refused(run: Any, bare: Path, path: Path, entry: str, command: list[str]) -> None:
    graph = Path(shutil.copytree(bare, path.with_name("other.mgraph")))
    (shutil.rmtree if (graph / entry).is_dir() else Path.unlink)(graph / entry)
    (graph / entry).symlink_to(path / entry)
    refused = run(*command, "--graph", graph, code=2)
    assert refused.stderr.startswith(f"Error: {entry} in graph {graph} is a symbolic link, where a ")
    assert refused.stderr.count("\n") == 1


def test_ctrl_c_during_a_query(bare: Path, process: Callable[..., Process]) -> None:
    long = "SELECT sum(a.range * b.range) FROM range(100000) a, range(1000000) b"
    child = process("sql", long, "--graph", bare)
    time.sleep(3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (out, child.returncode) == ("", 130)
    assert err.strip().startswith("Interrupted")
