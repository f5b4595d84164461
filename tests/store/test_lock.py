from __future__ import annotations

import os
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mgraph_store.errors import InputError, LockTimeoutError, StoreError
from mgraph_store.index.lock import GraphLock

HOLD = """
import json, sys, time
from pathlib import Path
from mgraph_store.index.lock import GraphLock
a = json.loads(sys.argv[1])
with getattr(GraphLock(Path(a["path"]), 10), a["mode"])():
    print("held", flush=True)
    time.sleep(a["seconds"])
"""


def test_readers_share_and_a_writer_excludes(tmp_path: Path) -> None:
    with GraphLock(tmp_path).shared():
        _in_thread(lambda: _enter(GraphLock(tmp_path, 1).shared))
        assert isinstance(_in_thread(lambda: _enter(GraphLock(tmp_path, 0.05).exclusive)), LockTimeoutError)
    with GraphLock(tmp_path).exclusive():
        assert isinstance(_in_thread(lambda: _enter(GraphLock(tmp_path, 0.05).shared)), LockTimeoutError)
        assert isinstance(_in_thread(lambda: _enter(GraphLock(tmp_path, 0.05).exclusive)), LockTimeoutError)
    assert _in_thread(lambda: _enter(GraphLock(tmp_path, 1).exclusive)) is None


def test_a_writer_can_go_on_as_a_reader(tmp_path: Path) -> None:
    lock = GraphLock(tmp_path)
    with lock.exclusive() as lower:
        assert lock.is_held()
        lower()
        _in_thread(lambda: _enter(GraphLock(tmp_path, 1).shared))
        assert isinstance(_in_thread(lambda: _enter(GraphLock(tmp_path, 0.05).exclusive)), LockTimeoutError)
        with lock.shared():  # it nests, as in any reading
            pass
        with pytest.raises(StoreError, match="This thread is reading"):
            lock.exclusive().__enter__()
    assert not lock.is_held()
    assert _in_thread(lambda: _enter(GraphLock(tmp_path, 1).exclusive)) is None


def test_a_waiting_writer_comes_before_later_readers(tmp_path: Path) -> None:
    """Without the gate, readers that overlap without a gap would keep a writer out for ever."""
    wrote = threading.Event()

    def write() -> None:
        with GraphLock(tmp_path, 10).exclusive():
            wrote.set()

    writer = threading.Thread(target=write)
    with GraphLock(tmp_path).shared():
        writer.start()
        time.sleep(0.1)  # it waits for us now
        late = _in_thread(lambda: _enter(GraphLock(tmp_path, 0.2).shared))
        assert isinstance(late, LockTimeoutError)
        assert not wrote.is_set()
    writer.join()
    assert wrote.is_set()
    assert _in_thread(lambda: _enter(GraphLock(tmp_path, 1).shared)) is None


@pytest.mark.parametrize(("mode", "doing"), [("exclusive", "writing"), ("shared", "reading")])
def test_a_timeout_names_the_holder(
    tmp_path: Path, python: Callable[..., subprocess.Popen[str]], mode: str, doing: str
) -> None:
    with python(HOLD, path=str(tmp_path), mode=mode, seconds=30) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            started = time.monotonic()
            with pytest.raises(LockTimeoutError, match=rf"process {process.pid} \(-c .*\), {doing}"):
                _take(GraphLock(tmp_path, 0.2))
            assert 0.2 <= time.monotonic() - started < 2
        finally:
            process.kill()
    _take(GraphLock(tmp_path, 2))  # a killed holder holds nothing


def test_a_reader_that_left_is_not_named(tmp_path: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    with GraphLock(tmp_path).shared():
        pass
    with python(HOLD, path=str(tmp_path), mode="shared", seconds=30) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(LockTimeoutError) as caught:
                _take(GraphLock(tmp_path, 0.05))
            assert str(os.getpid()) not in str(caught.value)
        finally:
            process.kill()


def test_one_thread_may_read_twice_but_not_write_meanwhile(tmp_path: Path) -> None:
    lock = GraphLock(tmp_path, 5)
    with lock.shared():
        with GraphLock(tmp_path, 0.05).shared():
            pass
        with pytest.raises(StoreError, match="This thread is reading"), GraphLock(tmp_path, 5).exclusive():
            pass
    _take(lock)


def test_reading_again_does_not_wait_for_a_writer_that_waits_for_us(tmp_path: Path) -> None:
    lock = GraphLock(tmp_path, 5)
    with lock.shared():
        writer = threading.Thread(target=lambda: _take(GraphLock(tmp_path, 5)))
        writer.start()
        time.sleep(0.05)  # it has the gate now
        with GraphLock(tmp_path, 0.5).shared():
            pass
    writer.join()


def test_a_child_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = GraphLock(tmp_path, 1)
    ready, done = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: the child only waits
        with lock.exclusive():
            child = os.fork()
            if child == 0:
                os.close(done)
                os.read(ready, 1)  # until the parent closes its end
                os._exit(0)
    os.close(ready)
    try:
        _take(lock)
    finally:
        os.close(done)
        os.waitpid(child, 0)


def test_the_timeout_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_LOCK_TIMEOUT", "1.5")
    assert GraphLock(tmp_path).timeout == 1.5
    assert GraphLock(tmp_path, 3).timeout == 3
    monkeypatch.setenv("MGRAPH_LOCK_TIMEOUT", "soon")
    with pytest.raises(InputError, match="soon"):
        GraphLock(tmp_path)


def test_rubbish_in_the_lock_file_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "index.lock").write_text('{"pid": ')
    _take(GraphLock(tmp_path, 1))
    (tmp_path / "index.lock").write_text("[1, null]")
    _take(GraphLock(tmp_path, 1))


def _take(lock: GraphLock) -> None:
    with lock.exclusive():
        pass


def _enter(mode: Callable[[], object]) -> BaseException | None:
    try:
        with mode():  # type: ignore[attr-defined]
            return None
    except LockTimeoutError as error:
        return error


def _in_thread(function: Callable[[], BaseException | None]) -> BaseException | None:
    results: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]
