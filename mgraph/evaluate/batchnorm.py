"""BatchNorm statistics of a point; every number records the examples from which they were estimated.

A point on a path is never judged with another point's statistics: they are recomputed for each point, including the
ends [G §3.3]. (With stale ones, the loss was off by more than 1 in measurements on small networks.) Modules that the
network itself keeps frozen are left alone: their statistics are constants. The vectors of spectral normalisation
(:mod:`mgraph.network.spectral`) are also determined by the point, and are recomputed with the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from typing_extensions import override

from mgraph.data.splits import Split
from mgraph.network.flat import FlatModel

OWN = "own"
NONE = "none"
FROZEN = "frozen"
SPECTRAL = "spectral"
_LARGEST_BATCH, _SMALLEST_BATCH = 500, 16


@dataclass(frozen=True)
class BatchNormPolicy:
    """Recompute statistics from a fixed random subset of unaugmented training examples, in equal batches."""

    examples: int
    batch_size: int
    seed: int = 0

    @classmethod
    def default(cls, train: Split, examples: int = 2000) -> BatchNormPolicy:
        """Use at most this many training examples, in equal batches of at most 500, or of fewer if they are large."""
        used = min(len(train), examples)
        batches = -(-used // max(_SMALLEST_BATCH, train.batch_of(_LARGEST_BATCH)))
        return cls(used, used // batches)

    @override
    def __str__(self) -> str:
        """Name the policy as it is stored with every number."""
        return f"recompute(examples={self.examples},batch={self.batch_size},seed={self.seed})"

    @cached_property
    def whole_batches(self) -> int:
        """The number of equal batches; a remainder is dropped."""
        return self.examples // self.batch_size


def recompute_statistics(flat: FlatModel, train: Split, policy: BatchNormPolicy) -> None:
    """Estimate running statistics at the current θ, in place; leave the module in eval mode.

    Only modules with running statistics are in train mode during the pass (dropout stays off); averaging is cumulative.
    Modules that the network keeps frozen stay as they are. A network without any of these is just put into eval mode.
    """
    flat.module.eval()
    flat.recompute_vectors()
    if not flat.statistics:
        return
    momenta = [m.momentum for m in flat.statistics]
    for m in flat.statistics:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(policy.seed))
    order = order[: policy.whole_batches * policy.batch_size]
    try:
        with torch.no_grad():
            for x, _ in train.batches(policy.batch_size, order=order, device=flat.device):
                flat.run(x)
    finally:
        for m, momentum in zip(flat.statistics, momenta, strict=True):
            m.momentum = momentum
            m.eval()
