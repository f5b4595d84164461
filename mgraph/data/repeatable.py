"""Check that a data factory makes the same data in every command, by calling it twice and comparing the results."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from mgraph.data.splits import ArraySplit
from mgraph.data.streaming import DatasetSplit
from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.fields import tensors_of

# Larger arrays are not made a second time just for this: the next command will notice.
_LARGEST = 1 << 26


class RandomState:
    """The global generators of Python, NumPy and PyTorch at one moment."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state(legacy=False)
        self._torch = torch.get_rng_state()

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, RandomState) and repr(self._parts()) == repr(other._parts())

    __hash__ = None  # type: ignore[assignment]

    def restore(self) -> None:
        """Reset the generators to their recorded state."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)

    def _parts(self) -> Any:
        state: Any = self._numpy
        return self._python, state["state"]["key"].tobytes(), state["state"]["pos"], self._torch.numpy().tobytes()


def require_repeatable(
    task: Task, what: str, again: Callable[[], Task], *, before: RandomState, at: RandomState
) -> None:
    """Raise InputError if ``again`` makes data other than ``task``, or if a Dataset in it has random items.

    ``before`` is the random state before the factory's module was imported, ``at`` the state before the factory was
    called; a module that seeds the global generators does so again here. The generators are left as they were found.
    """
    for split in task.splits.values():
        if isinstance(split, DatasetSplit):
            split.require_steady()
    arrays = [s for s in task.splits.values() if isinstance(s, ArraySplit)]
    size = sum(t.nbytes for s in arrays for fields in (s.inputs, s.targets) for t in tensors_of(fields))
    if size > _LARGEST:
        return
    with _left_as_found():
        if before != at:
            at.restore()
        second = again()
    if second.sample != task.sample:
        raise InputError(
            f"{what} makes other data when it is called a second time, but all numbers of a graph must be from the "
            f"same examples: seed its random draws inside it, as with numpy.random.default_rng(0)."
        )


@contextmanager
def _left_as_found() -> Iterator[None]:
    found = RandomState()
    try:
        yield
    finally:
        found.restore()
