"""[S] Ren, Chen, Wang (2025), Revisiting Mode Connectivity in Neural Networks with Bezier Surface: its
figures, linear combinations (§4.1) and subsets (appendix B).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

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
from mgraph.repro.experiments.s_surfaces import (
    LONG,
    UNSTATED,
    VGG16,
    corners,
    grid_of,
    setups,
    surface,
    with_options,
)
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Grid, Join, Step, Sweep, Train, modes_of


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


LANDSCAPE = (
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


_LATE = {"tiny": (3, 4, 5), "small": (5, 6, 7), "paper": (160, 180, 200)}
_WHOLE = {"tiny": (5, 200), "small": (11, 2000), "paper": (11, 2000)}


def _once(nets: Mapping[str, Net], **by_scale: Mapping[str, Any]) -> dict[str, Setup]:
    """Return the same without repeats: every example is measured at every point."""
    return {scale: Setup(setup.net, 1, setup.options) for scale, setup in with_options(nets, **by_scale).items()}


def _pictured(figure: str, *names: str) -> dict[str, Published]:
    return {name: not_legible(figure) for name in names}


_SEEN = ("mean loss", "largest loss", "mean", "lowest")
EXPERIMENTS = (
    Experiment(
        "s-fig4",
        "S",
        "Loss and accuracy over the surface before and after training (figures 1, 4 and 5)",
        LANDSCAPE,
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
        UNSTATED,
    ),
    Experiment(
        "s-fig6",
        "S",
        "The bilinear surface of checkpoints of one training (figures 6 and 8, A.2, A.3)",
        LANDSCAPE,
        (
            OneRun(name="vgg16", setups=with_options(VGG16, keep=_LATE), published=_pictured("figure 6", *_SEEN)),
            OneRun(
                name="resnet18-cifar100",
                setups=with_options(
                    {"paper": Net("resnet18-cifar100", "torchvision:resnet18?stem=cifar", "cifar100", LONG)},
                    keep=_LATE,
                ),
                published=_pictured("figure 8", *_SEEN),
            ),
        ),
        UNSTATED,
    ),
    Experiment(
        "s-simplex",
        "S",
        "Linear combinations of three independent modes (§4.1, figure 3)",
        LANDSCAPE,
        (Combinations(name="vgg16", setups=setups(VGG16), published=_pictured("figure 3", "mean", "lowest")),),
        UNSTATED,
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
        f"{UNSTATED} In the paper the subset of the training data is not stated in examples; here it is 2000.",
    ),
)
