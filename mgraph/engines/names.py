"""What a call names that another process cannot import."""

from __future__ import annotations

import contextlib
import io
import pickle
import types
from typing import Any

from typing_extensions import override

from mgraph.errors import InputError


class CallNames(pickle.Pickler):
    """Looks at what a call is made of; ``whose`` says in a message whose processes are to make it."""

    def __init__(self, whose: str) -> None:
        super().__init__(io.BytesIO())
        self._whose = whose

    def check(self, call: Any) -> None:
        """Raise InputError if a call names something that is defined in the script itself."""
        with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):  # for the engine to report
            self.dump(call)

    @override
    def persistent_id(self, obj: Any) -> None:
        """Look at one thing in it."""
        if isinstance(obj, type | types.FunctionType) and obj.__module__ == "__main__":
            raise InputError(
                f"{obj.__qualname__} is defined in the script itself, which the processes of {self._whose} do not "
                f"run again; put it into a module and import it."
            )
