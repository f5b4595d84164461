"""Settings of training (torch-free): those that all training shares, and those for a mode."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.settings import Settings, format_value, setting
from mgraph.train.augments import augment_setting
from mgraph.train.functions import loss_setting
from mgraph.train.recipes import RECIPES
from mgraph.train.schedules import AVERAGED, check_schedule, name_of

OPTIMIZERS = ("sgd", "adamw", "muon")
TORCH = "torch.optim."

_OPTION = re.compile(r"(?P<name>[a-z_][a-z0-9_]*)=(?P<value>[^=]+)")


def optimizer_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE: true, false, none, a number, numbers joined by colons, or a word; else raise InputError."""
    options = {}
    for pair in pairs:
        found = _OPTION.fullmatch(pair.strip())
        if not found:
            raise InputError(f"optimizer_settings takes NAME=VALUE with commas, e.g. alpha=0.9, not {pair!r}.")
        parts = [_read(part) for part in found["value"].split(":")]
        options[found["name"]] = parts[0] if len(parts) == 1 else tuple(parts)
    return options


def _read(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _written(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ":".join(_written(part) for part in value)
    return "none" if value is None else format_value(value) if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """The optimiser and what it minimises, shared by modes, paths and surfaces."""

    seed: int = setting(0, "seed of all randomness of the run", low=0, high=2**63 - 1)
    optimizer: str = setting("sgd", "optimiser; muon is for modes, paths and surfaces", choices=OPTIMIZERS)
    lr: float = setting(0.1, "learning rate at the start of each phase", above=0, high=1e30)
    schedule: str = setting(
        "curve",
        "learning rate over a phase: curve (constant, then linear from 50 % to 90 % down to 1 %), cosine, constant, "
        "onecycle, multistep?at=60ep,120ep, cyclic?period=4ep, restarts?cycles=5; each with ?warmup=500 (steps)",
        check=check_schedule,
    )
    batch_size: int = setting(64, "examples per step", unit="examples", low=1)
    momentum: float = setting(0.9, "momentum of SGD and Muon, or AdamW's beta1", low=0, below=1)
    nesterov: bool = setting(False, "Nesterov momentum (sgd)")
    beta2: float = setting(0.999, "AdamW's beta2", low=0, below=1)
    weight_decay: float = setting(0.0, "weight decay: an L2 penalty in sgd, else decoupled", low=0)
    clip: float | None = setting(None, "largest norm of the gradient, of all control points together", above=0)
    max_steps: int | None = setting(None, "stop after this many steps", unit="steps", low=1)
    max_seconds: float | None = setting(None, "stop after this much time, keeping the result so far", unit="s", above=0)
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


AUTO = "auto"
_SCHEDULES = {
    "fge": "cyclic?period=4ep&low=0.01",  # [G] section 6: residual networks
    "snapshot": "restarts?cycles=5",  # [G] section 6: the best of Huang et al.'s on VGG-16 and Wide ResNets
    "swa": "swa?from=0.75&low=0.5",  # Izmailov et al. 2018, section 4
}
_KIND_OF_SCHEDULE = {"fge": ("cyclic",), "snapshot": ("restarts",), "swa": AVERAGED}


def _check_schedule_or_auto(text: str) -> None:
    if text != AUTO:
        check_schedule(text)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Optimisation):
    """How a mode is trained: by default with SGD with momentum under the curve schedule of [G].

    ``schedule="auto"`` is immediately replaced by the schedule that it stands for.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {name: recipe.settings for name, recipe in RECIPES.items()}
    )

    references: ClassVar[tuple[str, ...]] = (
        "Garipov et al. (2018). Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs. NeurIPS 2018, "
        "algorithm 1 (fge): α(i) = (1 − 2t) α₁ + 2t α₂ up to t = ½, then (2 − 2t) α₂ + (2t − 1) α₁, with "
        "t = (mod(i − 1, c) + 1) / c",
        "Huang et al. (2017). Snapshot Ensembles: Train 1, Get M for Free. ICLR 2017, equation 2 (snapshot): "
        "α(i) = α₀ / 2 · (cos(π mod(i − 1, T/M) / (T/M)) + 1)",
        "Izmailov et al. (2018). Averaging Weights Leads to Wider Optima and Better Generalization. UAI 2018, "
        "algorithm 1 (swa): w̄ ← (n w̄ + w) / (n + 1)",
        "Foret et al. (2021). Sharpness-Aware Minimization for Efficiently Improving Generalization. ICLR 2021, "
        "algorithm 1 (sam): the gradient at w + ρ ∇L(w) / ‖∇L(w)‖",
        "Wortsman et al. (2021). Learning Neural Network Subspaces. ICML 2021, algorithm 1, without its regulariser "
        "(simplex): w = Σ αₖ ωₖ with α uniform on the simplex; ωₖ moves along n αₖ ∇L(w)",
    )

    epochs: int = setting(40, "passes over the training data", unit="epochs", low=1)
    optimizer: str = setting(
        "sgd",
        "optimiser: sgd, adamw, muon, or any class of torch.optim that takes one gradient per step, e.g. "
        "torch.optim.RMSprop",
    )
    optimizer_settings: tuple[str, ...] = setting(
        (), "settings of a torch.optim class, NAME=VALUE with commas, e.g. alpha=0.9,centered=true or betas=0.9:0.99"
    )
    lr: float = setting(0.05, "learning rate", above=0, high=1e30)
    schedule: str = setting(
        AUTO,
        "learning rate over the training: curve (constant, then linear from 50 % to 90 % down to 1 %), cosine, "
        "constant, onecycle, multistep?at=60ep,120ep, cyclic?period=4ep, restarts?cycles=5, swa; each with ?warmup=500 "
        f"(steps). auto: curve; with fge {_SCHEDULES['fge']}, with snapshot {_SCHEDULES['snapshot']}, with swa "
        f"{_SCHEDULES['swa']}",
        check=_check_schedule_or_auto,
    )
    weight_decay: float = setting(
        5e-4, "weight decay: an L2 penalty in sgd, decoupled in adamw and muon, a torch.optim class's own", low=0
    )
    decay_norms: bool = setting(
        True, "whether weight decay also acts on one-dimensional tensors: biases, scales and shifts of normalisation"
    )
    ema: float | None = setting(
        None, "keep a running average of the weights, with this decay per step, as a separate mode: NAME-ema",
        above=0, below=1,
    )  # fmt: skip
    order_seed: int | None = setting(
        None, "seed of all randomness but the initial weights: order of examples, augmentation, dropout (same: seed)",
        low=0, high=2**63 - 1, nothing="same",
    )  # fmt: skip
    keep: tuple[int, ...] = setting(
        (), "epochs after which a copy is kept as a mode of its own, called NAME-EPOCH", unit="epochs", low=1
    )
    fge: bool = setting(
        False,
        "fast geometric ensembling from a trained mode (--init): a cyclic schedule, and a member, NAME-1, NAME-2, …, "
        "at each of its lowest rates",
        alone="true",
    )
    snapshot: bool = setting(
        False,
        "snapshot ensemble: a schedule of restarts, and a member, NAME-1, NAME-2, …, at the end of each of its cycles",
        alone="true",
    )
    swa: bool = setting(
        False,
        "keep the mean of the weights, at the end of each late epoch or cycle, as a mode of its own: NAME-swa",
        alone="true",
    )
    sam: float | None = setting(
        None,
        "sharpness-aware steps: the gradient is taken this far uphill, which costs a second pass a step (alone: 0.05)",
        above=0,
        alone="0.05",
    )
    simplex: int | None = setting(
        None,
        "train this many vertices together, each step at a random point between them; NAME is the middle, the vertices "
        "are NAME-1, NAME-2, …",
        low=2,
        high=64,
    )

    @override
    def __post_init__(self) -> None:
        if isinstance(self.optimizer_settings, Mapping):
            pairs = [f"{key}={_written(value)}" for key, value in self.optimizer_settings.items()]
            object.__setattr__(self, "optimizer_settings", tuple(pairs))
        super().__post_init__()
        self._check_optimizer()
        self._check_kept()
        if not self.decay_norms and self.optimizer.startswith(TORCH):
            raise InputError(f"decay_norms=false is for {', '.join(OPTIMIZERS)}, not for {self.optimizer}.")
        if list(self.keep) != sorted(set(self.keep)) or any(epoch >= self.epochs for epoch in self.keep):
            raise InputError(f"keep takes rising epochs below epochs={self.epochs}, not {self.keep}.")

    def _check_kept(self) -> None:
        """Settle the schedule; refuse what cannot be kept together, or under this schedule."""
        asked = [name for name in ("fge", "snapshot", "swa", "simplex") if getattr(self, name)]
        if len(asked) > 1:
            raise InputError(
                f"{asked[0]} and {asked[1]} are trainings of different kinds; ask for one of {', '.join(asked)}."
            )
        kind = asked[0] if asked else ""
        if kind in ("fge", "snapshot", "simplex") and self.keep:
            raise InputError(f"keep and {kind} would both give the names NAME-1, NAME-2, …; leave keep out.")
        if kind == "simplex" and self.ema is not None:
            raise InputError("ema averages one point, and simplex trains several; leave one of them out.")
        if self.schedule == AUTO:
            object.__setattr__(self, "schedule", _SCHEDULES.get(kind, "curve"))
        named, suitable = name_of(self.schedule), _KIND_OF_SCHEDULE.get(kind)
        if suitable is not None and named not in suitable:
            why = (
                "averages weights at a rate that stays high or returns, and others decay to nothing"
                if kind == "swa"
                else "takes its members at the lowest rates of its cycles"
            )
            raise InputError(
                f"{kind} needs a schedule {' or '.join(suitable)}, not {named}: it {why}. Leave schedule out, or say "
                f"auto, for {_SCHEDULES[kind]}."
            )

    def _check_optimizer(self) -> None:
        if self.optimizer.startswith(TORCH):
            options = optimizer_options(self.optimizer_settings)
            if "lr" in options:
                raise InputError("The learning rate is the setting lr, not one of optimizer_settings.")
            for name in ("momentum", "beta2", "nesterov"):
                if getattr(self, name) != getattr(type(self), name):
                    raise InputError(
                        f"{name} is for {', '.join(OPTIMIZERS)}; what {self.optimizer} takes is given in "
                        f"optimizer_settings."
                    )
            return
        if self.optimizer not in OPTIMIZERS:
            raise InputError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, or a class of torch.optim such as "
                f"torch.optim.Adam, not {self.optimizer!r}."
            )
        if self.optimizer_settings:
            raise InputError(
                f"optimizer_settings are for classes of torch.optim; {self.optimizer} has settings of its own."
            )
