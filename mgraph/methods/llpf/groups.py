"""When each layer of a network starts to move: phases given as text, by execution order, or all at once (no torch).

``all`` moves everything; ``fdf`` (follow the data flow [L §4]) stands for groups of layers in execution order; anything
else is a comma-separated group of name patterns. Groups are separated by semicolons and accumulate: once a group moves,
it keeps moving. Each may set its own ticks and relative step: ``all:10000@5e-4;fdf``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING

from mgraph.errors import InputError

if TYPE_CHECKING:
    from mgraph.network.order import Layer

ALL, FDF, AUTO = "all", "fdf", "auto"

_GROUP = re.compile(r"(?P<what>[^:@]+)(:(?P<ticks>[0-9]+))?(@(?P<step>[0-9.eE+-]+))?")


@dataclass(frozen=True)
class GroupSpec:
    """One group as written: ``all``, ``fdf`` or patterns, with its ticks and relative step (None: the default)."""

    what: tuple[str, ...]
    ticks: int | None = None
    step: float | None = None

    @classmethod
    def parse_all(cls, text: str) -> tuple[GroupSpec, ...]:
        """Parse groups separated by semicolons; raise InputError saying how groups are written."""
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if not parts:
            raise _badly_written(text)
        return tuple(cls._parse(part, text) for part in parts)

    @classmethod
    def _parse(cls, part: str, text: str) -> GroupSpec:
        found = _GROUP.fullmatch(part)
        what = tuple(p.strip() for p in found["what"].split(",") if p.strip()) if found else ()
        if not found or not what:
            raise _badly_written(text)
        ticks = None if found["ticks"] is None else int(found["ticks"])
        try:
            step = None if found["step"] is None else float(found["step"])
        except ValueError:
            raise _badly_written(text) from None
        if ticks == 0 or (step is not None and not 0 < step <= 1):
            raise InputError(f"In the group {part!r} ticks are at least 1, and a relative step is above 0, at most 1.")
        if len(what) > 1 and {ALL, FDF} & set(what):
            raise InputError(f"In the group {part!r} {ALL} and {FDF} stand alone; separate groups by semicolons.")
        return cls(what, ticks, step)


@dataclass(frozen=True)
class Group:
    """Parameters that move together in a phase, with the phase's name, ticks and relative step (None: the default)."""

    name: str
    parameters: frozenset[str]
    ticks: int | None = None
    step: float | None = None


def phases_of(text: str, traced: Sequence[Layer], idle: Sequence[Layer], most: int) -> list[Group]:
    """Turn groups as written into phases, each with everything that moves in it.

    ``traced`` are the layers in execution order, ``idle`` the ones that are never executed; ``fdf`` makes at most
    ``most`` groups. A last phase moves what no group names: the idle layers. Raises InputError for a pattern that
    matches nothing, a group that adds nothing to earlier ones, and groups of patterns that leave out a parameter.
    """
    everything = [name for layer in (*traced, *idle) for name in layer.parameters]
    phases: list[Group] = []
    moving: set[str] = set()
    specs = GroupSpec.parse_all(text)
    for spec in specs:
        if spec.what == (ALL,):
            phases.append(Group(ALL, frozenset(everything), spec.ticks, spec.step))
            continue
        for name, added in _flow(traced, most) if spec.what == (FDF,) else [_matched(spec.what, everything)]:
            if added <= moving:
                raise InputError(f"The group {name!r} adds nothing: earlier groups move all that it names.")
            moving |= added
            phases.append(Group(name, frozenset(moving), spec.ticks, spec.step))
    if moving and len(moving) < len(everything):
        left = [name for name in everything if name not in moving]
        if (FDF,) not in [spec.what for spec in specs]:
            raise InputError(
                f"No group moves {', '.join(left[:3])}{', …' if len(left) > 3 else ''}; name every parameter, or end "
                f"with the group *."
            )
        phases.append(Group("the rest", frozenset(everything), specs[-1].ticks, specs[-1].step))
    return phases


def _matched(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, set[str]]:
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise InputError(f"The pattern {pattern!r} in groups matches no parameter; there are {', '.join(names)}.")
        chosen |= matched
    return ",".join(patterns), chosen


def _flow(traced: Sequence[Layer], most: int) -> list[tuple[str, set[str]]]:
    """Group layers in order, each with weights and those after it without; merge neighbours into at most ``most``."""
    runs: list[list[Layer]] = []
    for layer in traced:
        if not runs or (layer.weights and any(other.weights for other in runs[-1])):
            runs.append([])
        runs[-1].append(layer)
    count = min(most, len(runs))
    edges = [round(i * len(runs) / count) for i in range(count + 1)]
    groups = []
    for start, stop in pairwise(edges):
        joined = [layer for run in runs[start:stop] for layer in run]
        first, last = (joined[i].name or "network" for i in (0, -1))
        name = first if first == last else f"{first} … {last}"
        groups.append((name, {parameter for layer in joined for parameter in layer.parameters}))
    return groups


def _badly_written(text: str) -> InputError:
    return InputError(
        f"Groups are written PATTERN,PATTERN[:TICKS][@STEP];…, fdf or all among them, e.g. conv1.*,bn1.*;layer1.*;*, "
        f"not {text!r}."
    )
