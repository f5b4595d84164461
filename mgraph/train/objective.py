"""What training minimises."""

from __future__ import annotations

from dataclasses import dataclass

from mgraph.data.splits import Split
from mgraph.network.flat import FlatModel
from mgraph.train.losses import Loss


@dataclass(frozen=True)
class Objective:
    """The loss of a network on a split, drawn in batches."""

    flat: FlatModel
    loss: Loss
    split: Split
