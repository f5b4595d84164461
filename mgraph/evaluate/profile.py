"""The sharpness profile: how much the loss changes when every tensor moves by a fraction of its norm [L, appendix L].

S(r) = mean over M directions of |L(θ + r Σ_ℓ ‖θ_ℓ‖ u_ℓ) - L(θ)|, u_ℓ a random unit direction for each tensor ℓ
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.data.task import Task
from mgraph.errors import NonFiniteError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import LOSS, Measured, Subset, measure
from mgraph.evaluate.sharpness import Profile, SharpnessSettings
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in
from mgraph.progress import Progress, ProgressCallback, silent


def direction(parameters: NDArray[np.float32], sizes: Sequence[int], seed: int, number: int) -> NDArray[np.float32]:
    """Return the direction with that number, Σ_ℓ ‖θ_ℓ‖ u_ℓ, shape (D,); ``sizes`` are those of the tensors.

    Drawn from NumPy's default generator seeded with (seed, number), so that a direction depends neither on the device
    nor on how many there are.
    """
    drawn = np.random.default_rng([seed, number]).standard_normal(len(parameters), dtype=np.float32)
    edges = np.cumsum([0, *sizes])
    for start, stop in pairwise(edges):
        u, theta = drawn[start:stop], parameters[start:stop].astype(np.float64)
        u *= np.float32(np.linalg.norm(theta) / np.linalg.norm(u.astype(np.float64)))
    return drawn


def sharpness_profile(
    flat: FlatModel,
    task: Task,
    parameters: NDArray[np.float32],
    sizes: Sequence[int],
    settings: SharpnessSettings,
    *,
    subset: Subset,
    policy: BatchNormPolicy,
    progress: ProgressCallback = silent,
) -> Profile:
    """Measure the profile around a point, shape (D,), canonical, whose tensors have ``sizes``, on a ``subset``.

    BatchNorm statistics are recomputed for every perturbed point, and for θ itself by the same policy: as everywhere,
    no point is judged with another's. Raises NonFiniteError if a loss is not finite.
    """
    theta = flat.pack(torch.from_numpy(np.array(parameters)))
    radii, directions, split = settings.radii, settings.directions, settings.split

    def loss() -> Measured:
        with computing_in(settings.precision, flat.device):
            recompute_statistics(flat, task.train, policy)
        return measure(flat, task, split, subset, precision=settings.precision)[LOSS]

    flat.theta.copy_(theta)
    base = loss()
    if not np.isfinite(base.value):
        raise NonFiniteError(f"The {split} loss of the point itself is {base.value}; nothing was stored.")
    changes = np.zeros((directions, len(radii)))
    for m in range(directions):
        moved = flat.pack(torch.from_numpy(direction(parameters, sizes, settings.seed, m)))
        for i, radius in enumerate(radii):
            torch.add(theta, moved, alpha=radius, out=flat.theta)
            changes[m, i] = abs(loss().value - base.value)
            if not np.isfinite(changes[m, i]):
                raise NonFiniteError(
                    f"The {split} loss became NaN or infinite at radius {radius:g}; nothing was stored. Choose "
                    f"smaller radii."
                )
            progress(Progress("sharpness", m * len(radii) + i + 1, directions * len(radii), base.value))
    flat.theta.copy_(theta)
    return Profile(radii, changes, base.value, base.standard_error)
