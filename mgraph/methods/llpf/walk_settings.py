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
    """How a walk moves, trains and keeps points [L, tables 4 and 5]."""

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"seconds": "max_seconds"})

    seed: int = setting(0, "seed of all randomness of the run", low=0, high=2**63 - 1)
    groups: str = setting(
        AUTO,
        "what moves when: auto (all at once in small networks, else fdf), all, fdf (layers in execution order), or "
        "name patterns like conv1.*;layer1.*;*; each group may have [:TICKS][@STEP]",
    )
    max_groups: int = setting(8, "most groups that fdf makes, by joining neighbouring layers", low=1)
    ticks: int = setting(1500, "most ticks in a phase; it ends early once its layers have arrived", unit="ticks", low=1)
    step_a: float = setting(1e-2, "length of a move, relative to the remaining distance", low=0, high=1)
    step_f: float = setting(0.02, "minimum length of a layer's move", unit="L2", low=0)
    step_c: float = setting(
        0.0, "added to step_f, relative to the layer's distance at the start of the phase", low=0, high=1
    )
    lr: float = setting(0.05, "learning rate of training (without weight decay)", above=0, high=1e30)
    optimizer: str = setting(
        "sgd", "optimiser of training, reset in every tick; by default plain SGD [L]", choices=("sgd", "adamw")
    )
    momentum: float = setting(0.0, "momentum of SGD, or AdamW's beta1", low=0, below=1)
    beta2: float = setting(0.999, "AdamW's beta2", low=0, below=1)
    batch_size: int = setting(64, "examples per iteration", unit="examples", low=1)
    min_iters: int = setting(5, "fewest iterations in a tick; loss_threshold applies to the mean over this many", low=1)
    max_iters: int = setting(30, "most iterations in a tick", low=1)
    take_back: float | None = setting(
        3.0,
        "repeat a tick at half the learning rate if its loss ends above this many times both the threshold and the "
        "loss of the previous tick; the learning rate then recovers by a tenth per tick",
        above=1,
        nothing="never",
    )
    loss_threshold: float | None = setting(
        None,
        "mean batch loss below which a tick stops training (auto: 0.02 or 1.2 times the modes' own, whichever is more)",
        above=0,
        nothing="auto",
    )
    train: str = setting(
        "all", "what training moves: every layer [L], or only the active groups", choices=("all", "active")
    )
    variance_target: str = setting(
        "blend",
        "variance at which each tensor is held: blend goes from the start's to the destination's as its layer "
        "progresses; start keeps the start's, as in [L], which leaves a gap to the destination",
        choices=("blend", "start"),
    )
    variance_eps: float = setting(0.0, "added to both variances in a correction", low=0)
    variance_scope: str = setting(
        "weights",
        "what is corrected: the weights of the active groups, or every tensor, as in the authors' code",
        choices=("weights", "everything"),
    )
    variance_correction: bool = setting(True, "hold the variance of weights on the way to a mode")
    shrink: float = setting(0.65, "m2o: stop once the norm has fallen to this fraction", above=0, below=1)
    origin_ticks: int = setting(1400, "most ticks towards the origin (m2o, across)", unit="ticks", low=1)
    # At 2e-3, training a CNN increased the norm as fast as the steps shrank it (benchmarks/llpf_digits.py).
    origin_step: float = setting(
        5e-3, "length of a move towards the origin, relative to a layer's norm", above=0, high=1
    )
    origin_push: float = setting(
        10.0, "most times farther to move a layer whose norm grows in training as fast as the steps shrink it", low=1
    )
    origin_lr: float | None = setting(
        None, "learning rate on the way towards the origin (same: lr)", above=0, high=1e30, nothing="same"
    )
    conformal: bool = setting(True, "towards the origin, lower a weight's learning rate with its variance")
    keep_every: int = setting(10, "ticks between two kept points, unless the path bends", unit="ticks", low=1)
    piece_error: float = setting(
        0.01,
        "how far the train loss inside a straight piece may rise above its ends before more points are kept",
        low=0,
    )
    check_examples: int = setting(
        1000, "training examples on which kept points and straight pieces are measured", unit="examples", low=2
    )
    log_every: int = setting(1, "ticks between two records of distances and variances", unit="ticks", low=1)
    max_steps: int | None = setting(None, "stop after this many ticks in total", unit="ticks", low=1)
    max_seconds: float | None = setting(
        None, "stop after this much time, and close the path from there", unit="s", above=0
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
