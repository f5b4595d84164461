"""What all tests share: a configuration of their own, a small graph, and ways to run commands on it."""

from __future__ import annotations

import atexit
import compileall
import fcntl
import gc
import getpass
import hashlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from warm import Process, Server

# One thread, here and in subprocesses: the networks are tiny, and the numbers then depend on no machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"


def _remove(directory: str, process: int) -> None:
    if os.getpid() == process:  # and no fork of it
        shutil.rmtree(directory, ignore_errors=True)


# In memory where there is room: a commit waits for the disk six times, and nothing here outlives its test.
_RAM, _ROOM = Path("/dev/shm"), 4 << 30
if "TMPDIR" not in os.environ and _RAM.is_dir() and os.access(_RAM, os.W_OK) and shutil.disk_usage(_RAM).free > _ROOM:
    # What outlives the tests stays where it was: compiled kernels, which the next run takes, and the logs of Ray.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
    os.environ.setdefault("RAY_TMPDIR", tempfile.gettempdir())
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_RAM))  # where the last directories of tests are kept
    # Of the processes that tests start, too: those that are killed leave what they had there, which fills the memory.
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t-", dir=_RAM)
    Path(os.environ["TMPDIR"]).chmod(0o1777)  # some tests start processes of another user
    atexit.register(_remove, os.environ["TMPDIR"], os.getpid())
    tempfile.tempdir = None
_TEMPORARY = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()).resolve()

# Some environments keep bytecode from being written; then every process that tests start would compile all of mgraph,
# and pytest rewrite the assertions of every file, each time. So both are kept, here only.
_ROOT = Path(__file__).resolve().parents[1]
_WRITES_NO_BYTECODE, sys.dont_write_bytecode = sys.dont_write_bytecode, False
if "PYTEST_XDIST_WORKER" not in os.environ:
    for _package in ("mgraph", "cli", "store"):
        compileall.compile_dir(_ROOT / _package, quiet=2)

# Next to nothing of what is made until the tests are collected is garbage; to look for it took a quarter of the time.
gc.disable()

ARCH = "cnn?bn=true&channels=4,8&hidden=16,"
_MAIN = "from mgraph_cli.main import main; main()"


# Directories whose tests share no set-up of their own and take long: any process may take any of their tests.
_SPREAD = ("tests/docs/", "tests/faults/")
# Few tests that take long, which come first with those above: at the end, the other processes would wait for them.
_LONG = (
    *("tests/train/test_parallel.py", "tests/graph/test_reproducible.py", "tests/graph/test_explore"),
    *("tests/cli/test_demo.py", "tests/cli/test_toy_demo.py", "tests/cli/test_resume.py", "tests/engines/"),
    *("tests/cli/test_strange_directory.py", "tests/graph/test_own_networks.py", "tests/graph/test_export.py"),
    *("tests/graph/test_programs.py", "tests/graph/test_python_objects.py", "tests/graph/test_merge_honesty.py"),
)

# Directories whose tests export.
_EXPORTING = ("graph", "cli", "docs", "page")


def pytest_configure() -> None:
    """Tell Hypothesis that how long an example takes says only how busy the machine is."""
    import hypothesis  # here, as pytest rewrites it, too, and keeps what it wrote only from now on

    hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("busy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file, or of an ``xdist_group``, to one process: what they share is then made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.rfind("@") > nodeid.rfind("]"):
                return nodeid.rpartition("@")[2]
            return nodeid if nodeid.startswith(_SPREAD) else _file(nodeid)

    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return ByFile(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each worker begin elsewhere in a directory.

    All would otherwise come to a file at the same time, and the first time each would rewrite the assertions of every
    file. So each finds most of them rewritten by the others.
    """
    report = yield
    if "PYTEST_XDIST_WORKER" in os.environ and isinstance(collector, pytest.Directory):
        number, workers = os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"), os.environ["PYTEST_XDIST_WORKER_COUNT"]
        begin = int(number) * len(report.result) // int(workers)
        report.result = report.result[begin:] + report.result[:begin]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Put what takes long first, then files with many tests, so that all processes end at about the same time."""
    items.sort(key=lambda item: item.path.parts)  # the order of collecting, wherever that began
    yield
    counts = Counter(_file(item.nodeid) for item in items)
    # The sort keeps the order of what is alike, so the tests of a file stay together.
    items.sort(key=lambda item: (not item.nodeid.startswith(_SPREAD + _LONG), -counts[_file(item.nodeid)]))


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Leave what was imported out of garbage collections: torch's objects are many, and stay."""
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = _WRITES_NO_BYTECODE
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # the default looks for cycles so often that it takes 3 % of the time
        gc.enable()


@pytest.fixture(scope="session")
def _configurations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directories, one after the other, that are not there yet."""
    root = tmp_path_factory.mktemp("configurations")
    return (root / str(number) for number in count())


@pytest.fixture(autouse=True)
def _surroundings(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _configurations: Iterator[Path]
) -> None:
    """Give a test its own configuration, a DuckDB that has been started, and quick exports.

    One fixture, not three: each takes a tenth of a millisecond, of every test.
    """
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(next(_configurations)))
    monkeypatch.setenv("MGRAPH_CACHE_DIR", str(next(_configurations)))
    monkeypatch.delenv("MGRAPH_GRAPH", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    if request.path.name != _OF_DIRECTORIES:
        _use_one_duckdb(monkeypatch)
    if request.path.parent.name in _EXPORTING:
        _export_quickly({*request.fixturenames}, monkeypatch)


def _export_quickly(fixtures: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run exported programs in this process, and weights not at all, unless a test is about just that.

    A fresh process takes seconds; so does tracing a network for the weights of each test that exports some.
    """
    from importlib import import_module

    def run_here(directory: Path, name: str) -> None:
        del name
        import_module("mgraph.exporting.reload").answer(directory)

    if "fresh_process" not in fixtures:
        monkeypatch.setattr("mgraph.exporting.verification.run_alone", run_here)
    if not {"fresh_process", "verified_weights"} & fixtures:
        for function in ("writing.verify_weights", "ensembles.verify_members"):
            monkeypatch.setattr(f"mgraph.exporting.{function}", lambda *_: None)


# Tests of which directory DuckDB may use.
_OF_DIRECTORIES = "test_instances.py"


def _use_one_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one instance of DuckDB serve all graphs of the tests: starting one takes 20 ms, and each test has a graph."""
    from mgraph_store.index import instances

    def directory(path: Path) -> Path:
        return _TEMPORARY if path.is_relative_to(_TEMPORARY) else path.parent

    monkeypatch.setattr(instances, "_directory", directory)


@pytest.fixture
def verified_weights() -> None:
    """Let exported weights be run, as they are outside the tests, but in this process."""


@pytest.fixture
def fresh_process() -> None:
    """Let exported files be run in a process of their own, as they are outside the tests."""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.stdout)

    @property
    def row(self) -> Any:
        assert self.document["format"] == 1
        return self.document["row"]

    @property
    def rows(self) -> Any:
        assert self.document["format"] == 1
        return self.document["rows"]


class Commands:
    """Runs commands in this process, in a graph's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *args: Any, code: int | None = 0) -> Outcome:
        """Run one and check its exit code, if one is expected."""
        from mgraph_cli.main import cli
        from mgraph_store.index.following import follow_at_last

        separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
        before = Path.cwd()
        os.chdir(self.directory)
        try:
            result = CliRunner(**separate).invoke(cli, [str(a) for a in args], prog_name="mgraph")
        finally:
            os.chdir(before)
        follow_at_last()  # as when a process ends
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert code in (None, result.exit_code), (args, result.exit_code, result.stdout, result.stderr)
        if code == 0:
            assert "Error" not in result.stderr
        return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def commands() -> type[Commands]:
    """Make a runner for a directory."""
    return Commands


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a directory of this name, filled by whichever process of the tests asks first; the others wait for it.

    Tests take copies: what lies in it is everybody's.
    """
    from mgraph_store.index.following import follow_at_last

    here = tmp_path_factory.getbasetemp()
    everybody = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "made-once"
    everybody.mkdir(exist_ok=True)

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        place, done = everybody / name, everybody / f"{name}.done"
        with (everybody / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # of a process that failed halfway
                place.mkdir()
                fill(place)
                follow_at_last()
                done.touch()
        return place

    return make


@pytest.fixture(scope="session")
def template(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A graph of four CNN modes on digits with every kind of connection; copied by those who use it.

    line and curve join a and b, wall and s (a surface) all four; bare joins c and d and was never swept; m is
    merged from s.
    """
    import mgraph

    def fill(place: Path) -> None:
        g = mgraph.create(place / "digits.mgraph", arch=ARCH, data="digits", device="cpu")
        for seed, name in enumerate("abcd"):
            g.train(seed=seed, epochs=6, lr=0.1, name=name)
        g.connect("a", "b", method=mgraph.Linear(), name="line", grid=5)
        g.connect(*"abcd", method=mgraph.Linear(), name="wall", grid=3)
        g.connect("a", "b", method=mgraph.BezierCurve(epochs=2, lr=0.05), name="curve", grid=5)
        s = g.connect(*"abcd", method=mgraph.BezierSurface(epochs=8, lr=0.05), name="s", grid=3)
        g.connect("c", "d", method=mgraph.Linear(), name="bare", sweep=False)
        s.merge(name="m", best=True)

    return made_once("template", fill) / "digits.mgraph"


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A copy of the template graph, alone in the test's directory."""
    return Path(shutil.copytree(template, tmp_path / "digits.mgraph", copy_function=shutil.copyfile))


@pytest.fixture
def graph(path: Path) -> Any:
    """The copy, opened."""
    import mgraph

    return mgraph.open(path, device="cpu")


@pytest.fixture
def run(path: Path) -> Commands:
    """Run commands beside the copy."""
    return Commands(path.parent)


@pytest.fixture(scope="session")
def snapshot() -> Callable[..., dict[str, Any]]:
    """Describe all rows and tensor files of a graph, so that two moments can be compared."""
    known: dict[tuple[str, ...], dict[str, str]] = {}

    def rows(path: Path) -> dict[str, str]:
        from mgraph_store import GraphStore
        from mgraph_store.rows.schema import TABLES

        with GraphStore.open(path).reading() as reader:
            return {table: repr(reader.query(f"SELECT * FROM {table} ORDER BY ALL")) for table in TABLES}

    def describe(path: Path, *, runs: bool = True) -> dict[str, Any]:
        state: dict[str, Any] = {
            part: sorted(str(p.relative_to(path)) for p in (path / part).rglob("*")) for part in ("tensors.zarr", "tmp")
        }
        state["here"] = sorted(p.name for p in path.parent.iterdir())
        # The same bytes are the same rows: most commands that are refused do not even touch the index.
        files = [
            p for p in (path / "index.duckdb", path / "index.duckdb.wal", *path.glob("journal/*.log")) if p.exists()
        ]
        bytes_ = tuple(hashlib.sha1(p.read_bytes(), usedforsecurity=False).hexdigest() for p in files)
        if bytes_ not in known:
            known[bytes_] = rows(path)
        return state | {table: text for table, text in known[bytes_].items() if runs or table != "runs"}

    return describe


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.Popen[str]]:
    """Start ``mgraph ARGS`` as a process of its own."""

    def start(*args: Any, cwd: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _MAIN, *map(str, args)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A job in the background ignores Ctrl-C, and what it starts would, too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        )

    return start


@pytest.fixture(scope="session")
def warm_process() -> Iterator[Callable[..., Process]]:
    """Start ``mgraph ARGS`` as a process of its own that need not import torch."""
    server = Server()
    yield server.start
    server.close()


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Run a script in a fresh Python and return what it printed."""

    def execute(script: str, *args: Any, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, *map(str, args)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return execute
