"""[S] Ren, Chen, Wang (2025), Revisiting Mode Connectivity in Neural Networks with Bezier Surface: its
tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from mgraph.repro.experiment import (
    Experiment,
    Number,
    Published,
    Quantity,
    Row,
    Trial,
)
from mgraph.repro.experiments.s_surfaces import (
    ACCURACIES,
    CNN,
    RESNET18,
    UNSTATED,
    VGG16,
    VGG16_100,
    VGG16_200,
    VIT,
    accuracies,
    corners,
    setups,
    surface,
    with_options,
)
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Join, Step, Vote


def _published(source: str, **numbers: float) -> dict[str, Published]:
    return {name: Published(value, source) for name, value in numbers.items()}


@dataclass(frozen=True, kw_only=True)
class Surface(Row):
    """A surface through four independent modes, and the accuracies on it."""

    degree: int = 2

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*corners(trial), surface(trial, self.degree))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        return accuracies(lab, surface(trial, self.degree))


@dataclass(frozen=True, kw_only=True)
class Ensemble(Row):
    """The votes of a surface's grid, and of its corners."""

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*corners(trial), surface(trial), self._vote(trial))

    def _vote(self, trial: Trial) -> Vote:
        points = trial.option("points")
        voters = (f"{surface(trial).name}@{points}",)
        return Vote(name=trial.name("votes"), net=trial.net, models=voters, members=points**2)

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        voted = lab[self._vote(trial)]
        found = {"corner ensemble": voted.corners, "surface ensemble": voted.whole}
        measured = {name: of["test"]["accuracy"] for name, of in found.items()}
        return {name: Number(100 * m.value, 100 * m.standard_error) for name, m in measured.items()}


@dataclass(frozen=True, kw_only=True)
class Layers(Row):
    """A surface of which all layers are trained, or the last ones; and the time that takes."""

    last: bool

    def _surface(self, trial: Trial) -> Join:
        return surface(trial, train_only=trial.option("last"), what="-last") if self.last else surface(trial)

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*corners(trial), self._surface(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        joined = self._surface(trial)
        runs = [run for run in lab.graph.runs() if run["command"] == "connect" and run["name"] == joined.name]
        return accuracies(lab, joined) | {"time": Number(runs[-1]["seconds"] / 60)}


_T1, _T2, _T3, _T4 = (f"table {i}" for i in range(1, 5))
_LAST = {
    "tiny": ("3.*", "7.*", "9.*"),
    "small": ("6.*", "11.*", "13.*"),
    "paper": ("6.*", "11.*", "13.*"),
}
EXPERIMENTS = (
    Experiment(
        "s-table1",
        "S",
        "Surfaces on several networks and data: highest, mean and corner accuracy (table 1, figure 7)",
        ACCURACIES,
        tuple(
            Surface(name=name, setups=setups(nets), published=_published(f"{_T1}, {said}", **numbers))
            for name, nets, said, numbers in (
                ("resnet18", RESNET18, "CIFAR-10 ResNet18", {"highest": 90.9, "mean": 89.3, "corners": 90.1}),
                ("vgg16", VGG16, "CIFAR-10 VGG16", {"highest": 90.7, "mean": 89.8, "corners": 89.6}),
                ("vit", VIT, "CIFAR-10 ViT", {"highest": 70.2, "mean": 65.4, "corners": 70.0}),
                ("vgg16-cifar100", VGG16_100, "CIFAR-100 VGG16", {"highest": 70.8, "mean": 69.3, "corners": 70.7}),
                (
                    "vgg16-tiny-imagenet",
                    VGG16_200,
                    "Tiny-ImageNet VGG16",
                    {"highest": 51.1, "mean": 47.4, "corners": 50.7},
                ),
            )
        ),
        UNSTATED,
    ),
    Experiment(
        "s-table2",
        "S",
        "Surfaces of 3×3, 4×4 and 5×5 control points of a small CNN (table 2)",
        ACCURACIES,
        tuple(
            Surface(
                name=f"{n}x{n}",
                setups=setups(CNN),
                degree=n - 1,
                published=_published(f"{_T2}, {n}×{n}", highest=highest, mean=mean, corners=80.2),
            )
            for n, highest, mean in ((3, 82.0, 79.7), (4, 82.4, 80.0), (5, 82.9, 80.3))
        ),
        UNSTATED,
    ),
    Experiment(
        "s-table3",
        "S",
        "Ensembles of a surface against those of its four corners (table 3)",
        (Quantity("corner ensemble", "%"), Quantity("surface ensemble", "%")),
        tuple(
            Ensemble(
                name=name,
                setups=setups(nets),
                published={
                    "corner ensemble": Published(four, f"{_T3}, {said}"),
                    "surface ensemble": Published(whole, f"{_T3}, {said}"),
                },
            )
            for name, nets, said, four, whole in (
                ("vgg16", VGG16, "VGG16", 90.4, 92.0),
                ("resnet18", RESNET18, "ResNet18", 90.1, 92.7),
            )
        ),
        UNSTATED,
    ),
    Experiment(
        "s-table4",
        "S",
        "Training all layers, or only the last convolution and what follows (table 4)",
        (*ACCURACIES, Quantity("time", "min")),
        tuple(
            Layers(
                name=name,
                last=last,
                setups=with_options(CNN, last=_LAST),
                published=_published(f"{_T4}, {said}", highest=highest, mean=mean, corners=80.2, time=minutes),
            )
            for name, last, said, highest, mean, minutes in (
                ("all", False, "all layers", 82.0, 79.7, 47.0),
                ("last", True, "last conv + MLP", 80.3, 70.3, 15.0),
            )
        ),
        f"{UNSTATED} Its times are for 26 epochs with 80 values per batch on an RTX 4090, which nothing here equals: "
        "compare the ratio.",
    ),
)
