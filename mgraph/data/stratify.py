"""The fixed choice of examples for a validation split."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Recorded with every split made with it. Stored graphs depend on this number: it must never change.
VALID_SEED = 20240229


def stratified_choice(labels: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Choose ``count`` of the examples, proportionally from each class; return their indices, sorted.

    Places that do not divide evenly go to the classes with the largest remainders. The generator is NumPy's
    RandomState, whose stream is frozen for good; that of ``default_rng`` may change between versions.
    """
    if not 0 < count < len(labels):
        raise ValueError(f"cannot choose {count} of {len(labels)} examples")
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quota = np.floor(shares).astype(np.int64)
    order = np.argsort(quota - shares, kind="stable")
    quota[order[: count - int(quota.sum())]] += 1
    random = np.random.RandomState(seed)
    chosen = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
