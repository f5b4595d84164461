"""Settings of a nudged elastic band and its schedule of cycles (torch-free)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.settings import Settings, setting
from mgraph.train.augments import augment_setting
from mgraph.train.functions import loss_setting

STOPS = ("gaps", "saddle")
FALLS = 0.01  # a saddle counts as falling if it falls by this fraction in this many cycles
PATIENCE = 2

_STAGE = re.compile(r"(?P<cycles>\d+)x(?P<steps>\d+)(@(?P<lr>[0-9.eE+-]+))?")


@dataclass(frozen=True)
class Stage:
    """Cycles of equal length at one learning rate, written ``CYCLESxSTEPS[@LR]``, e.g. ``4x1000@0.1``."""

    cycles: int
    steps: int
    lr: float | None = None

    @classmethod
    def parse(cls, text: str) -> Stage:
        """Parse one stage; raise InputError saying how a stage is written."""
        found = _STAGE.fullmatch(text.strip())
        if not found:
            raise InputError(f"Cycles are written CYCLESxSTEPS[@LR], e.g. 4x1000@0.1; got {text!r}.")
        cycles, steps = int(found["cycles"]), int(found["steps"])
        if not 1 <= cycles <= 10_000 or not 1 <= steps <= 10**9:
            raise InputError(f"Cycles {text!r} must be at least one cycle of at least one step.")
        try:
            lr = None if found["lr"] is None else float(found["lr"])
        except ValueError:
            lr = -1.0
        if lr is not None and not 0 < lr < 1e30:
            raise InputError(f"The learning rate of cycles {text!r} must be a number above 0.")
        return cls(cycles, steps, lr)


@dataclass(frozen=True, kw_only=True)
class BandSettings(Settings):
    """How a band of pivots relaxes, cycle by cycle, and where pivots are inserted."""

    seed: int = setting(0, "seed of all randomness of the run", low=0, high=2**63 - 1)
    pivots: int = setting(3, "pivots between the two ends at the start", low=1, high=1000)
    cycles: tuple[str, ...] = setting(
        ("5x60",), "cycles in order, each CYCLESxSTEPS[@LR], e.g. 4x1000@0.1,4x1000@0.01", unit="steps"
    )
    lr: float = setting(0.05, "learning rate of cycles that do not give one", above=0, high=1e30)
    batch_size: int = setting(256, "examples per step, the same ones for every pivot", unit="examples", low=1)
    optimizer: str = setting("sgd", "optimiser", choices=("sgd", "adamw"))
    momentum: float = setting(0.9, "momentum of SGD, or AdamW's beta1", low=0, below=1)
    nesterov: bool = setting(False, "Nesterov momentum (sgd)")
    beta2: float = setting(0.999, "AdamW's beta2", low=0, below=1)
    weight_decay: float = setting(1e-4, "weight decay: an L2 penalty in sgd's gradient, decoupled in adamw", low=0)
    spring: float | None = setting(
        None, "constant of the springs between pivots; inf: pivots keep their shares of the length", above=0,
        nothing="inf",
    )  # fmt: skip
    insert: int = setting(2, "most pivots to insert after a cycle, at most one per gap", unit="pivots", low=0)
    gap: float = setting(
        0.1, "insert a pivot where the loss exceeds its pivots' by more than this fraction of the loss's range", low=0
    )
    dense: int = setting(
        9, "points in each gap at which the loss is evaluated after a cycle", unit="points", low=1, high=1000
    )
    dense_examples: int | None = setting(
        None, "training examples for those evaluations, a fixed random subset", unit="examples", low=1, nothing="all"
    )
    noise: float = setting(1e-3, "length of the initial random push of every pivot, relative to the chord", low=0)
    stop: tuple[str, ...] = setting(
        ("saddle",), "what ends the cycles at a learning rate early, comma-separated: gaps (none needs a pivot), "
        "saddle (it fell by less than 1 % in two cycles)",
    )  # fmt: skip
    target: float | None = setting(None, "stop as soon as the train loss between the ends is nowhere higher", above=0)
    max_steps: int | None = setting(None, "stop after this many steps", unit="steps", low=1)
    max_seconds: float | None = setting(
        None, "stop after this much time, finishing the current work", unit="s", above=0
    )
    augment: str | None = augment_setting()
    loss: str | None = loss_setting()
    label_smoothing: float = setting(0.0, "label smoothing of a cross-entropy", low=0, below=1)
    precision: str = setting("fp32", "precision of the network's passes", choices=("fp32", "tf32", "bf16"))
    compile: bool = setting(False, "compile the network with torch.compile (meant for GPUs)")

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError("nesterov=true needs optimizer=sgd and a momentum above 0.")
        if not self.cycles:
            raise InputError("A band needs at least one cycle, e.g. cycles=5x60.")
        self.stages()
        for word in self.stop:
            if word not in STOPS:
                raise InputError(f"stop takes {' and '.join(STOPS)}, with commas, or none; not {word!r}.")

    def stages(self) -> list[Stage]:
        """Return the stages in order."""
        return [Stage.parse(text) for text in self.cycles]
