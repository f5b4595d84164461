"""The interface of an engine: calls go in, and finished ones come out in the order in which they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from mgraph.errors import MGraphError

ATTEMPTS = 3
"""How often a call is made before its worker's death is considered the call's own fault."""


class WorkerLostError(MGraphError):
    """The worker of a call died repeatedly before the call ended."""

    kind = "worker-lost"

    def __init__(self, attempts: int, error: BaseException | None = None) -> None:
        why = "killed, or out of memory?" if error is None else " ".join(f"{type(error).__name__}: {error}".split())
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(
            f"Its worker ended {times} without a result ({why}); run it alone, without --engine, to see why."
        )


@dataclass(frozen=True)
class Finished:
    """A call that ended: its key, and what it returned or raised."""

    key: Any
    value: Any = None
    error: BaseException | None = None


@dataclass(eq=False)
class Call:
    """A call to be made: its key, and how often it was started."""

    key: Hashable
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    attempts: int = 0


class Engine(AbstractContextManager["Engine"], ABC):
    """Runs calls of module-level functions; a call whose worker is lost is made again.

    ``places`` is how many run at once, ``device`` what they compute on by default (None: they decide). As a context
    manager, it stops its workers at the end, whatever they are doing.
    """

    places: int
    device: str | None = None
    remote: ClassVar[bool] = True  # whether calls run in other processes

    @abstractmethod
    def submit(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Make a call as soon as there is a place for it."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> Finished | None:
        """Wait for the next call to end; only while one is running. None: it took more than ``timeout`` seconds."""

    @abstractmethod
    def interrupt(self) -> None:
        """Ask the running calls to stop, as Ctrl-C would, and repeat none of them."""


class Here(Engine):
    """One call at a time, in this process."""

    remote = False

    def __init__(self) -> None:
        self.places = 1
        self._calls: deque[tuple[Hashable, Callable[..., Any], tuple[Any, ...]]] = deque()

    @override
    def submit(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Queue the call; :meth:`wait` makes it."""
        self._calls.append((key, function, arguments))

    @override
    def wait(self, timeout: float | None = None) -> Finished:
        """Make the next call, however long it takes."""
        del timeout
        key, function, arguments = self._calls.popleft()
        try:
            return Finished(key, function(*arguments))
        except Exception as error:
            return Finished(key, error=error)

    @override
    def interrupt(self) -> None:
        """Do nothing: Ctrl-C has stopped the call itself."""

    @override
    def __exit__(self, *_: object) -> None:
        """Forget what was not started."""
        self._calls.clear()
