"""The user's functions as training settings (torch-free): recorded by a name under which any process finds them.

In Python, the function itself may be given. It is recorded by its name, so that the run can be resumed, read and
repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mgraph import usercode
from mgraph.errors import InputError, MGraphError
from mgraph.factories import find_source, source_of
from mgraph.settings import setting
from mgraph.sources import lies_installed
from mgraph.specs import Spec


def name_of(function: Callable[..., Any], what: str) -> str:
    """Return ``package.module:name`` or ``file.py:name`` of a function; ``what`` is the setting that it is for.

    Raises InputError, saying why and what to do, for a function that no other process could find by name.
    """
    shown = getattr(function, "__qualname__", None) or f"a {type(function).__name__}"
    home = sys.modules.get(getattr(function, "__module__", None) or "")
    module = usercode.plainly(f"{home.__name__}.").rstrip(".") if home is not None else ""
    reason = _why_not(function, module, home)
    if reason is None:
        file = getattr(home, "__file__", None)
        by_module = "." in module or file is None or lies_installed(Path(file))
        spec = Spec(f"{module if by_module else file}:{function.__qualname__}")
        try:
            find_source(spec, base=Path.cwd())
            return str(source_of(spec, typed_in=Path.cwd(), base=Path.cwd())[0])
        except MGraphError as error:
            reason = str(error).rstrip(".")
    raise InputError(
        f"{what} was given as {shown}, which cannot be recorded by a name: {reason}. Define it as a function at the "
        f"top of a file, and give it imported from there, or as {what}='file.py:name'."
    )


def _why_not(function: Callable[..., Any], module: str, home: Any) -> str | None:
    if isinstance(function, partial):
        return "a functools.partial has no name"
    name = getattr(function, "__qualname__", None)
    if name is None or isinstance(function, type):
        return "it is a class" if isinstance(function, type) else "it is an object, not a function"
    if name.endswith("<lambda>"):
        return "a lambda has no name"
    if module == "__main__":
        return "it is defined in the running script or notebook"
    if "." in name:
        return "it is defined inside something else"
    return None if getattr(home, name, None) is function else f"{module or 'no module'} has no such function"


def loss_setting() -> Any:
    """Declare the training loss, the same setting for everything that trains."""
    return setting(
        None,
        "training loss as module:function or file.py:function instead of the task's",
        by_name=partial(name_of, what="loss"),
    )
