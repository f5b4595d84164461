"""Checking the ends of a path against what these modes are on their own.

A sweep measures its ends again. If the numbers differ from those stored with the modes, the middle is measured just as
wrongly, and a barrier of 0 may mean nothing. If nothing is re-estimated, both must agree up to rounding. If statistics
are recomputed, the numbers may change: an end is doubted if it gets worse by more than its standard errors, a tenth,
and what another choice of examples for the statistics would change, taken together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from typing_extensions import override

from mgraph.errors import MGraphWarning
from mgraph.evaluate.batchnorm import recompute_statistics
from mgraph.evaluate.metrics import Measured, measure
from mgraph.evaluate.sweep import PointMetrics
from mgraph.metric import LOSS, Metric
from mgraph.network.precision import computing_in
from mgraph.operations.sweeplog import Conditions
from mgraph.session.members import label
from mgraph.session.workspace import Workspace
from mgraph_store import Edge, Evaluation, Node, Reader, Record

_ERRORS = 5.0  # standard errors
_WORSE = 0.1  # what recomputed statistics may cost, as a share of a loss
_WORSE_OF_BEST = 0.02  # as a share of the best value of a metric that has one, such as accuracy
_SPREAD = 3.0  # times the difference made by other examples for the statistics
_ROUNDING = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
_EXAMPLES = 2  # whose class may change by rounding
_TINY = 1e-5


class EndsDifferWarning(MGraphWarning):
    """An end of a swept path is not what the mode is on its own."""


@dataclass(frozen=True)
class _Difference:
    """One number of an end: as stored with the mode, and as measured by the sweep."""

    end: Node
    split: str
    metric: Metric
    own: Measured
    here: Measured
    recomputed: bool

    @property
    def excess(self) -> float:
        """How far apart they are; if statistics were recomputed, how much worse the sweep's is."""
        if not self.recomputed:
            return abs(self.here.value - self.own.value)
        worse = self.here.value - self.own.value
        return -self.metric.sign * worse

    def allowed(self, precision: str, *, subset: bool) -> float | None:
        """How far apart they may be; None if that is unknown."""
        errors = [m.standard_error for m in (self.here, self.own)]
        sampled = subset or self.recomputed
        if subset and None in errors:
            return None
        limit = _ERRORS * math.hypot(*(e or 0.0 for e in errors)) if sampled else 0.0
        rounding = _ROUNDING[precision]
        if not self.metric.best:
            share = _WORSE if self.recomputed else 0.0
            return limit + (rounding + share) * abs(self.own.value) + _TINY
        share = _WORSE_OF_BEST if self.recomputed else 0.0
        return limit + abs(self.metric.best) * (share + rounding + _EXAMPLES / self.here.count)

    @override
    def __str__(self) -> str:
        return (
            f"the {self.split} {self.metric.name} of {label(self.end)} is {self.own.value:.4g} on its own and "
            f"{self.here.value:.4g} in this sweep"
        )


def doubts(
    reader: Reader,
    workspace: Workspace,
    conditions: Conditions,
    ends: Mapping[int, Node],
    points: Mapping[int, PointMetrics],
    rows: Mapping[int, object],
) -> dict[str, str]:
    """Return, by the id of an end, why its numbers are doubted; ends that cannot be judged, or agree, are left out.

    ``ends``, ``points`` (what the sweep measured there) and ``rows`` (their parameters, packed) have common keys.
    """
    own = reader.all(Evaluation, node_id=[n.id for n in ends.values()], sweep_id=None) if ends else []
    found: dict[str, str] = {}
    for key, end in ends.items():
        if end.space_id != workspace.space.id:
            continue  # its own numbers are from another task
        theirs = [e for e in own if e.node_id == end.id]
        for difference in _differences(end, theirs, points[key], conditions, recomputed=workspace.flat.recomputes):
            subset = conditions.subsets[difference.split].name != "all"
            allowed = difference.allowed(conditions.precision, subset=subset)
            if allowed is None or difference.excess <= allowed:
                continue
            if difference.recomputed:
                allowed += _SPREAD * _spread(workspace, conditions, rows[key], difference)
            if difference.excess > allowed:
                found[end.id] = str(difference)
                break
    return found


def doubted(records: Iterable[Record], reasons: Mapping[str, str]) -> Iterator[Record]:
    """Mark the edges that end at a doubted node."""
    for record in records:
        if isinstance(record, Edge):
            why = [reasons[n] for n in (record.source_id, record.target_id) if n in reasons]
            if why:
                record = replace(record, doubt="; ".join(filter(None, [record.doubt, *why])))
        yield record


def said(reasons: Mapping[str, str]) -> str:
    """Put the reasons into one sentence for a warning."""
    text = "; ".join(reasons.values())
    return (
        f"{text[:1].upper()}{text[1:]}: more than rounding or recomputed statistics explain. The edges that end there "
        f"are marked as doubtful and do not count; does the network hold something that this path does not have, "
        f"such as buffers of another mode?"
    )


def _differences(
    end: Node, own: Sequence[Evaluation], here: PointMetrics, conditions: Conditions, *, recomputed: bool
) -> Iterator[_Difference]:
    further = {metric.name for metric in conditions.metrics}  # which code a saved number of theirs is by is not known
    for split, metrics in here.items():
        for metric in (LOSS, *(m for m in conditions.measured if m.name not in further)):
            rows = [e for e in own if (e.split, e.metric, e.subset) == (split, metric.name, "all")]
            same = [e for e in rows if e.batchnorm == conditions.batchnorm]
            if metric.name not in metrics or not rows or metric.better is None:
                continue
            row = (same or rows)[-1]
            stored = Measured(row.value, row.standard_error, row.count)
            measured = metrics[metric.name]
            if metric is not LOSS and None in (stored.standard_error, measured.standard_error):
                continue  # it is unknown how much a single example matters to it
            if math.isfinite(stored.value) and math.isfinite(measured.value):
                yield _Difference(end, split, metric, stored, measured, recomputed)


def _spread(workspace: Workspace, conditions: Conditions, row: object, difference: _Difference) -> float:
    """Return how far the number moves when the statistics are recomputed from other examples."""
    flat, split = workspace.flat, difference.split
    flat.theta.copy_(row)  # type: ignore[arg-type]
    with computing_in(conditions.precision, flat.device):
        recompute_statistics(flat, workspace.task.train, replace(conditions.policy, seed=conditions.policy.seed + 1))
    again = measure(flat, workspace.task, split, conditions.subsets[split], precision=conditions.precision)
    return abs(again[difference.metric.name].value - difference.here.value)
