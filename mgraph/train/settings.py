"""Settings of ordinary training (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from mgraph.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """How a mode is trained: SGD with momentum under the curve schedule of [G]."""

    seed: int = setting(0, "seed of initial values, order of examples and dropout", low=0, high=2**63 - 1)
    epochs: int = setting(40, "passes over the training data", unit="epochs", low=1)
    lr: float = setting(0.05, "learning rate", above=0, high=1e30)
    batch_size: int = setting(64, "examples per step", unit="examples", low=1)
    weight_decay: float = setting(5e-4, "L2 penalty on all trainable parameters", low=0)
    momentum: float = setting(0.9, "SGD momentum", low=0, below=1)
