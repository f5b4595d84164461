"""Objects that were given in Python and are in no file: a network, or data in memory.

A graph records what such an object *is* (a digest of the network's structure, the fingerprint of the data) and not the
object itself, which stays in the process: ``object:DIGEST`` is its spec. When the graph is opened again the object is
given again, and is known by that digest.
"""

from __future__ import annotations

from typing import Any

from mgraph.errors import NotFoundError
from mgraph.specs import LIVE, Spec

_objects: dict[str, Any] = {}


def remember(digest: str, thing: Any) -> str:
    """Keep an object as long as this process lives; return its spec."""
    spec = str(Spec(f"{LIVE}:{digest}"))
    _objects[spec] = thing
    return spec


def is_live(spec: Spec) -> bool:
    """Tell whether a spec names such an object."""
    return spec.prefix == LIVE


def recall(spec: Spec, role: str) -> Any:
    """Return the object that a spec names; NotFoundError, saying how to give it again, if it was not given here.

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
