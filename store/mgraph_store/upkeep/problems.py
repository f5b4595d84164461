"""What a check finds, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

REPAIRABLE, REMAKE, LOST = "repairable", "remake", "lost"
_NAMED = 20  # number of ids that one sentence names


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a sentence, its subject, the outcome, and what to do."""

    what: str
    subject: str
    outcome: str = LOST
    remedy: str = ""


def listed(names: Iterable[Any]) -> str:
    """List names, or the first of very many."""
    names = list(names)
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*map(str, names[:_NAMED]), *more])
