"""Processes that work on a graph until they are killed, from outside at any instant or by their own nth file operation.

They are forked from a server that has imported DuckDB and Zarr and used neither, so that each costs little.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from faultkit.model import Model, operations, verify
from faultkit.workload import Work
from mgraph_store import GraphStore
from mgraph_store.index.instances import Instances

_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.listdir", "os.scandir")


def server() -> ForkServerContext:
    """Return the context whose processes start fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faultkit.crash", "faultkit.power", "zarr", "duckdb"])
    return context


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process of the server."""
    process = server().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def kill_at_random(path: Path, before: Model, seed: int, scratch: Path) -> Model:
    """Let a process work and kill it at a random instant; check the graph and return what it is then."""
    draw = random.Random(seed)
    log = scratch / f"{seed}.log"
    worker = start(work, path, seed, log)
    lines, deadline = draw.randrange(1, 8), time.monotonic() + 60
    while len(log.read_bytes().splitlines() if log.exists() else ()) < lines and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.1))
    worker.kill()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL, worker.exitcode
    return verify(path, before, log)


def kill_at_event(path: Path, before: Model, seed: int, scratch: Path) -> Model:
    """Let a process work and kill itself at its nth file operation; check the graph and return what it is then."""
    draw = random.Random(seed)
    log = scratch / f"{seed}.log"
    worker = start(work_until_event, path, seed, log, draw.randrange(1, 250))
    worker.join()
    assert worker.exitcode == -signal.SIGKILL, worker.exitcode
    return verify(path, before, log)


def limited(path: Path, before: Model, seed: int, scratch: Path) -> tuple[Model, list[str]]:
    """Let a process work while no file may grow beyond a random size; what the graph is then, and how it complained."""
    draw = random.Random(seed)
    log = scratch / f"{seed}.log"
    worker = start(work_limited, path, seed, log, int(2 ** draw.uniform(6, 21)))
    worker.join()
    assert worker.exitcode == 0, worker.exitcode
    return verify(path, before, log), [o["failed"] for o in operations(log) if "failed" in o]


def work(path: Path, seed: int, log: Path, most: int = 1000) -> None:
    """Play random operations."""
    working = Work.at(path, seed, log)
    for _ in range(most):
        working.play()


def work_leaving_log(path: Path, seed: int, log: Path, most: int) -> None:
    """Play random operations like a process that is killed before DuckDB puts them from its log into the file."""
    opened = Instances.opened

    @contextlib.contextmanager
    def without_checkpoint(instances: Instances, index: Path, *, read_only: bool) -> Iterator[Any]:
        with opened(instances, index, read_only=read_only) as con:
            if not read_only:
                con.execute("PRAGMA disable_checkpoint_on_shutdown; SET wal_autocheckpoint = '1GB'")
            yield con

    Instances.opened = without_checkpoint  # type: ignore[method-assign]
    work(path, seed, log, most)


def work_until_event(path: Path, seed: int, log: Path, last: int) -> None:
    """Play random operations up to the nth file operation on the graph."""
    working = Work.at(path, seed, log)
    die_at_event(path, last)
    while True:
        working.play()


def upgrade(path: Path, last: int | None = None) -> None:
    """Upgrade a graph of an older format, up to the nth file operation on it."""
    if last is not None:
        die_at_event(path, last)
    GraphStore(path).upgrade()


def die_at_event(path: Path, last: int) -> None:
    """From now on, kill this process at its nth file operation on a graph."""
    left, own = last, str(path)

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:  # several threads flush files
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        # The store names its files from a descriptor of the directory that they are in.
        if event in _EVENTS and (str(arguments[0]).startswith(own) or not str(arguments[0]).startswith("/")):
            count()

    sys.addaudithook(audit)
    for name in ("fsync", "pwrite", "ftruncate"):  # which no audit event announces
        _before(os, name, count)


def work_limited(path: Path, seed: int, log: Path, limit: int) -> None:
    """Play a few operations while no file may grow beyond a limit, in bytes."""
    working = Work.at(path, seed, log)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for _ in range(6):
        working.play()


def _before(module: Any, name: str, hook: Callable[..., None]) -> None:
    original = getattr(module, name)

    def hooked(*arguments: Any, **options: Any) -> Any:
        hook(*arguments)
        return original(*arguments, **options)

    setattr(module, name, hooked)
