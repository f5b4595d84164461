"""Plans of runs as written by versions that had no jobs yet: the operation and its arguments, each in its own form."""

from __future__ import annotations

import json
from typing import Any

from mgraph.errors import CorruptError
from mgraph.jobs.base import KIND
from mgraph.jobs.reading import shown

_OPERATION = "operation"
_SAME = {
    "train": ("space", "settings", "name", "directory"),
    "connect": ("ends", "name", "init", "same_layout", "buffers_from", "directory"),
    "sweep": (
        "connection",
        "splits",
        "examples",
        "bn_examples",
        "precision",
        "metrics",
        "refine",
        "route_on",
        "reuse",
        "directory",
    ),
}


def brought_up(document: Any) -> dict[str, Any]:
    """Convert a written job to today's form; raise CorruptError for anything else.

    Only its form changes here; the types of its fields are checked where it is read.
    """
    if not isinstance(document, dict):
        raise CorruptError("A job is an object with fields.")
    if KIND in document or _OPERATION not in document:
        return document
    operation = document[_OPERATION]
    if not isinstance(operation, str) or operation not in _SAME:
        raise CorruptError(f"Runs of the operation {shown(operation)} could not be resumed in any version.")
    job = {KIND: operation} | {name: document[name] for name in _SAME[operation] if name in document}
    if operation == "connect":
        job["method"] = {"name": document.get("method"), "settings": document.get("settings")}
        sweep = document.get("sweep")
        job["sweep"] = sweep if not isinstance(sweep, dict) else {k: v for k, v in sweep.items() if v is not None}
    if operation == "sweep":
        axes = document.get("axes")
        job |= {"axes": _axes(axes)} if axes is not None else {"grid": document.get("grid")}
    return job


def _axes(text: Any) -> Any:
    try:
        return json.loads(text)  # JSON inside JSON
    except (TypeError, ValueError):
        raise CorruptError("The axes of the sweep cannot be read.") from None
