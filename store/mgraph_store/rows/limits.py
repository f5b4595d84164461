"""Limits to what the rows of a graph may ask for; beyond them, rows are refused when written, unpacked and read.

A row of a few bytes can ask for any amount of memory and time: a grid of a billion points, a layout of a trillion
parameters, a list in a list in a list. All limits are far above any real use, and are part of the format
(docs/store-format.md). Memory and time that grow with what is really there, rows and tensors, are not limited.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache, lru_cache
from typing import Any

from mgraph_store.rows.records import Connection, Node, Note, PointGrid, Run, Space, Sweep
from mgraph_store.rows.schema import columns

SWEEP_POINTS = 4_000_000
"""Points of one sweep, and of one grid."""

FAMILY_POINTS = 100_000
"""Control points of one family of a connection."""

POLYNOMIAL_POINTS = 1_000
"""Control points of a family whose coefficients are polynomials of such a degree."""

SIMPLEX_CORNERS = 1_000
"""Corners of a simplex."""

LAYOUT_TENSORS = 200_000
"""Tensors of one layout."""

LAYOUT_ELEMENTS = 1 << 38
"""Numbers in all tensors of one layout together: a terabyte in float32."""

RECIPE_DEPTH = 256
"""Nested sums below a derived or partial node."""

RECIPE_NODES = 100_000
"""Nodes from which one node is computed."""

TEXT_CHARACTERS = 1 << 20
"""Characters of a text: of a spec, a note, the reason of a failure."""

JSON_CHARACTERS = 1 << 26
"""Characters of a JSON column."""

JSON_DEPTH = 64
"""Nesting of lists and objects in a JSON column."""

UNPACKED_RATIO, UNPACKED_BYTES = 200, 1 << 26
"""A record of the journal may unpack to this many times its size, or to this many bytes if that is more."""

_CHECKED = (Space, Node, Connection, Sweep, Run, Note)
_JSON: dict[str, type] = {
    "layout": dict,
    "factories": dict,
    "info": dict,
    "family": dict,
    "settings": dict,
    "axes": list,
    "versions": dict,
    "plan": dict,
    "resumptions": list,
    "metrics": list,
}
_NO_TEXT = (
    "id",
    "name",
    "digest",
    "tensor_key",
    "status",
    "kind",
    "codec",
    "columns",
)  # these have their own checks
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_CACHED = 4096  # characters of a text whose check is remembered, because many rows have the same text


def fault(record: Any) -> str | None:
    """Say where a row exceeds a limit or has the wrong form; None if it is all right."""
    kind = type(record)
    if kind not in _CHECKED:
        return _grid_fault(record) if kind is PointGrid else None
    for name, is_json in _texts(kind):  # type: ignore[arg-type]
        text = getattr(record, name)
        if text is None:
            continue
        wrong = (_json_fault if len(text) <= _CACHED else _long_json_fault)(name, text) if is_json else None
        if not is_json and len(text) > TEXT_CHARACTERS:
            wrong = f"has {len(text)} characters, of at most {TEXT_CHARACTERS}"
        if wrong:
            return f"its {name} {wrong}"
    return _sweep_fault(record) if isinstance(record, Sweep) else None


def _grid_fault(grid: PointGrid) -> str | None:
    points = len(grid.u) * len(grid.v)
    return f"it has {points} points, of at most {SWEEP_POINTS}" if points > SWEEP_POINTS else None


def _sweep_fault(sweep: Sweep) -> str | None:
    counts = list(sweep.grid)
    if not counts or any(n < 1 for n in counts):
        return f"its grid is {counts}"
    if math.prod(counts) > SWEEP_POINTS:
        return f"its grid has {math.prod(counts)} points, of at most {SWEEP_POINTS}"
    if sweep.axes is None:
        return None
    axes = json.loads(sweep.axes)
    if [len(axis) if isinstance(axis, list) else -1 for axis in axes] != counts:
        return "its axes do not have as many points as its grid"
    if not all(type(x) in (int, float) and 0 <= x <= 1 for axis in axes for x in axis):
        return "its axes contain something other than numbers between 0 and 1"
    return None


@cache
def _texts(kind: type[Any]) -> tuple[tuple[str, bool], ...]:
    texts = [c for c in columns(kind) if c.type == "VARCHAR" and c.name not in _NO_TEXT]
    return tuple((c.name, c.meaning.startswith("JSON")) for c in texts if c.name[-3:] != "_id")


def _long_json_fault(name: str, text: str) -> str | None:
    if len(text) > JSON_CHARACTERS:
        return f"has {len(text)} characters, of at most {JSON_CHARACTERS}"
    if text.count("[") + text.count("{") > JSON_DEPTH and (depth := _depth(text)) > JSON_DEPTH:
        return f"is {depth} lists and objects deep, of at most {JSON_DEPTH}"
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "is not JSON"
    wanted = _JSON.get(name, (dict, list))
    fits = isinstance(found, wanted)
    if not fits:
        return f"is not a JSON {'object' if wanted is dict else 'list'}"
    if name == "resumptions" and not all(isinstance(r, dict) and isinstance(r.get("when"), str) for r in found):
        return "is not a list of moments"
    if name == "metrics" and not all(isinstance(m, dict) and isinstance(m.get("name"), str) for m in found):
        return "is not a list of metrics with names"
    if name == "factories" and not all(isinstance(f, dict) for f in found.values()):
        return "does not describe factories"
    return None


_json_fault = lru_cache(maxsize=4096)(_long_json_fault)


def _depth(text: str) -> int:
    depth = most = 0
    for token in _TOKEN.findall(text):
        if token in "[{":
            depth += 1
            most = max(most, depth)
        elif token in "]}":
            depth -= 1
    return most
