"""Settings of training (torch-free): what every training shares, and those of a mode."""

from __future__ import annotations

from dataclasses import dataclass

from mgraph.errors import InputError
from mgraph.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """The optimiser and what it minimises, for modes, paths and surfaces alike."""

    seed: int = setting(0, "seed of all randomness of the run", low=0, high=2**63 - 1)
    optimizer: str = setting("sgd", "optimiser", choices=("sgd", "adamw"))
    lr: float = setting(0.1, "learning rate at the start of each phase", above=0, high=1e30)
    schedule: str = setting(
        "curve",
        "learning rate over a phase: curve (constant, then linear from 50 % to 90 % down to 1 %), cosine, constant",
        choices=("curve", "cosine", "constant"),
    )
    batch_size: int = setting(64, "examples per step", unit="examples", low=1)
    momentum: float = setting(0.9, "SGD momentum, or AdamW's beta1", low=0, below=1)
    nesterov: bool = setting(False, "Nesterov momentum (sgd)")
    beta2: float = setting(0.999, "AdamW's beta2", low=0, below=1)
    weight_decay: float = setting(0.0, "weight decay: an L2 penalty in sgd, decoupled in adamw", low=0)
    clip: float | None = setting(None, "largest norm of the gradient, of all control points together", above=0)
    max_steps: int | None = setting(None, "stop after so many steps", unit="steps", low=1)
    max_seconds: float | None = setting(None, "stop after so much time, and keep what there is", unit="s", above=0)
    loss: str | None = setting(None, "training loss as module:function or file.py:function instead of the task's")
    label_smoothing: float = setting(0.0, "label smoothing of a cross-entropy", low=0, below=1)
    precision: str = setting("fp32", "precision of the network's passes", choices=("fp32", "tf32", "bf16"))
    compile: bool = setting(False, "compile the network with torch.compile (meant for GPUs)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError("nesterov=true needs optimizer=sgd and a momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Optimisation):
    """How a mode is trained: by default SGD with momentum under the curve schedule of [G]."""

    epochs: int = setting(40, "passes over the training data", unit="epochs", low=1)
    lr: float = setting(0.05, "learning rate", above=0, high=1e30)
    weight_decay: float = setting(5e-4, "weight decay: an L2 penalty in sgd, decoupled in adamw", low=0)
    keep: tuple[int, ...] = setting(
        (), "epochs after which a copy is kept as a mode of its own, called NAME-EPOCH", unit="epochs", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.keep) != sorted(set(self.keep)) or any(epoch >= self.epochs for epoch in self.keep):
            raise InputError(f"keep takes rising epochs below epochs={self.epochs}, not {self.keep}.")
