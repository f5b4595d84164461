"""Processes on this machine, in the standard library's pool."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from typing_extensions import override

from mgraph.engines.base import ATTEMPTS, Call, Engine, Finished, WorkerLostError
from mgraph.engines.names import CallNames

_LOOK_EVERY = 5.0  # seconds between checks whether the parent has changed


class Local(Engine):
    """``local:N``: N processes, started afresh (spawn), each with its own Python and torch.

    When a process dies, the standard library's pool breaks: a new one is made, and every call that was running is made
    again. The processes end with this one, however it ends. They import the called functions, not the calling script,
    so it needs no main guard, and none of its work is repeated.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._calls: dict[Future[Any], Call] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._stopping = False

    @override
    def submit(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Pass the call to the pool; InputError for definitions in the script, which the processes cannot import."""
        CallNames("an engine local:N").check((function, arguments))
        self._start(Call(key, function, arguments))

    @override
    def wait(self, timeout: float | None = None) -> Finished | None:
        """Wait for a call to end; if a process dies, make the calls again that were lost with it."""
        while True:
            ended, _ = wait(self._calls, timeout, return_when=FIRST_COMPLETED)
            future = next((f for f in self._calls if f in ended), None)  # in the order in which they were made
            if future is None:
                return None
            call, error = self._calls.pop(future), future.exception()
            if not isinstance(error, BrokenProcessPool):
                return Finished(call.key, None if error else future.result(), error)
            if self._stopping or call.attempts >= ATTEMPTS:
                return Finished(call.key, error=WorkerLostError(call.attempts))
            self._again([call, *self._calls.values()])

    def _again(self, lost: list[Call]) -> None:
        """Make calls again in a new pool: all running ones broke when one process died."""
        self._calls.clear()
        self._stop(cut_off=False)
        for call in lost:
            self._start(call)

    @override
    def interrupt(self) -> None:
        """Send SIGINT to the processes."""
        self._stopping = True
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGINT)

    @override
    def __exit__(self, *_: object) -> None:
        """End the processes; running calls are cut off."""
        self._stop(cut_off=bool(self._calls))
        self._calls.clear()

    def _start(self, call: Call) -> None:
        call.attempts += 1
        try:
            # The pool starts one process immediately, and others when there is work.
            with _importing_nothing_from_here(), _without_script():
                future = self._open_pool().submit(call.function, *call.arguments)
        except BrokenProcessPool as error:  # it broke since the last check
            future = Future()
            future.set_exception(error)
        self._calls[future] = call

    def _open_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._before = {p.pid for p in multiprocessing.active_children()}
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.places, context, initializer=_begin)
        return self._pool

    def _processes(self) -> list[Any]:
        if self._pool is None:
            return []
        return [p for p in multiprocessing.active_children() if p.pid not in self._before]

    def _stop(self, *, cut_off: bool) -> None:
        if self._pool is not None:
            for process in self._processes() if cut_off else ():
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@contextlib.contextmanager
def _importing_nothing_from_here() -> Iterator[None]:
    """Keep the working directory, maybe a stranger's, off the import path of processes started here."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


@contextlib.contextmanager
def _without_script() -> Iterator[None]:
    """Start processes inside this block without the script, which they would otherwise run in order to import it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _begin() -> None:
    """Prepare a process: leave Ctrl-C, which a terminal sends to all, to its parent, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="mgraph-parent", daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot stop anyone. Its end of this pipe closes with it, but children that it forked may have
    # copies, so its process number is checked as well.
    parent = multiprocessing.parent_process()
    assert parent is not None
    while not multiprocessing.connection.wait([parent.sentinel], _LOOK_EVERY):
        if os.getppid() != parent.pid:
            break
    os._exit(1)
