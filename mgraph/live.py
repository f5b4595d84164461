"""Python objects that exist in no file: a network, or data in memory.

A graph records what such an object *is* (a digest of the network's structure, the fingerprint of the data), not the
object itself, which stays in the process: ``object:DIGEST`` is its spec. When the graph is opened again, the object is
passed again and recognised by that digest.
"""

from __future__ import annotations

from typing import Any

from mgraph.errors import NotFoundError
from mgraph.specs import LIVE, Spec

_objects: dict[str, Any] = {}


def remember(digest: str, thing: Any) -> str:
    """Keep an object for the lifetime of this process; return its spec."""
    spec = str(Spec(f"{LIVE}:{digest}"))
    _objects[spec] = thing
    return spec


def is_live(spec: Spec) -> bool:
    """Return whether a spec names such an object."""
    return spec.prefix == LIVE


def recall(spec: Spec, role: str) -> Any:
    """Return the object named by a spec; NotFoundError, saying how to pass it again, if it was not passed here.

    ``role`` is ``arch`` or ``data``.
    """
    found = _objects.get(str(spec))
    if found is None:
        what = "network" if role == "arch" else "data"
        raise NotFoundError(
            f"The {what} of this space ({spec}) was given as a Python object, which this process does not have: give "
            f"it again, as in mgraph.open(path, {role}=…)."
        )
    return found
