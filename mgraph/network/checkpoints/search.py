"""Find sets of weights in the content of a file: dicts of tensors, wherever they are, and what each of them is.

Trainers wrap a state dict in something (``state_dict``, ``model``, ``module``, ``params_ema``, …), and often two or
three: raw weights and averaged ones. No list of wrappers is complete, so every dict with tensors in it is a candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mgraph.network.checkpoints.inert import Foreign

_DEPTH = 6
_MOST_ITEMS, _MOST_DICTS = 16, 20_000
_ELSEWHERE = re.compile(r"optim|sched|scaler|grad|exp_avg|momentum|rng|loop", re.IGNORECASE)
"""Keys of dicts with tensors that are not weights: an optimizer's moments have the names and shapes of weights."""
_AVERAGED = re.compile(r"(^|[._-])(ema|swa|avg|average|averaged|averaging|polyak|shadow)([._-]|$|\d)", re.IGNORECASE)
EXTRA_STATE = "_extra_state"  # last part of the name under which Module.get_extra_state is saved


@dataclass(frozen=True)
class Candidate:
    """A dict with tensors: ``key`` says where it is, ``entries`` are its tensors and the states beside them.

    ``metadata`` is what ``Module.state_dict`` recorded with it, if anything. ``averaged``: its names say that it is an
    average of weights.
    """

    key: tuple[str, ...]
    entries: Mapping[str, Any]
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)
    averaged: bool = False

    @property
    def label(self) -> str:
        """Its position, with dots; empty for the file itself."""
        return ".".join(self.key)


def candidates(content: Any) -> list[Candidate]:
    """List the dicts with tensors in a file, outer ones first."""
    found: list[Candidate] = []
    swapped = _averaged_in_place(content)
    for key, mapping in _mappings(content):
        entries = _entries(mapping)
        if any(isinstance(value, Tensor) for value in entries.values()):
            averaged = is_averaged(".".join(key)) or "n_averaged" in entries
            if swapped:
                averaged = key == ("state_dict",)
            found.append(Candidate(key, entries, _metadata(mapping), averaged))
    return found


def joined(content: Any) -> list[Candidate]:
    """Flatten dicts of dicts with tensors: {"encoder": {"weight": …}} becomes "encoder.weight"."""
    found = []
    for key, mapping in _mappings(content):
        entries: dict[str, Any] = {}
        parts = {name: value for name, value in pairs(mapping) if isinstance(name, str)}
        for name, value in parts.items():
            if isinstance(value, dict) and not _ELSEWHERE.search(name):
                entries |= {f"{name}.{k}": v for k, v in _entries(value).items()}
            elif isinstance(value, Tensor):
                entries[name] = value
        if entries and any(isinstance(value, dict) for value in parts.values()):
            found.append(Candidate(key, entries, None, is_averaged(".".join(key))))
    return found


def averages(content: Any) -> list[str]:
    """List the keys under which a file says that it has averaged weights, in whatever form."""
    found: list[str] = []
    for key, mapping in _mappings(content):
        for name, value in pairs(mapping):
            outer = len(key) < 2 and not is_averaged(".".join(key))
            if outer and isinstance(name, str) and is_averaged(name) and isinstance(value, dict | list | tuple):
                found.append(".".join((*key, name)))
    return found


def is_averaged(name: str) -> bool:
    """Return whether a key or a prefix says that the weights under it are averaged."""
    return bool(_AVERAGED.search(name))


def pairs(mapping: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """List the items of a dict from a file, regardless of any attributes that the file gave it."""
    return list(dict.items(mapping))


def _entries(mapping: dict[Any, Any]) -> dict[str, Any]:
    """Return the tensors of a dict, and the states and placeholders beside them."""
    return {
        name: value
        for name, value in pairs(mapping)
        if isinstance(name, str) and (isinstance(value, Tensor | Foreign) or name.split(".")[-1] == EXTRA_STATE)
    }


def _mappings(content: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    queue: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for key, value in queue:  # grows during iteration: outer ones first
        inner: list[tuple[Any, Any]] = []
        if isinstance(value, dict):
            yield key, value
            inner = pairs(value)
        elif isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS:
            inner = list(enumerate(value))
        if len(key) < _DEPTH and len(queue) < _MOST_DICTS:
            queue += [
                ((*key, str(k)), v)
                for k, v in inner
                if isinstance(v, dict | list | tuple) and not _ELSEWHERE.search(str(k))
            ]


def _metadata(mapping: Any) -> Mapping[str, Any] | None:
    found = getattr(mapping, "_metadata", None)
    return found if isinstance(found, dict) else None


def _averaged_in_place(content: Any) -> bool:
    """Return whether ``state_dict`` holds the average, with raw weights beside it, as Lightning's callback does."""
    return isinstance(content, dict) and "averaging_state" in content and "current_model_state" in content
