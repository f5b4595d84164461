"""Find what a call refers to that another process cannot import."""

from __future__ import annotations

import contextlib
import io
import pickle
import types
from typing import Any

from typing_extensions import override

from mgraph.errors import InputError


class CallNames(pickle.Pickler):
    """Examines the parts of a call; ``whose`` tells messages whose processes will make it."""

    def __init__(self, whose: str) -> None:
        super().__init__(io.BytesIO())
        self._whose = whose

    def check(self, call: Any) -> None:
        """Raise InputError if a call refers to something defined in the script itself."""
        with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):  # the engine reports these
            self.dump(call)

    @override
    def persistent_id(self, obj: Any) -> None:
        """Examine one object in it."""
        if isinstance(obj, type | types.FunctionType) and obj.__module__ == "__main__":
            raise InputError(
                f"{obj.__qualname__} is defined in the script itself, which the processes of {self._whose} do not "
                f"run again; put it into a module and import it."
            )
