"""One computation at a time in a process: threads that request another wait, so that each gets its own results.

Computations use things that exist once per process: torch's default generator, which is seeded for a training and
restored after it, torch's number of threads, and the one network of each space. Threads would disturb each other in all
of these, even on different graphs. Reading a graph needs none of them and does not wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_turn = threading.RLock()  # Ctrl-C can interrupt waiting for it


def our_turn() -> AbstractContextManager[object]:
    """Wait until no other thread computes, and keep others from computing inside a block; nests within one thread."""
    return _turn


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that computes wait for :func:`our_turn`."""

    @wraps(function)
    def when_it_is_our_turn(*args: P.args, **kwargs: P.kwargs) -> T:
        with our_turn():
            return function(*args, **kwargs)

    return when_it_is_our_turn


def _after_in_child() -> None:
    global _turn
    _turn = threading.RLock()  # the thread that held it does not exist here


os.register_at_fork(after_in_child=_after_in_child)
