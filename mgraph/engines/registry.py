"""Engines by their spec strings (none, ``local:2``, ``ray``, ``slurm:8?partition=gpu``), and users' executors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from mgraph.engines.base import Engine, Here
from mgraph.engines.pool import Executor, Pool
from mgraph.errors import InputError

KNOWN = (
    "local:N (N processes here), ray or ray:N (a Ray cluster, at most N at once), slurm:N?partition=… (N jobs at "
    "once), and file.py:function or package.module:function, which returns an executor"
)
_NAMES = ("local", "ray", "slurm")

Load = Callable[[str], Any]
"""Calls the function that a spec names, which runs the user's code."""


def check_engine(spec: str | Engine | Executor | None) -> tuple[str, int | None]:
    """Split a spec into its name and number of places; raise InputError, listing the known ones, if unknown.

    An executor, or code that makes one, is named ``own``; its number of places is not known yet.
    """
    if spec is None or spec == "none":
        return "none", 1
    if not isinstance(spec, str):
        return "own", spec.places if isinstance(spec, Engine) else os.cpu_count()
    name, colon, number = spec.partition("?")[0].partition(":")
    if name not in _NAMES:
        if not number.isidentifier():
            raise InputError(f"There is no engine {spec!r}; known are {KNOWN}.")
        return "own", os.cpu_count()
    if not colon and name == "ray":
        return name, None
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"An engine must have at least 1 worker, as in {name}:2, not {spec!r}.")
    if "?" in spec and name != "slurm":
        raise InputError(f"{name} takes no parameters; give {name}:{number}.")
    return name, int(number)


def open_engine(spec: str | Engine | Executor | None, device: str = "auto", load: Load | None = None) -> Engine:
    """Start an engine; calls will compute on ``device``. Raises InputError if it is unknown or unavailable."""
    name, places = check_engine(spec)
    if name == "ray":
        from mgraph.engines.ray import Ray

        return Ray(places, device)
    if name == "local":
        from mgraph.engines.local import Local

        return Local(places or 1)
    if name == "slurm":
        from mgraph.engines.slurm import open_slurm

        return open_slurm(places or 1, _parameters(str(spec)), None)
    if name == "own":
        if isinstance(spec, str):
            if load is None:
                raise InputError(f"{spec} names code, which is not run here; give the executor itself.")
            spec = load(spec)
        return _opened(spec, places or 1)
    return Here()


def _opened(made: Any, places: int) -> Engine:
    if isinstance(made, Engine):
        return made
    if not isinstance(made, Executor):
        raise InputError(
            f"An engine is an executor, with a method submit(function, *arguments), not a {type(made).__name__}."
        )
    return Pool(made, places)


def _parameters(spec: str) -> dict[str, Any]:
    pairs = parse_qsl(spec.partition("?")[2], keep_blank_values=True)
    return {key: int(value) if value.isdecimal() else value for key, value in pairs}
