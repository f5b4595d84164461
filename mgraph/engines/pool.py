"""Any executor: one of :mod:`concurrent.futures`, or one with its ``submit`` and futures, such as submitit's."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

from typing_extensions import override

from mgraph.engines.base import ATTEMPTS, Call, Engine, Finished, WorkerLostError
from mgraph.engines.names import CallNames
from mgraph.errors import InputError, MGraphError

_SHORTEST, _LONGEST = 0.05, 2.0  # seconds between checks of futures that cannot be waited for


class Pending(Protocol):
    """A submitted call: a standard-library ``Future``, or a submitit job."""

    def done(self) -> bool:
        """Return whether it has ended, without waiting."""

    def result(self) -> Any:
        """Return what it returned, or raise what it raised."""


@runtime_checkable
class Executor(Protocol):
    """Makes calls in its own processes."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Submit a call; return a :class:`Pending` one."""


class Pool(Engine):
    """Calls on the user's own executor, at most ``places`` at once: ``Pool(executor, places=64)``.

    The executor remains the user's: it is not shut down. Its workers must be able to import mgraph, and see the graph's
    directory under the same path. A call whose worker is lost is made again if the executor accepts it. Raises
    InputError for threads of this process, because calls would share what each must have for itself.
    """

    def __init__(self, executor: Executor, places: int, device: str | None = None) -> None:
        if isinstance(executor, ThreadPoolExecutor):
            raise InputError(
                f"A {type(executor).__name__} makes calls in threads of this process, but connections need "
                f"separate processes; give a ProcessPoolExecutor, or an executor of a cluster."
            )
        if places < 1:
            raise InputError(f"An executor must have at least 1 place, not {places}.")
        self._executor, self.places, self.device = executor, places, device
        self._calls: dict[Any, Call] = {}
        self._stopping = False

    @override
    def submit(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Submit the call; InputError for definitions in the script, which other processes cannot import."""
        CallNames("an executor").check((function, arguments))
        self._start(Call(key, function, arguments))

    @override
    def wait(self, timeout: float | None = None) -> Finished | None:
        """Wait for a call to end, and make it again if its worker was lost."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            pending = self._next(until)
            if pending is None:
                return None
            call = self._calls.pop(pending)
            try:
                return Finished(call.key, pending.result())
            except Exception as error:
                if not _is_lost(pending, error):
                    return Finished(call.key, error=error)
                if self._stopping or call.attempts >= ATTEMPTS or not self._again(call):
                    return Finished(call.key, error=WorkerLostError(call.attempts, error))

    @override
    def interrupt(self) -> None:
        """Cancel what can be cancelled; most executors finish a call that has started, and its result is ignored."""
        self._stopping = True
        for pending in self._calls:
            with suppress(Exception):
                pending.cancel()

    @override
    def __exit__(self, *_: object) -> None:
        """Cancel what is running, and leave the executor to its owner."""
        self.interrupt()
        self._calls.clear()

    def _start(self, call: Call) -> None:
        call.attempts += 1
        self._calls[self._executor.submit(call.function, *call.arguments)] = call

    def _again(self, call: Call) -> bool:
        try:
            self._start(call)
        except Exception:  # a broken pool accepts nothing more
            return False
        return True

    def _next(self, until: float | None) -> Any | None:
        """Return a call that has ended, the earliest submitted first; None when the time is up."""
        if all(isinstance(pending, Future) for pending in self._calls):
            left = None if until is None else max(0.0, until - time.monotonic())
            wait(self._calls, left, return_when=FIRST_COMPLETED)
            return next((pending for pending in self._calls if pending.done()), None)
        pause = _SHORTEST
        while True:
            found = next((pending for pending in self._calls if pending.done()), None)
            if found is not None or (until is not None and time.monotonic() >= until):
                return found
            time.sleep(pause if until is None else min(pause, max(0.0, until - time.monotonic())))
            pause = min(1.5 * pause, _LONGEST)


def _is_lost(pending: Any, error: Exception) -> bool:
    """Return whether a call did not end by itself; executors with their own futures have their own errors for that."""
    if isinstance(pending, Future):
        return isinstance(error, BrokenExecutor | CancelledError)
    return not isinstance(error, MGraphError)
