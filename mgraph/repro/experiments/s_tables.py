"""[S] Ren, Chen, Wang (2025), Revisiting Mode Connectivity in Neural Networks with Bezier Surface: its tables and
figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.linear import Linear, Simplex
from mgraph.repro.experiment import (
    OURS,
    VARIANTS,
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
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Grid, Join, Step, Sweep, Train, Vote, modes_of

# The networks. [S] does not state channels, dropout and how its modes were trained: those here are ours.

_CNN_SMALL = "cnn?channels=16,32,64&hidden=256,&dropout=0.25"
_CNN = "cnn?channels=32,64,128&hidden=256,&dropout=0.25"
_LONG = {"epochs": 220, "lr": 0.05, "weight_decay": 5e-4, "batch_size": 128}
_QUICK = {"epochs": 6, "lr": 0.1}

CNN = {
    "tiny": Net("cnn", "cnn?channels=4,8&hidden=16,", "digits", _QUICK),
    "small": Net("cnn", _CNN_SMALL, "cifar10", {"epochs": 8, "lr": 0.05}),
    "paper": Net("cnn", _CNN, "cifar10", {"epochs": 40, "lr": 0.05}),
}
RESNET18 = {
    "tiny": Net("cnn-bn", "cnn?bn=true&channels=4,8&hidden=16,", "digits", _QUICK),
    "small": Net("cnn-bn", f"{_CNN_SMALL}&bn=true", "cifar10", {"epochs": 8, "lr": 0.05}),
    "paper": Net("resnet18", "torchvision:resnet18?stem=cifar", "cifar10", _LONG),
}
VGG16 = CNN | {"paper": Net("vgg16", "torchvision:vgg16?stem=cifar", "cifar10", _LONG)}
VIT = {
    "tiny": Net(
        "vit", "vit?patch=4&dim=16&depth=1&heads=2", "digits", {"epochs": 10, "optimizer": "adamw", "lr": 0.01}
    ),
    "paper": Net("vit", "vit", "cifar10", _LONG | {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05}),
}
VGG16_100 = {"paper": Net("vgg16-cifar100", "torchvision:vgg16?stem=cifar", "cifar100", _LONG)}
VGG16_200 = {"paper": Net("vgg16-imagenet", "torchvision:vgg16?stem=cifar", "tiny-imagenet", _LONG)}

# How a surface is trained: epochs of the three phases, values per batch, batch size and learning rate of the authors'
# optimiser; ours has as many passes. With few steps their learning rate, 1e-4, does not move anything.
_TRAINING: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"phases": (1, 1, 2), "samples": 2, "batch": 64, "lr": 2e-3, "points": 5},
    "small": {"phases": (1, 1, 2), "samples": 1, "batch": 128, "lr": 1e-3, "points": 6, "splits": ("valid", "test")},
    "paper": {"phases": (6, 9, 10), "samples": 15, "batch": 512, "lr": 1e-4, "points": 11},
}
_REPEATS = {"tiny": 1, "small": 3, "paper": 3}

_UNSTATED = (
    "Not said in the paper, and ours: the CNN's channels (32, 64, 128) and dropout (0.25), how the modes are trained, "
    "the ViT's size. The text says 80 values per batch, the authors' code takes 15, which are used here."
)


def setups(nets: Mapping[str, Net]) -> dict[str, Setup]:
    """Return the setups of a surface, one for every scale that has a network."""
    return {s: Setup(net, _REPEATS[s], dict(_TRAINING[s])) for s, net in nets.items()}


def corners(trial: Trial, count: int = 4) -> tuple[Train, ...]:
    """Return the independent modes of a repeat, which all experiments share."""
    return tuple(
        Train.of(trial.net, trial.name(letter, shared=True), trial.seed(i)) for i, letter in enumerate("abcd"[:count])
    )


def grid_of(trial: Trial) -> Grid:
    """Return how surfaces are measured."""
    return Grid(points=trial.option("points"), splits=trial.option("splits", ("train", "valid", "test")))


def surface(trial: Trial, degree: int = 2, train_only: tuple[str, ...] = (), what: str = "") -> Join:
    """Return a surface of four modes: from the outside in with AdamW as in [S], or as a whole with our defaults.

    Both take the same number of passes: 2 for every epoch of the first phase, degree + 1 of the second.
    """
    outer, columns, whole = trial.option("phases")
    k = trial.option("samples")
    shared: dict[str, Any] = {"degree": (degree, degree), "train_only": train_only}
    if trial.faithful:
        method = BezierSurface(
            phases=(f"edges:{outer}", f"columns:{columns}", f"surface:{whole}"),
            optimizer="adamw",
            lr=trial.option("lr"),
            schedule="constant",
            batch_size=trial.option("batch"),
            samples=k,
            batch="whole",
            draw="iid",
            **shared,
        )
    else:
        method = BezierSurface(epochs=k * (2 * outer + (degree + 1) * columns + whole), **shared)
    name = trial.name(f"{degree + 1}x{degree + 1}{what}")
    return Join(name=name, net=trial.net, ends=modes_of(corners(trial)), method=method, grid=grid_of(trial))


def accuracies(lab: Lab, joined: Join) -> dict[str, Number]:
    """Read test accuracies in percent: of the best point by test and by validation data, the mean, the corners.

    The papers choose the highest on test data.
    """
    data = lab.swept(joined)
    values, errors = data.values["test", "accuracy"], data.errors["test", "accuracy"]
    chosen = {
        "highest": [int(values.argmax())],
        "highest by validation": [data.best("valid")],
        "mean": list(range(len(values))),
        "corners": list(data.grid.ends),
    }
    return {name: Number(100 * float(values[at].mean()), 100 * float(errors[at].mean())) for name, at in chosen.items()}


_ACCURACIES = (
    Quantity("highest", "%"),
    Quantity("highest by validation", "%"),
    Quantity("mean", "%"),
    Quantity("corners", "%"),
)


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


@dataclass(frozen=True, kw_only=True)
class Landscape(Row):
    """Losses and accuracies over a surface: before training, the bilinear one, or after."""

    trained: bool

    def _surface(self, trial: Trial) -> Join:
        if self.trained:
            return surface(trial)
        ends = modes_of(corners(trial))
        return Join(
            name=trial.name("bilinear", shared=True), net=trial.net, ends=ends, method=Linear(), grid=grid_of(trial)
        )

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*corners(trial), self._surface(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        return landscape(lab, self._surface(trial))


def landscape(lab: Lab, joined: Join) -> dict[str, Number]:
    """Read the mean and extreme test losses and accuracies of a sweep."""
    data = lab.swept(joined)
    loss, accuracy = data.values["test", "loss"], 100 * data.values["test", "accuracy"]
    found = {"mean loss": loss.mean(), "largest loss": loss.max()}
    found |= {"mean": accuracy.mean(), "lowest": accuracy.min(), "highest": accuracy.max()}
    return {name: Number(float(value)) for name, value in found.items()} | {
        "corners": Number(float(accuracy[list(data.grid.ends)].mean()))
    }


_LANDSCAPE = (
    Quantity("mean loss"),
    Quantity("largest loss"),
    Quantity("mean", "%"),
    Quantity("lowest", "%"),
    Quantity("highest", "%"),
    Quantity("corners", "%"),
)


@dataclass(frozen=True, kw_only=True)
class OneRun(Row):
    """The bilinear surface of four late checkpoints of one training (A.2, A.3)."""

    variants: tuple[str, ...] = (OURS,)

    def _mode(self, trial: Trial) -> Train:
        return Train.of(trial.net, trial.name("run", shared=True), trial.seed(50), keep=trial.option("keep"))

    def _surface(self, trial: Trial) -> Join:
        ends = tuple(reversed((*self._mode(trial).makes[1:], self._mode(trial).name)))
        return Join(
            name=trial.name("one-run", shared=True), net=trial.net, ends=ends, method=Linear(), grid=grid_of(trial)
        )

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (self._mode(trial), self._surface(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        return landscape(lab, self._surface(trial))


@dataclass(frozen=True, kw_only=True)
class Combinations(Row):
    """The simplex of three independent modes (§4.1)."""

    variants: tuple[str, ...] = (OURS,)

    def _simplex(self, trial: Trial) -> Join:
        ends = modes_of(corners(trial, 3))
        return Join(
            name=trial.name("simplex", shared=True), net=trial.net, ends=ends, method=Simplex(), grid=grid_of(trial)
        )

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*corners(trial, 3), self._simplex(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        return landscape(lab, self._simplex(trial))


@dataclass(frozen=True, kw_only=True)
class Subset(Row):
    """Where a surface is lowest and highest, by all examples and by a subset (appendix B)."""

    split: str
    quantity: str

    def _sweeps(self, trial: Trial) -> tuple[Sweep, Sweep]:
        points, splits = trial.option("whole_points"), ("train", "test")
        return tuple(  # type: ignore[return-value]
            Sweep(
                name=trial.name(what),
                net=trial.net,
                of=surface(trial),
                grid=Grid(points=points, splits=splits, examples=examples),
            )
            for what, examples in (("all-examples", None), ("few-examples", trial.option("subset")))
        )

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*corners(trial), surface(trial), *self._sweeps(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        every, few = (lab[sweep] for sweep in self._sweeps(trial))
        found = {}
        for name, place in (("valley moved by", np.argmin), ("peak moved by", np.argmax)):
            at = [data.parameters[int(place(data.values[self.split, self.quantity]))] for data in (every, few)]
            found[name] = Number(float(np.abs(at[0] - at[1]).max()))
        return found


_T1, _T2, _T3, _T4 = (f"table {i}" for i in range(1, 5))
_LATE = {"tiny": (3, 4, 5), "small": (5, 6, 7), "paper": (160, 180, 200)}
_LAST = {
    "tiny": ("3.*", "7.*", "9.*"),
    "small": ("6.*", "11.*", "13.*"),
    "paper": ("6.*", "11.*", "13.*"),
}
_WHOLE = {"tiny": (5, 200), "small": (11, 2000), "paper": (11, 2000)}


def _with(nets: Mapping[str, Net], **by_scale: Mapping[str, Any]) -> dict[str, Setup]:
    """Return setups with options that differ by scale."""
    found = setups(nets)
    return {
        scale: Setup(
            setup.net, setup.repeats, dict(setup.options) | {key: values[scale] for key, values in by_scale.items()}
        )
        for scale, setup in found.items()
    }


def _once(nets: Mapping[str, Net], **by_scale: Mapping[str, Any]) -> dict[str, Setup]:
    """Return the same without repeats: every example is measured at every point."""
    return {scale: Setup(setup.net, 1, setup.options) for scale, setup in _with(nets, **by_scale).items()}


def _pictured(figure: str, *names: str) -> dict[str, Published]:
    return {name: not_legible(figure) for name in names}


_SEEN = ("mean loss", "largest loss", "mean", "lowest")

EXPERIMENTS = (
    Experiment(
        "s-table1",
        "S",
        "Surfaces on several networks and data: highest, mean and corner accuracy (table 1, figure 7)",
        _ACCURACIES,
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
        _UNSTATED,
    ),
    Experiment(
        "s-table2",
        "S",
        "Surfaces of 3×3, 4×4 and 5×5 control points of a small CNN (table 2)",
        _ACCURACIES,
        tuple(
            Surface(
                name=f"{n}x{n}",
                setups=setups(CNN),
                degree=n - 1,
                published=_published(f"{_T2}, {n}×{n}", highest=highest, mean=mean, corners=80.2),
            )
            for n, highest, mean in ((3, 82.0, 79.7), (4, 82.4, 80.0), (5, 82.9, 80.3))
        ),
        _UNSTATED,
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
        _UNSTATED,
    ),
    Experiment(
        "s-table4",
        "S",
        "Training all layers, or only the last convolution and what follows (table 4)",
        (*_ACCURACIES, Quantity("time", "min")),
        tuple(
            Layers(
                name=name,
                last=last,
                setups=_with(CNN, last=_LAST),
                published=_published(f"{_T4}, {said}", highest=highest, mean=mean, corners=80.2, time=minutes),
            )
            for name, last, said, highest, mean, minutes in (
                ("all", False, "all layers", 82.0, 79.7, 47.0),
                ("last", True, "last conv + MLP", 80.3, 70.3, 15.0),
            )
        ),
        f"{_UNSTATED} Its times are for 26 epochs with 80 values per batch on an RTX 4090, which nothing here equals: "
        "compare the ratio.",
    ),
    Experiment(
        "s-fig4",
        "S",
        "Loss and accuracy over the surface before and after training (figures 1, 4 and 5)",
        _LANDSCAPE,
        (
            Landscape(
                name="before",
                trained=False,
                setups=setups(VGG16),
                published=_pictured("figures 4a and 5a", *_SEEN),
                variants=(OURS,),
            ),
            Landscape(
                name="after",
                trained=True,
                setups=setups(VGG16),
                published=_pictured("figures 4b and 5b", *_SEEN),
                variants=VARIANTS,
            ),
        ),
        _UNSTATED,
    ),
    Experiment(
        "s-fig6",
        "S",
        "The bilinear surface of checkpoints of one training (figures 6 and 8, A.2, A.3)",
        _LANDSCAPE,
        (
            OneRun(name="vgg16", setups=_with(VGG16, keep=_LATE), published=_pictured("figure 6", *_SEEN)),
            OneRun(
                name="resnet18-cifar100",
                setups=_with(
                    {"paper": Net("resnet18-cifar100", "torchvision:resnet18?stem=cifar", "cifar100", _LONG)},
                    keep=_LATE,
                ),
                published=_pictured("figure 8", *_SEEN),
            ),
        ),
        _UNSTATED,
    ),
    Experiment(
        "s-simplex",
        "S",
        "Linear combinations of three independent modes (§4.1, figure 3)",
        _LANDSCAPE,
        (Combinations(name="vgg16", setups=setups(VGG16), published=_pictured("figure 3", "mean", "lowest")),),
        _UNSTATED,
    ),
    Experiment(
        "s-subset",
        "S",
        "Whether a subset of the examples finds the same extremes (appendix B, figure 9)",
        (Quantity("valley moved by"), Quantity("peak moved by")),
        tuple(
            Subset(
                name=name,
                split=split,
                quantity=quantity,
                setups=_once(
                    VGG16,
                    whole_points={scale: points for scale, (points, _) in _WHOLE.items()},
                    subset={scale: examples for scale, (_, examples) in _WHOLE.items()},
                ),
                published={"valley moved by": Published(valley, source), "peak moved by": Published(peak, source)},
            )
            for name, split, quantity, source, valley, peak in (
                ("train-loss", "train", "loss", "B.1", 0.1, 0.0),
                ("test-accuracy", "test", "accuracy", "B.2", 0.0, 0.1),
            )
        ),
        f"{_UNSTATED} In the paper the subset of the training data is not stated in examples; here it is 2000.",
    ),
)
