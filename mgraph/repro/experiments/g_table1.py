"""[G] Garipov et al. (2018), Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs: ensembles at equal budgets
(table 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from mgraph.repro.experiment import (
    OURS,
    Experiment,
    Net,
    Number,
    Published,
    Quantity,
    Row,
    Setup,
    Trial,
)
from mgraph.repro.experiments.g_paths import (
    CIFAR,
    SMALL,
    TINY,
    TINY_BN,
    VGG16,
    WRN,
)
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Step, Train, Vote


@dataclass(frozen=True, kw_only=True)
class Budgets(Row):
    """Independent modes, snapshot ensembles and FGE at budgets of one, two and three trainings (table 1)."""

    variants: tuple[str, ...] = (OURS,)

    def _independent(self, trial: Trial, k: int) -> Train:
        """Return an ordinary training, which keeps what FGE starts from: its schedule is the same up to there."""
        name = trial.name(f"ind{k}", shared=True)
        return Train.of(trial.net, name, trial.seed(k), keep=trial.option("starts"))

    def _snapshots(self, trial: Trial, k: int) -> Train:
        return Train.of(
            trial.net,
            trial.name(f"sse{k}", shared=True),
            trial.seed(k + 10),
            snapshot=True,
            schedule=f"restarts?cycles={trial.option('snapshots')}",
            lr=trial.option("lr"),
        )

    def _cyclic(self, trial: Trial, k: int) -> tuple[Train, ...]:
        high, low, cycle = trial.option("cycles")
        return tuple(
            Train.of(
                trial.net,
                trial.name(f"fge{k}-from{start}", shared=True),
                trial.seed(k),
                init=f"{trial.name(f'ind{k}', shared=True)}-{start}",
                fge=True,
                epochs=trial.option("cyclic"),
                lr=high,
                schedule=f"cyclic?period={cycle}ep&low={low / high:g}",
            )
            for start in trial.option("starts")
        )

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        found: list[Step] = []
        for k in range(3):
            found += [self._independent(trial, k), self._snapshots(trial, k), *self._cyclic(trial, k)]
        return (*found, *self._votes(trial).values())

    def _votes(self, trial: Trial) -> dict[str, Vote]:
        votes, members = {}, {"Ind": [], "SSE": [], "FGE": []}  # type: ignore[var-annotated]
        for k in range(3):
            members["Ind"].append(self._independent(trial, k).name)
            members["SSE"] += self._snapshots(trial, k).makes
            members["FGE"] += [name for one in self._cyclic(trial, k) for name in one.makes]
            for kind, names in members.items():
                what = trial.name(f"votes-{kind}-{k + 1}")
                votes[f"{kind}, {k + 1}B"] = Vote(name=what, net=trial.net, models=tuple(names), members=len(names))
        return votes

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        measured = {name: lab[vote].plain["test"]["accuracy"] for name, vote in self._votes(trial).items()}
        return {name: Number(100 * (1 - m.value), 100 * m.standard_error) for name, m in measured.items()}


_KINDS = ("Ind", "SSE", "FGE")

# Table 1: errors in % of Ind, SSE and FGE, each at 1, 2 and 3 budgets.
_TABLE1 = {
    "vgg16-cifar100": (27.4, 25.28, 24.45, 26.4, 25.16, 24.69, 25.74, 24.11, 23.54),
    "vgg16-cifar10": (6.81, 5.89, 5.9, 6.5, 6.19, 5.95, 6.48, 5.82, 5.66),
    "resnet110-cifar100": (21.37, 19.04, 18.59, 20.75, 19.28, 18.91, 20.16, 18.67, 18.21),
    "resnet110-cifar10": (4.7, 4.1, 3.77, 4.66, 4.37, 4.3, 4.55, 4.21, 3.98),
    "wrn-cifar100": (19.1, 17.48, 17.01, 17.78, 17.3, 16.97, 17.73, 16.95, 16.88),
    "wrn-cifar10": (3.74, 3.4, 3.31, 3.74, 3.54, 3.55, 3.64, 3.38, 3.52),
}
_FGE_VGG = {"lr": 0.05, "snapshots": 5, "cycles": (1e-2, 5e-4, 2), "cyclic": 22, "starts": (120, 156)}
_FGE_RESNET = {"lr": 0.1, "snapshots": 4, "cycles": (5e-2, 5e-4, 4), "cyclic": 22, "starts": (125,)}
_FGE_WRN = {"lr": 0.1, "snapshots": 5, "cycles": (5e-2, 5e-4, 4), "cyclic": 22, "starts": (120, 156)}
_FGE_SMALL = {"cyclic": 5, "starts": (15,)}
_FGE_TINY = {"cyclic": 4, "starts": (4,)}
_SMALL_FGE = CIFAR | {"epochs": 20}


def _fge(key: str, arch: str, recipe: str, options: Mapping[str, Any], **train: Any) -> dict[str, Setup]:
    data = recipe.rpartition("-")[2]
    made = {"paper": Setup(Net(key, arch, data, {"batch_size": 128} | train, recipe), 1, options)}
    if key == "vgg16":
        tiny, net = replace(TINY, key="fge"), Net("fge", SMALL, "cifar10", _SMALL_FGE, limit=10000)
    elif key == "preresnet110":
        tiny = replace(TINY_BN, key="fge-bn")
        net = Net("fge-bn", f"{SMALL}&bn=true", "cifar10", _SMALL_FGE | {"lr": 0.1}, limit=10000)
    else:
        return made
    cyclic = dict(options) | {"cycles": (*options["cycles"][:2], 2)}
    return made | {"tiny": Setup(tiny, 1, cyclic | _FGE_TINY), "small": Setup(net, 1, cyclic | _FGE_SMALL)}


_SETUPS1 = {
    "vgg16-cifar100": _fge("vgg16-cifar100", VGG16.arch, "vgg16-cifar100", _FGE_VGG),
    "vgg16-cifar10": _fge("vgg16", VGG16.arch, "vgg16-cifar10", _FGE_VGG),
    "resnet110-cifar100": _fge("preresnet110-cifar100", "preresnet?depth=110", "preresnet110-cifar100", _FGE_RESNET),
    "resnet110-cifar10": _fge("preresnet110", "preresnet?depth=110", "preresnet110-cifar10", _FGE_RESNET),
    "wrn-cifar100": _fge("wrn-cifar100", WRN.arch, "wrn28-10-cifar100", _FGE_WRN, weight_decay=5e-4),
    "wrn-cifar10": _fge("wrn", WRN.arch, "wrn28-10-cifar10", _FGE_WRN, weight_decay=5e-4),
}
EXPERIMENTS = (
    Experiment(
        "g-table1",
        "G",
        "FGE, snapshot ensembles and independent modes at equal budgets (table 1)",
        tuple(Quantity(f"{kind}, {k}B", "%") for kind in _KINDS for k in (1, 2, 3)),
        tuple(
            Budgets(
                name=name,
                setups=_SETUPS1[name],
                published={
                    f"{kind}, {k}B": Published(numbers[3 * i + k - 1], f"table 1, {name} {kind}")
                    for i, kind in enumerate(_KINDS)
                    for k in (1, 2, 3)
                },
            )
            for name, numbers in _TABLE1.items()
        ),
        "Standard augmentation is taken to be crop4+flip, batches to be of 128. FGE starts from a copy that the "
        "independent training of the same seed leaves behind, which is what a training of its own would give.",
    ),
)
