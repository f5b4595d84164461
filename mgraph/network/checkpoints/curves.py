"""Trained curves as saved by the field's reference code (timgaripov/dnn-mode-connectivity, ``curves.py``) [G].

Its ``CurveNet`` holds every parameter K times, ``net.conv1.weight_0`` to ``net.conv1.weight_2``: the first and the last
are the ends, those in between the bends. ``coeff_layer`` holds the family's constants, which identify the family. The
BatchNorm statistics are those of the last t, so they belong to no point. If the curve's modules have names other than
the network's, parameters are matched by their order, as in its ``export_base_parameters``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mgraph.network.checkpoints.choosing import View, covers, views_of
from mgraph.network.checkpoints.files import Content
from mgraph.network.checkpoints.fitting import (
    Build,
    Options,
    fit_view,
    network_names,
)
from mgraph.network.checkpoints.names import Reading, TensorNames
from mgraph.network.checkpoints.search import Candidate, candidates
from mgraph.network.checkpoints.values import FittedCheckpoint
from mgraph_store.rows.layout import Layout

_NUMBERED = re.compile(r"^(?P<name>.+)_(?P<number>\d+)$")
_MOST_POINTS = 100


@dataclass(frozen=True)
class TrainedCurve:
    """A curve in a file: ``points`` are its K control points, from one end to the other, as sets of weights.

    ``method`` is "curve" (Bézier) or "chain" (polygonal), or None if the file does not say.
    """

    key: str
    method: str | None
    points: tuple[View, ...]
    by_order: bool

    @property
    def described(self) -> str:
        """A description for messages."""
        kind = {"curve": "Bézier curve", "chain": "polygonal chain", None: "curve"}[self.method]
        return f"a trained {kind} of {len(self.points)} control points"


def find_curve(content: Content, build: Build, layout: Layout) -> TrainedCurve | None:
    """Recognise a trained curve of the network in the content of a file; return None if there is none."""
    names: TensorNames | None = None
    for candidate in candidates(content.value):
        groups = _groups(candidate.entries)
        if groups is None:
            continue
        names = names or network_names(build(0), layout)
        size = len(next(iter(groups.values())))
        points = [{name: group[k] for name, group in groups.items()} for k in range(size)]
        named = [_by_name(candidate, point, names, layout) for point in points]
        ordered = [] if all(named) else [_by_order(candidate, point, layout) for point in points]
        chosen = [view for view in (named if all(named) else ordered) if view is not None]
        if len(chosen) == size:
            return TrainedCurve(candidate.label, _method(candidate.entries), tuple(chosen), by_order=not all(named))
    return None


def fit_curve(
    curve: TrainedCurve, build: Build, layout: Layout, *, cast: bool = False
) -> tuple[list[FittedCheckpoint], list[str]]:
    """Fit every control point; return them with notes. BatchNorm statistics are left out, to be recomputed."""
    names = network_names(build(0), layout)
    options = Options(cast=cast, recompute=True)
    fitted = [fit_view(view, names, build(0), build, layout, options) for view in curve.points]
    notes = [f"{curve.described}" + (f", taken from {curve.key}" if curve.key else "")]
    if curve.by_order:
        notes.append("parameters matched by their order, because the names differ")
    return fitted, notes + fitted[0].notes


def _groups(entries: Mapping[str, Any]) -> dict[str, list[Tensor]] | None:
    """Return the K tensors of every parameter, in the file's order; None unless all have the same K and one shape."""
    found: dict[str, dict[int, Tensor]] = {}
    for name, value in entries.items():
        numbered = _NUMBERED.match(name)
        if numbered and isinstance(value, Tensor) and not name.split(".")[-1].startswith("num_batches"):
            found.setdefault(numbered["name"], {})[int(numbered["number"])] = value
    sizes = {len(group) for group in found.values()}
    if len(sizes) != 1 or not 2 <= (size := sizes.pop()) <= _MOST_POINTS:
        return None
    whole = all(set(g) == set(range(size)) and len({v.shape for v in g.values()}) == 1 for g in found.values())
    return {name: [group[k] for k in range(size)] for name, group in found.items()} if whole else None


def _by_name(candidate: Candidate, point: Mapping[str, Tensor], names: TensorNames, layout: Layout) -> View | None:
    views = views_of([Candidate(candidate.key, point)], names)
    return next((view for view in views if covers(view, layout)), None)


def _by_order(candidate: Candidate, point: Mapping[str, Tensor], layout: Layout) -> View | None:
    """Match parameters by their order: the same number, with the same shapes and last names."""
    wanted = [t for t in layout.tensors if t.role in ("parameter", "frozen")]
    pairs = list(zip(point.items(), wanted, strict=False))
    alike = [tuple(v.shape) == t.shape and _last(name) == _last(t.name) for (name, v), t in pairs]
    if len(point) != len(wanted) or not all(alike):
        return None
    state: dict[str, Any] = {t.name: value for (_, value), t in pairs}
    return View(Candidate(candidate.key, state), Reading("", "", {name: name for name in state}, (), ()), state)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _method(entries: Mapping[str, Any]) -> str | None:
    parts = {tuple(name.split(".")[-2:]) for name in entries}
    if ("coeff_layer", "binom") in parts:
        return "curve"
    return "chain" if ("coeff_layer", "range") in parts else None
