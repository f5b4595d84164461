"""Sweeps: every point of a grid measured on every split, BatchNorm statistics recomputed for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import Measured, Subset, measure
from mgraph.families import Floats
from mgraph.network.flat import FlatModel, combine
from mgraph.progress import Progress, Report, silent

# One point's numbers: split → metric → value.
PointMetrics = dict[str, dict[str, Measured]]


def sweep(
    flat: FlatModel,
    task: Task,
    rows: Sequence[Tensor],
    coefficients: Floats,
    *,
    policy: BatchNormPolicy,
    subsets: Mapping[str, Subset],
    report: Report = silent,
) -> list[PointMetrics]:
    """Measure θ = Σ c_k P_k for each of S rows of ``coefficients``, shape (S, K), on the splits of ``subsets``.

    ``rows`` are K tensors of shape (size,), as :meth:`FlatModel.pack` makes them. Where one coefficient is 1
    and the others 0, θ is that row bit for bit.
    """
    results: list[PointMetrics] = []
    for done, c in enumerate(coefficients.tolist(), start=1):
        combine(c, rows, flat.theta)
        recompute_statistics(flat, task.train, policy)
        results.append({split: measure(flat, task, split, subset) for split, subset in subsets.items()})
        report(Progress("sweep", done, len(coefficients)))
    return results
