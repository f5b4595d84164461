"""[G] Garipov et al. (2018), Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs: its figures, and the
recurrent networks of table 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from mgraph.methods.linear import Simplex
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
    not_legible,
)
from mgraph.repro.experiments.g_paths import (
    BEZIER,
    CHAIN,
    CIFAR,
    CONV3FC,
    DIGITS,
    RESNET164,
    RESNET_PATH,
    SEGMENT,
    SINGLE,
    SMALL_PATH,
    SMALL_RESNET,
    TINY_BN,
    TINY_PATH,
    UNSTATED,
    VGG_PATH,
    modes,
    path,
)
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Grid, Join, Step, Vote, modes_of

_TEXT = {
    "tiny": Net("lstm", "lstm?width=12", "words", {"epochs": 10, "lr": 0.02, "batch_size": 10, "optimizer": "adamw"}),
    "paper": Net("lstm", "lstm?width=1500&dropout=0.65&init=0.04&tied=false", "ptb", {}, "lstm-ptb"),
}


@dataclass(frozen=True, kw_only=True)
class Perplexities(Row):
    """Perplexity along a path between two language models (table 3)."""

    kind: str

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial), path(trial, self.kind))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        data = lab.swept(path(trial, self.kind))
        chosen = list(data.grid.ends) if self.kind == SINGLE else slice(None)
        found = {}
        for split in ("train", "valid", "test"):
            losses = data.values[split, "loss"][chosen]
            found[f"{split}, min"] = Number(math.exp(losses.min()))
            found[f"{split}, max"] = Number(math.exp(min(losses.max(), 700.0)))
        return found


@dataclass(frozen=True, kw_only=True)
class Width(Row):
    """The worst train loss along a Bézier curve, for one width of the fully connected layers (figure 3)."""

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial), path(trial, BEZIER))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        joined = path(trial, BEZIER)
        data = lab.swept(joined)
        losses = data.values["train", "loss"]
        worst, ends = float(losses.max()), float(losses[list(data.grid.ends)].max())
        return {
            "worst train loss": Number(worst),
            "worst of the ends": Number(ends),
            "difference": Number(worst - ends),
            "length ratio": Number(lab[joined].table()["length_ratio"]),
        }


_WIDTHS = (0.3, 0.5, 0.65, 0.8, 1.0)


def _width(k: float) -> dict[str, Setup]:
    arch, key = f"convfc?width={k:g}", f"convfc-{k:g}"
    tiny = Net(key, f"mlp?hidden={round(30 * k)},{round(30 * k)}", "digits", DIGITS)
    small = Net(key, f"{arch}&channels=16,32,64", "cifar10", CIFAR | {"batch_size": 128}, limit=20000)
    return {
        "tiny": Setup(tiny, 2, TINY_PATH),
        "small": Setup(small, 1, SMALL_PATH),
        "paper": Setup(replace(CONV3FC, key=key, arch=arch), 3, VGG_PATH | {"epochs": 200}),
    }


@dataclass(frozen=True, kw_only=True)
class Pairs(Row):
    """The error of two models together: an end of a path, and its point at t (figure 4)."""

    kind: str
    variants: tuple[str, ...] = (OURS,)

    def _votes(self, trial: Trial) -> dict[str, Vote]:
        joined = path(trial, self.kind)
        return {
            f"error, t={t:g}": Vote(
                name=trial.name(f"votes-{self.kind}-{t:g}"),
                net=trial.net,
                models=(joined.ends[0], f"{joined.name}@{t!r}"),
                members=2,
            )
            for t in _AT
        }

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial), path(trial, self.kind), *self._votes(trial).values())

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        return {name: _error(lab[vote].plain) for name, vote in self._votes(trial).items()}


_AT = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def _error(results: Mapping[str, Any]) -> Number:
    measured = results["test"]["accuracy"]
    return Number(100 * (1 - measured.value), 100 * measured.standard_error)


@dataclass(frozen=True, kw_only=True)
class Along(Row):
    """Ensembles of points along a chain, of its ends, and of three modes (§4.3)."""

    variants: tuple[str, ...] = (OURS,)

    def _votes(self, trial: Trial) -> dict[str, Vote]:
        joined, n = path(trial, CHAIN), trial.option("voters")
        every = tuple(m.name for m in modes(trial, 3))
        of = (
            ("points on the chain", (f"{joined.name}@{n}",), n, False),
            ("points, temperature", (f"{joined.name}@{n}",), n, True),
            ("its ends", every[:2], 2, False),
            ("three modes", every, 3, False),
        )
        return {
            what: Vote(
                name=trial.name(f"votes {what}"), net=trial.net, models=models, members=members, temperature=scaled
            )
            for what, models, members, scaled in of
        }

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial, 3), path(trial, CHAIN), *self._votes(trial).values())

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        return {
            what: _error(lab[vote].whole if vote.temperature else lab[vote].plain)
            for what, vote in self._votes(trial).items()
        }


_SETUPS4 = {
    "tiny": Setup(TINY_BN, 1, TINY_PATH | {"batchnorm": True, "voters": 10}),
    "small": Setup(SMALL_RESNET, 1, SMALL_PATH | {"batchnorm": True, "voters": 50}),
    "paper": Setup(RESNET164, 1, RESNET_PATH | {"batchnorm": True, "voters": 50}),
}


@dataclass(frozen=True, kw_only=True)
class Planes(Row):
    """The loss between three modes, or on a path and on the straight segment beside it (figures 1, 7 and 8)."""

    kind: str
    variants: tuple[str, ...] = (OURS,)

    def _joined(self, trial: Trial) -> Join:
        if self.kind != SINGLE:
            return path(trial, self.kind)
        ends = modes_of(modes(trial, 3))
        grid = Grid(points=min(11, trial.option("points")), examples=trial.option("examples"))
        return Join(name=trial.name("plane", shared=True), net=trial.net, ends=ends, method=Simplex(), grid=grid)

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial, 3), self._joined(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        data = lab.swept(self._joined(trial))
        found = {"largest train loss": data.values["train", "loss"].max()}
        found["largest test error"] = 100 * (1 - data.values["test", "accuracy"].min())
        return {name: Number(float(value)) for name, value in found.items()}


EXPERIMENTS = (
    Experiment(
        "g-table3",
        "G",
        "Perplexity along a Bézier curve between language models (table 3)",
        tuple(Quantity(f"{split}, {part}") for split in ("train", "valid", "test") for part in ("min", "max")),
        tuple(
            Perplexities(
                name=kind,
                kind=kind,
                variants=Row.variants if kind == BEZIER else (OURS,),
                setups={
                    "tiny": Setup(_TEXT["tiny"], 1, {"epochs": 10, "lr": 0.5, "batch": 10, "points": 5}),
                    "paper": Setup(_TEXT["paper"], 1, {"epochs": 55, "lr": 35.0, "batch": 20, "points": 61}),
                },
                published={
                    f"{split}, {part}": Published(numbers[2 * i + j], f"table 3, {kind}")
                    for i, split in enumerate(("train", "valid", "test"))
                    for j, part in enumerate(("min", "max"))
                },
            )
            for kind, numbers in (
                (SINGLE, (37.5, 39.2, 82.7, 83.1, 78.7, 78.9)),
                (SEGMENT, (37.5, 596.3, 82.7, 682.1, 78.7, 615.7)),
                (BEZIER, (29.8, 39.2, 82.7, 88.7, 78.7, 84.0)),
            )
        ),
        "How the curve was trained is not said; its learning rate and epochs are those of the modes.",
    ),
    Experiment(
        "g-fig1",
        "G",
        "Loss between three modes, and along curves between two of them (figures 1, 7 and 8)",
        (Quantity("largest train loss"), Quantity("largest test error", "%")),
        tuple(
            Planes(
                name=name,
                kind=kind,
                setups=_SETUPS4,
                published={q: not_legible("figures 1 and 7") for q in ("largest train loss", "largest test error")},
            )
            for name, kind in (("triangle", SINGLE), (SEGMENT, SEGMENT), (BEZIER, BEZIER), (CHAIN, CHAIN))
        ),
        f"{UNSTATED} The figures show the planes outside the triangle of the modes too, which is not measured here.",
    ),
    Experiment(
        "g-fig3",
        "G",
        "The worst loss along a curve against the width of the network (figure 3)",
        tuple(Quantity(name) for name in ("worst train loss", "worst of the ends", "difference", "length ratio")),
        tuple(
            Width(
                name=f"width-{k:g}",
                setups=_width(k),
                published={}
                if k == 0.65
                else {q: not_legible("figure 3") for q in ("worst train loss", "worst of the ends", "length ratio")},
            )
            for k in _WIDTHS
        ),
        f"{UNSTATED} The width 0.65 is ours.",
    ),
    Experiment(
        "g-fig4",
        "G",
        "Ensembles of points along a path (figure 4 and §4.3)",
        (
            *(Quantity(f"error, t={t:g}", "%") for t in _AT),
            *(
                Quantity(f"{what}", "%")
                for what in ("points on the chain", "points, temperature", "its ends", "three modes")
            ),
        ),
        (
            *(
                Pairs(
                    name=kind,
                    kind=kind,
                    setups=_SETUPS4,
                    published={f"error, t={t:g}": not_legible("figure 4") for t in _AT},
                )
                for kind in (SEGMENT, CHAIN)
            ),
            Along(
                name="along",
                setups=_SETUPS4,
                published={
                    "points on the chain": Published(21.03, "§4.3"),
                    "points, temperature": Published(20.7, "§4.3"),
                    "its ends": Published(22.0, "§4.3"),
                    "three modes": Published(21.01, "§4.3"),
                },
            ),
        ),
        f"{UNSTATED} The random direction of figure 4 is left out. Temperatures are fitted on validation data.",
    ),
)
