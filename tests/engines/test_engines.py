"""Engines run calls, make those again whose worker is lost, and stop when they are asked to."""

from __future__ import annotations

import importlib.util
import multiprocessing
import operator
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mgraph.engines.base import ATTEMPTS, Engine, WorkerLostError
from mgraph.engines.pool import Pool
from mgraph.engines.registry import check_engine, open_engine
from mgraph.errors import InputError
from mgraph_store.index.processes import is_alive

HAS_RAY = importlib.util.find_spec("ray") is not None
NO_RAY = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'mgraph[ray]'")

HELPERS = """
import os, signal, time
from pathlib import Path

def die_once(flag):
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"

def until_interrupted(begun):
    # As the workers of a graph do: the engine's processes ignore Ctrl-C but for where it is wanted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        Path(begun).touch()
        time.sleep(60)
    except KeyboardInterrupt:
        return "stopped"
"""


@pytest.fixture(scope="module")
def helpers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module that workers can import, too."""
    directory = tmp_path_factory.mktemp("helpers")
    (directory / "engine_helpers.py").write_text(HELPERS)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(directory))
    yield importlib.import_module("engine_helpers")
    patch.undo()


RAY = pytest.param("ray:2", marks=[NO_RAY, pytest.mark.filterwarnings("ignore")])
# Ray starts a worker anew for each attempt: that one which dies is replaced, the quick tests say.
LONG_RAY = pytest.param("ray:2", marks=[NO_RAY, pytest.mark.filterwarnings("ignore"), pytest.mark.stress])


# One for all tests of a kind: starting them takes seconds.
@pytest.fixture(scope="module", params=["local:2", RAY])
def engine(request: pytest.FixtureRequest, helpers: Any) -> Iterator[Engine]:
    with open_engine(request.param) as opened:
        yield opened


def ended(engine: Engine) -> Any:
    finished = engine.wait(60)
    assert finished is not None
    return finished


def test_calls_come_back_by_their_keys(engine: Engine) -> None:
    assert engine.places == 2
    for key in range(4):
        engine.submit(key, operator.mul, key, 10)
    assert sorted((f.key, f.value) for f in (ended(engine) for _ in range(4))) == [(k, 10 * k) for k in range(4)]


def test_calls_run_in_other_processes_at_once(engine: Engine) -> None:
    engine.submit("a", time.sleep, 1.5)
    engine.submit("b", os.getpid)
    first, second = ended(engine), ended(engine)
    assert (first.key, second.key) == ("b", "a")
    assert first.value != os.getpid()


def test_an_error_is_the_answer(engine: Engine) -> None:
    engine.submit("bad", operator.truediv, 1, 0)
    finished = ended(engine)
    assert finished.key == "bad"
    assert isinstance(finished.error, ZeroDivisionError)


def test_a_call_whose_worker_dies_is_made_again(engine: Engine, helpers: Any, tmp_path: Path) -> None:
    engine.submit("victim", helpers.die_once, str(tmp_path / "flag"))
    engine.submit("other", time.sleep, 0.3)
    done = {f.key: f for f in (ended(engine), ended(engine))}
    assert done["victim"].value == "alive"
    assert done["other"].error is None


@pytest.mark.parametrize("engine", ["local:2", LONG_RAY], indirect=True)
def test_a_call_that_kills_every_worker_is_given_up(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.submit("killer", os._exit, 1)
    assert isinstance(ended(engine).error, WorkerLostError)
    time.sleep(0.5)  # Ray tells of it in a thread of its own
    assert capfd.readouterr().out == ""
    engine.submit("next", operator.neg, 1)
    assert ended(engine).value == -1


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return


def _listening(pids: set[int]) -> set[str]:
    """Addresses (hexadecimal, as the kernel writes them) at which processes listen."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(file.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


@NO_RAY
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
@pytest.mark.parametrize("engine", [RAY], indirect=True)
def test_a_ray_of_our_own_listens_to_this_machine_only(engine: Engine) -> None:
    engine.submit("x", os.getpid)  # so that there is a worker
    assert ended(engine).value
    ours = {pid for p in Path("/proc").glob("[0-9]*") if os.getpid() in _ancestors(pid := int(p.name))}
    addresses = _listening(ours)
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_ray_that_can_be_reached_is_said_to_be() -> None:
    from mgraph.engines.ray import ReachableWarning, _require_loopback

    class Reachable:
        def __init__(self, address: str) -> None:
            self.nodes = lambda: [{"NodeManagerAddress": address}]

    for address in ("127.0.0.1", "::1", "localhost"):
        _require_loopback(Reachable(address))
    with pytest.warns(ReachableWarning, match=r"listens on 192\.0\.2\.7"):
        _require_loopback(Reachable("192.0.2.7"))


_UNGUARDED = """
import operator, sys
from pathlib import Path

with open(sys.argv[1], "a") as log:
    print("worked", file=log)
from mgraph.engines.registry import open_engine
from mgraph.errors import InputError

def own(x):
    return x

with open_engine("local:2") as engine:
    engine.submit("x", operator.neg, 1)
    print(engine.wait(60).value)
    for call in ((own, 1), (map, own)):
        try:
            engine.submit("y", *call)
        except InputError as error:
            print(error)
"""


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(_UNGUARDED)
    done = subprocess.run([sys.executable, script, log], capture_output=True, text=True, timeout=120, check=True)
    assert log.read_text() == "worked\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "-1"
    assert len(lines) == 3
    assert all(line.startswith("own is defined in the script itself") for line in lines[1:])


_PARENT = """
import os, sys, time
from mgraph.engines.registry import open_engine

with open_engine("local:2") as engine:
    for key in range(2):
        engine.submit(key, os.getpid)
    print(*{engine.wait(60).value for _ in range(2)}, flush=True)
    for key in range(2):
        engine.submit(key, time.sleep, 600)
    if sys.argv[1] == "fork" and os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(20)  # with copies of all that the parent had open
        os._exit(0)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_processes_end_with_their_parent(how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, how], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 15
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_waiting_ends_in_time(engine: Engine) -> None:
    engine.submit("slow", time.sleep, 1)
    assert engine.wait(0.05) is None
    assert ended(engine).key == "slow"


def test_an_interrupted_call_returns_what_it_has(helpers: Any, tmp_path: Path) -> None:
    with open_engine("local:1") as engine:
        engine.submit("long", helpers.until_interrupted, str(tmp_path / "begun"))
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        engine.interrupt()
        assert ended(engine).value == "stopped"


def test_a_call_under_way_is_cut_off_at_the_end() -> None:
    begin = time.monotonic()
    with open_engine("local:1") as engine:
        engine.submit("long", time.sleep, 600)
        engine.wait(0.5)
    assert time.monotonic() - begin < 60


def test_without_an_engine_calls_are_made_here() -> None:
    with open_engine(None) as engine:
        engine.submit(1, os.getpid)
        engine.submit(2, operator.truediv, 1, 0)
        assert engine.wait().value == os.getpid()  # type: ignore[union-attr]
        assert isinstance(ended(engine).error, ZeroDivisionError)
        assert (engine.places, engine.remote) == (1, False)


class Jobs:
    """An executor whose calls are not futures of the standard library, as a cluster's."""

    class Job:
        def __init__(self, future: Any) -> None:
            self._future = future
            self.done, self.result, self.cancel = future.done, future.result, future.cancel

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, function: Any, /, *arguments: Any) -> Any:
        return self.Job(self._executor.submit(function, *arguments))


@pytest.fixture(scope="module")
def processes(helpers: Any) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as opened:
        yield opened


@pytest.mark.parametrize("wrap", [lambda executor: executor, Jobs], ids=["futures", "jobs"])
def test_an_executor_of_ones_own(processes: ProcessPoolExecutor, wrap: Any) -> None:
    with open_engine(Pool(wrap(processes), places=2)) as engine:
        assert (engine.places, engine.remote) == (2, True)
        for key in range(4):
            engine.submit(key, operator.mul, key, 10)
        assert sorted((f.key, f.value) for f in (ended(engine) for _ in range(4))) == [(k, 10 * k) for k in range(4)]
        engine.submit("slow", time.sleep, 1)
        assert engine.wait(0.05) is None
        assert ended(engine).key == "slow"
    assert processes.submit(operator.neg, 1).result() == -1  # it stays its owner's


def test_an_error_of_a_call_on_an_executor_is_the_answer(processes: ProcessPoolExecutor) -> None:
    with open_engine(processes) as engine:
        engine.submit("bad", operator.truediv, 1, 0)
        assert isinstance(ended(engine).error, ZeroDivisionError)


@pytest.mark.parametrize("wrap", [lambda executor: executor, Jobs], ids=["futures", "jobs"])
def test_an_executor_whose_worker_dies_and_that_takes_no_more(wrap: Any) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor, Pool(wrap(executor), 1) as engine:
        engine.submit("killer", os._exit, 1)
        error = ended(engine).error
        assert isinstance(error, WorkerLostError)
        assert "without a result (BrokenProcessPool: " in str(error)


def test_what_is_no_executor_for_this() -> None:
    with (
        ThreadPoolExecutor() as threads,
        pytest.raises(InputError, match=r"threads of this process, .* give a Process"),
    ):
        open_engine(threads)
    with pytest.raises(InputError, match=r"a method submit.* not a int"):
        open_engine(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1 place, not 0"):
        Pool(Jobs(None), 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give the executor itself"):
        open_engine("cluster.py:pool")


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_a_cluster_by_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun
    with pytest.raises(InputError, match=r"SLURM is not available here through submitit: .*srun"):
        open_engine(f"slurm:2?folder={tmp_path}")
    with open_engine(f"slurm:2?cluster=local&timeout_min=2&folder={tmp_path}") as engine:
        engine.submit("a", operator.mul, 6, 7)
        assert ended(engine).value == 42


def test_specs() -> None:
    assert check_engine("slurm:8?partition=gpu") == ("slurm", 8)
    assert check_engine("cluster.py:pool?n=3")[0] == "own"
    assert check_engine(None) == check_engine("none") == ("none", 1)
    assert check_engine("local:3") == ("local", 3)
    assert check_engine("ray") == ("ray", None)
    assert check_engine("ray:4") == ("ray", 4)
    assert ATTEMPTS > 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("dask", "local:N"),
        ("local", "at least 1 worker"),
        ("local:0", "at least 1 worker"),
        ("local:-1", "at least 1 worker"),
        ("local:two", "at least 1 worker"),
        ("ray:0", "at least 1 worker"),
        ("", "There is no engine ''"),
    ],
)
def test_specs_that_are_none(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_engine(spec)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'mgraph\[ray\]'"):
        open_engine("ray")
