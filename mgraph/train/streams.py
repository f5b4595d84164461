"""The independent random streams of one run, all derived from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Streams:
    """The order of examples, the method's draws, and the seeds for the network's randomness and for augmentation."""

    order: torch.Generator
    draws: np.random.Generator
    network: int
    augment: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        """Derive all four from a run's seed."""
        order, draws, network, augment = np.random.SeedSequence(seed).spawn(4)
        return cls(
            torch.Generator().manual_seed(int(order.generate_state(1, np.uint64)[0] >> np.uint64(1))),
            np.random.default_rng(draws),
            int(network.generate_state(1, np.uint32)[0]),
            int(augment.generate_state(1, np.uint64)[0]),
        )
