"""Settings of a walk from one mode to another, or towards the origin, tick by tick (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.methods.llpf.groups import AUTO, GroupSpec
from mgraph.settings import Settings, setting
from mgraph.train.augments import augment_setting
from mgraph.train.functions import loss_setting


@dataclass(frozen=True, kw_only=True)
class WalkSettings(Settings):
    """How a walk moves, trains and keeps points [L, table 4 and 5]."""

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"seconds": "max_seconds"})

    seed: int = setting(0, "seed of all randomness of the run", low=0, high=2**63 - 1)
    groups: str = setting(
        AUTO,
        "what moves when: auto (all at once in small networks, else fdf), all, fdf (layers in the order in which they "
        "compute), or name patterns as conv1.*;layer1.*;*, each group with [:TICKS][@STEP]",
    )
    max_groups: int = setting(8, "groups that fdf makes at most, by joining neighbouring layers", low=1)
    ticks: int = setting(1500, "ticks of a phase at most; it ends when its layers have arrived", unit="ticks", low=1)
    step_a: float = setting(1e-2, "length of a move, relative to the distance that is left", low=0, high=1)
    step_f: float = setting(0.02, "least length of a layer's move", unit="L2", low=0)
    step_c: float = setting(
        0.0, "the same, relative to the layer's distance at the start of the phase; adds to step_f", low=0, high=1
    )
    lr: float = setting(0.05, "learning rate of training, which has no weight decay", above=0, high=1e30)
    optimizer: str = setting(
        "sgd", "optimiser of training, anew in every tick: plain SGD [L] unless told else", choices=("sgd", "adamw")
    )
    momentum: float = setting(0.0, "momentum of SGD, or AdamW's beta1", low=0, below=1)
    beta2: float = setting(0.999, "AdamW's beta2", low=0, below=1)
    batch_size: int = setting(64, "examples per iteration", unit="examples", low=1)
    min_iters: int = setting(5, "iterations of every tick at least, and of the mean that loss_threshold is for", low=1)
    max_iters: int = setting(30, "iterations of a tick at most", low=1)
    take_back: float | None = setting(
        3.0,
        "a tick is done again, at half the learning rate, where its training ends at a loss so many times the "
        "threshold and the tick before; the learning rate then recovers by a tenth a tick",
        above=1,
        nothing="never",
    )
    loss_threshold: float | None = setting(
        None,
        "mean batch loss below which a tick stops training (auto: 0.02, or 1.2 times the modes' own if that is more)",
        above=0,
        nothing="auto",
    )
    train: str = setting(
        "all", "what training moves: every layer [L], or only the active groups", choices=("all", "active")
    )
    variance_target: str = setting(
        "blend",
        "variance that each tensor is held at: blend goes from the start's to the destination's with its layer's "
        "progress; start stays, as in [L], which leaves a gap to the destination",
        choices=("blend", "start"),
    )
    variance_eps: float = setting(0.0, "added to both variances of a correction", low=0)
    variance_scope: str = setting(
        "weights",
        "what is corrected: the weights of the active groups; or every tensor, as the authors' code does",
        choices=("weights", "everything"),
    )
    variance_correction: bool = setting(True, "hold the variance of weights on the way to a mode")
    shrink: float = setting(0.65, "m2o: stop when the norm is this part of what it was", above=0, below=1)
    origin_ticks: int = setting(1400, "ticks towards the origin at most (m2o, across)", unit="ticks", low=1)
    # At 2e-3 training on a CNN grew the norm as fast as the steps shrank it (benchmarks/llpf_digits.py).
    origin_step: float = setting(
        5e-3, "length of a move towards the origin, relative to a layer's norm", above=0, high=1
    )
    origin_push: float = setting(
        10.0, "a layer that training grows as fast as steps shrink it is moved so many times farther at most", low=1
    )
    origin_lr: float | None = setting(
        None, "learning rate on the way towards the origin (same: lr)", above=0, high=1e30, nothing="same"
    )
    conformal: bool = setting(True, "towards the origin, lower a weight's learning rate with its variance")
    keep_every: int = setting(10, "ticks between two points that are kept, unless the path bends", unit="ticks", low=1)
    piece_error: float = setting(
        0.01,
        "how far the train loss inside a straight piece may rise above its ends before points between are kept",
        low=0,
    )
    check_examples: int = setting(
        1000, "training examples that kept points and straight pieces are measured on", unit="examples", low=2
    )
    log_every: int = setting(1, "ticks between two entries of distances and variances", unit="ticks", low=1)
    max_steps: int | None = setting(None, "stop after so many ticks in all", unit="ticks", low=1)
    max_seconds: float | None = setting(
        None, "stop after so much time, and close the path from there", unit="s", above=0
    )
    augment: str | None = augment_setting()
    loss: str | None = loss_setting()
    label_smoothing: float = setting(0.0, "label smoothing of a cross-entropy", low=0, below=1)
    precision: str = setting("fp32", "precision of the network's passes", choices=("fp32", "tf32", "bf16"))
    compile: bool = setting(False, "compile the network with torch.compile (meant for GPUs)")

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups != AUTO:
            GroupSpec.parse_all(self.groups)
        if self.min_iters > self.max_iters:
            raise InputError(f"min_iters={self.min_iters} is more than max_iters={self.max_iters}.")
        if not (self.step_a or self.step_f or self.step_c):
            raise InputError("One of step_a, step_f and step_c must be above 0, or nothing would move.")
