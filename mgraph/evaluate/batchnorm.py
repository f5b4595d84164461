"""BatchNorm statistics of a point; every number records the examples from which they were estimated.

A point on a path is never judged with another point's statistics: they are recomputed for each point, including the
ends [G §3.3]. (With stale ones, the loss was off by more than 1 in measurements on small networks.) Modules that the
network itself keeps frozen are left alone: their statistics are constants. The vectors of spectral normalisation
(:mod:`mgraph.network.spectral`) are also determined by the point, and are recomputed with the statistics.

A network trained on augmented images has statistics of augmented images, and is better with them than with those of the
images as they are. So a policy can augment as the modes were trained; the code of [G] runs this pass over its augmented
training data too (utils.update_bn in dnn-mode-connectivity). Which modes count is :mod:`mgraph.session.policies`'s to
say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from typing_extensions import override

from mgraph.data.splits import Split
from mgraph.network.flat import FlatModel
from mgraph.train.augmentation import ImageAugmentation
from mgraph.train.augments import canonical, is_own, parse_augment

OWN = "own"
NONE = "none"
FROZEN = "frozen"
SPECTRAL = "spectral"
_LARGEST_BATCH, _SMALLEST_BATCH = 500, 16


@dataclass(frozen=True)
class BatchNormPolicy:
    """Recompute statistics from a fixed random subset of training examples, in equal batches.

    ``augment`` is how these are augmented, by built-in parts in their :func:`canonical` spelling; empty: they are not.
    The seed also determines what the augmentation draws.
    """

    examples: int
    batch_size: int
    seed: int = 0
    augment: str = ""

    @classmethod
    def default(cls, train: Split, examples: int = 2000, augment: str = "") -> BatchNormPolicy:
        """Use at most this many training examples, in equal batches of at most 500, or of fewer if they are large."""
        used = min(len(train), examples)
        batches = -(-used // max(_SMALLEST_BATCH, train.batch_of(_LARGEST_BATCH)))
        return cls(used, used // batches, augment=augment)

    @override
    def __str__(self) -> str:
        """Name the policy as it is stored with every number."""
        augmented = f",augment={self.augment}" if self.augment else ""
        return f"recompute(examples={self.examples},batch={self.batch_size},seed={self.seed}{augmented})"

    @cached_property
    def whole_batches(self) -> int:
        """The number of equal batches; a remainder is dropped."""
        return self.examples // self.batch_size


def applicable(augment: str | None) -> str:
    """Return the augmentation of a training as a policy applies it: empty if there is none, or it is the user's own.

    A function of the user's own may change by the time a point is measured, and may need the targets.
    """
    return "" if augment is None or is_own(augment) else canonical(augment)


def recompute_statistics(flat: FlatModel, train: Split, policy: BatchNormPolicy) -> None:
    """Estimate running statistics at the current θ, in place; leave the module in eval mode.

    Only modules with running statistics are in train mode during the pass (dropout stays off); averaging is cumulative.
    Modules that the network keeps frozen stay as they are. A network without any of these is just put into eval mode.
    The result depends on nothing but θ, the data and the policy, and no global random generator is used.
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
    augmented = ImageAugmentation(parse_augment(policy.augment), train, policy.seed) if policy.augment else None
    try:
        with torch.no_grad():
            for number, batch in enumerate(train.batches(policy.batch_size, order=order, device=flat.device)):
                flat.run((batch if augmented is None else augmented(*batch, number))[0])
    finally:
        for m, momentum in zip(flat.statistics, momenta, strict=True):
            m.momentum = momentum
            m.eval()
