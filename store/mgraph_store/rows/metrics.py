"""The metrics that spaces and sweeps record: their names, as used for columns of listings and views."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LOSS = "loss"
DEFAULT = (LOSS, "accuracy")
"""The metrics that listings have columns for if nothing is recorded."""
_ACCURACY: dict[str, object] = {"name": DEFAULT[1], "better": "higher", "best": 1.0, "cost": "error"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_MOST = 50  # columns for each split


_OF_NODES = """SELECT DISTINCT '[{{"name": "' || metric || '"}}]' FROM {db}.evaluation_rows
WHERE sweep_id IS NULL ORDER BY 1"""
RECORDED = {
    "spaces": f"SELECT metrics FROM {{db}}.spaces UNION ALL ({_OF_NODES})",
    "sweeps": "SELECT DISTINCT metrics FROM {db}.sweeps",
}
"""SQL for what is recorded, with ``{db}`` before the tables; of spaces also what their nodes were measured by."""


def metrics_of_format_1(names: Iterable[str]) -> str:
    """Return what a space or sweep of format 1 would have recorded: only accuracy has a direction."""
    others = sorted(set(names) - {LOSS, DEFAULT[1]})
    known = [_ACCURACY] if DEFAULT[1] in names else []
    return json.dumps([*known, *({"name": name} for name in others if _NAME.fullmatch(name))])


def names_in(recorded: Iterable[str]) -> tuple[str, ...]:
    """Return the names in recorded metrics (JSON), each once, the loss first; anything that is not a name is left out.

    If nothing is recorded they are loss and accuracy, so that an empty graph can be queried.
    """
    names = {LOSS: LOSS}
    for text in recorded:
        try:
            for entry in json.loads(text):
                if _NAME.fullmatch(name := entry["name"]):
                    names.setdefault(name.lower(), name)  # column names do not distinguish F1 from f1
        except (ValueError, KeyError, TypeError):
            continue
    found = tuple(names.values())[:_MOST]
    return found if len(found) > 1 else DEFAULT
