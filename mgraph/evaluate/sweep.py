"""Sweeps: points of a family measured one after another, with BatchNorm statistics recomputed for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import Measured, Subset, measure
from mgraph.families import Floats
from mgraph.metric import Metric
from mgraph.network.flat import FlatModel, combine
from mgraph.network.precision import computing_in
from mgraph.progress import Progress, ProgressCallback, silent

# One point's numbers: split → metric → value.
PointMetrics = dict[str, dict[str, Measured]]


@dataclass(frozen=True)
class Measuring:
    """How each point is measured: BatchNorm statistics by ``policy``, and ``metrics`` besides the task's own."""

    policy: BatchNormPolicy
    metrics: Sequence[Metric] = ()
    precision: str = "fp32"


def sweep(
    flat: FlatModel,
    task: Task,
    rows: Sequence[Tensor],
    coefficients: Floats,
    *,
    how: Measuring,
    subsets: Mapping[str, Subset] | Sequence[Mapping[str, Subset]],
    phase: str = "sweep",
    progress: ProgressCallback = silent,
) -> Iterator[PointMetrics]:
    """Measure θ = Σ c_k P_k for each of S rows of ``coefficients``, shape (S, K), and yield its numbers.

    ``rows`` are K tensors of shape (size,), as :meth:`FlatModel.pack` makes them. If one coefficient is 1 and the
    others 0, θ is that row bit for bit. ``subsets`` names the splits and the examples of each, for all points or
    separately for every point. A point is reported only once the caller has taken it, so a caller that is interrupted
    there has it.
    """
    total = len(coefficients)
    each = [subsets] * total if isinstance(subsets, Mapping) else subsets
    for done, (c, wanted) in enumerate(zip(coefficients.tolist(), each, strict=True), start=1):
        combine(c, rows, flat.theta)
        with computing_in(how.precision, flat.device):
            recompute_statistics(flat, task.train, how.policy)
        yield {
            split: measure(flat, task, split, subset, metrics=how.metrics, precision=how.precision)
            for split, subset in wanted.items()
        }
        progress(Progress(phase, done, total, examples=_examples(task, wanted), called=task.train.called))


def _examples(task: Task, wanted: Mapping[str, Subset]) -> int:
    """Count the examples that a point is measured on."""
    return sum(len(task.splits[name]) if s.order is None else len(s.order) for name, s in wanted.items())
