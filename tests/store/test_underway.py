"""Whether a run is under way is told by the lock that it holds, and by nothing that a clock or a container changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mgraph_store import Run, underway
from mgraph_store.errors import CorruptError
from mgraph_store.index.processes import Process
from mgraph_store.underway import PROCESS, Life, RunLock, Sighting, process_of, versions_of

ID = "rabcdefghijkl"
_HOLD = """
import sys, time
from pathlib import Path
from mgraph_store.underway import RunLock
assert RunLock(Path(sys.argv[1]), sys.argv[2]).acquire()
print("held", flush=True)
time.sleep(60)
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")


@contextmanager
def holder(graph: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock."""
    child = subprocess.Popen([sys.executable, "-c", _HOLD, str(graph), ID], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def noted(process: Process) -> Run:
    """A run under way as that process records it."""
    versions = json.dumps({"torch": "2", PROCESS: process.marks()})
    return Run(ID, "train", "{}", host=process.host, pid=process.pid, versions=versions)


def elsewhere() -> Run:
    return noted(Process("node-a", 7, boot="another", numbers=1, start=1))


@pytest.fixture
def shared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be one that several machines can use at a time."""
    monkeypatch.setattr("mgraph_store.underway._is_local", lambda _: False)


def test_what_holds_its_lock_is_alive_wherever_it_says_that_it_is(tmp_path: Path, shared_disk: None) -> None:
    with holder(tmp_path) as child:
        assert RunLock(tmp_path, ID).is_held()
        assert not RunLock(tmp_path, ID).acquire()
        for run in (elsewhere(), noted(Process.present()), noted(Process.present()._replace(pid=2**22 + 1))):
            assert Sighting.of(tmp_path, run).life is Life.ALIVE
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert RunLock(tmp_path, ID).is_held() is False  # the file is there, nobody has it
        assert Sighting.of(tmp_path, elsewhere()).life is Life.UNKNOWN
        lock = RunLock(tmp_path, ID)
        assert lock.acquire()
        lock.release()
    assert not (tmp_path / "states").exists()
    assert RunLock(tmp_path, ID).is_held() is None


def test_a_free_lock_is_a_process_that_is_gone_where_its_lock_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path):
        pass
    in_another_container = noted(Process.present()._replace(numbers=1, pid=1, host="other"))
    monkeypatch.setattr("mgraph_store.underway._is_local", lambda _: False)
    if sys.platform == "linux":  # the same kernel
        assert Sighting.of(tmp_path, in_another_container).life is Life.GONE
    assert Sighting.of(tmp_path, elsewhere()).life is Life.UNKNOWN
    monkeypatch.setattr("mgraph_store.underway._is_local", lambda _: True)  # no other machine has this disk now
    assert Sighting.of(tmp_path, elsewhere()).life is Life.GONE


@linux
def test_without_a_lock_the_process_itself_is_looked_for(tmp_path: Path, shared_disk: None) -> None:
    here = Process.present()
    assert Sighting.of(tmp_path, noted(here)).life is Life.ALIVE
    assert Sighting.of(None, noted(here)).life is Life.ALIVE
    assert Sighting.of(tmp_path, noted(here._replace(start=1))).life is Life.GONE
    assert Sighting.of(tmp_path, noted(here._replace(pid=2**22 + 1))).life is Life.GONE
    assert Sighting.of(tmp_path, noted(here._replace(numbers=1))).life is Life.UNKNOWN
    assert Sighting.of(tmp_path, elsewhere()).life is Life.UNKNOWN


def test_runs_of_earlier_versions_have_only_host_and_number(tmp_path: Path, shared_disk: None) -> None:
    assert Sighting.of(tmp_path, Run(ID, "train", "{}", host="node-a", pid=7)).life is Life.UNKNOWN
    for damaged in ('{"process": 3}', '{"process": null}', "{}", "[]", "3", "{"):
        run = Run(ID, "train", "{}", host="node-a", pid=7, versions=damaged)
        assert Sighting.of(tmp_path, run).life is Life.UNKNOWN
    assert PROCESS not in versions_of(elsewhere())


def test_the_last_resumption_says_which_process_it_is() -> None:
    here = Process.present()
    run = replace(elsewhere(), host=here.host, pid=here.pid, resumptions=json.dumps([{PROCESS: here.marks()}]))
    assert process_of(run) == here


def test_a_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, ID)
    assert lock.acquire()
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert lock.is_held()
    descriptor = lock._descriptor
    assert descriptor is not None
    underway._held.discard(descriptor)
    os.close(descriptor)  # as if this process were killed
    assert lock.is_held() is False
    os.write(done[1], b"x")
    os.waitpid(child, 0)


@pytest.mark.parametrize("what", ["link", "hard link", "pipe", "link above"])
def test_nothing_is_followed_out_of_the_graph(tmp_path: Path, what: str) -> None:
    graph, outside = tmp_path / "g", tmp_path / "outside"
    directory = graph / "states" / ID
    outside.mkdir()
    (outside / "lock").write_text("precious")
    if what == "link above":
        graph.joinpath("states").mkdir(parents=True)
        directory.symlink_to(outside)
    else:
        directory.mkdir(parents=True)
        if what == "link":
            (directory / "lock").symlink_to(outside / "lock")
        elif what == "hard link":
            (directory / "lock").hardlink_to(outside / "lock")
        else:
            os.mkfifo(directory / "lock")
    lock = RunLock(graph, ID)
    assert lock.is_held() is None
    assert lock.acquire()
    lock.release()
    assert (outside / "lock").read_text() == "precious"


def test_an_id_that_is_none_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="is not an id"):
        RunLock(tmp_path, "../x")
