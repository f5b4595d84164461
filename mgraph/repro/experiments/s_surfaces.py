"""[S] Ren, Chen, Wang (2025), Revisiting Mode Connectivity in Neural Networks with Bezier Surface: its
networks, and surfaces of their modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mgraph.methods.curves.surface import BezierSurface
from mgraph.repro.experiment import (
    Net,
    Number,
    Quantity,
    Setup,
    Trial,
)
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Grid, Join, Train, modes_of

# The networks. [S] does not state channels, dropout and how its modes were trained: those here are ours.

_CNN_SMALL = "cnn?channels=16,32,64&hidden=256,&dropout=0.25"
_CNN = "cnn?channels=32,64,128&hidden=256,&dropout=0.25"
LONG = {"epochs": 220, "lr": 0.05, "weight_decay": 5e-4, "batch_size": 128}
_QUICK = {"epochs": 6, "lr": 0.1}
CNN = {
    "tiny": Net("cnn", "cnn?channels=4,8&hidden=16,", "digits", _QUICK),
    "small": Net("cnn", _CNN_SMALL, "cifar10", {"epochs": 8, "lr": 0.05}),
    "paper": Net("cnn", _CNN, "cifar10", {"epochs": 40, "lr": 0.05}),
}
RESNET18 = {
    "tiny": Net("cnn-bn", "cnn?bn=true&channels=4,8&hidden=16,", "digits", _QUICK),
    "small": Net("cnn-bn", f"{_CNN_SMALL}&bn=true", "cifar10", {"epochs": 8, "lr": 0.05}),
    "paper": Net("resnet18", "torchvision:resnet18?stem=cifar", "cifar10", LONG),
}
VGG16 = CNN | {"paper": Net("vgg16", "torchvision:vgg16?stem=cifar", "cifar10", LONG)}
VIT = {
    "tiny": Net(
        "vit", "vit?patch=4&dim=16&depth=1&heads=2", "digits", {"epochs": 10, "optimizer": "adamw", "lr": 0.01}
    ),
    "paper": Net("vit", "vit", "cifar10", LONG | {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05}),
}
VGG16_100 = {"paper": Net("vgg16-cifar100", "torchvision:vgg16?stem=cifar", "cifar100", LONG)}
VGG16_200 = {"paper": Net("vgg16-imagenet", "torchvision:vgg16?stem=cifar", "tiny-imagenet", LONG)}

# How a surface is trained: epochs of the three phases, values per batch, batch size and learning rate of the authors'
# optimiser; ours has as many passes. With few steps their learning rate, 1e-4, does not move anything.
_TRAINING: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"phases": (1, 1, 2), "samples": 2, "batch": 64, "lr": 2e-3, "points": 5},
    "small": {"phases": (1, 1, 2), "samples": 1, "batch": 128, "lr": 1e-3, "points": 6, "splits": ("valid", "test")},
    "paper": {"phases": (6, 9, 10), "samples": 15, "batch": 512, "lr": 1e-4, "points": 11},
}
_REPEATS = {"tiny": 1, "small": 3, "paper": 3}
UNSTATED = (
    "Not said in the paper, and ours: the CNN's channels (32, 64, 128) and dropout (0.25), how the modes are trained, "
    "the ViT's size. The text says 80 values per batch, the authors' code takes 15, which are used here."
)


def setups(nets: Mapping[str, Net]) -> dict[str, Setup]:
    """Return the setups of a surface, one for every scale that has a network."""
    return {s: Setup(net, _REPEATS[s], dict(_TRAINING[s])) for s, net in nets.items()}


def with_options(nets: Mapping[str, Net], **by_scale: Mapping[str, Any]) -> dict[str, Setup]:
    """Return setups with options that differ by scale."""
    found = setups(nets)
    return {
        scale: Setup(
            setup.net, setup.repeats, dict(setup.options) | {key: values[scale] for key, values in by_scale.items()}
        )
        for scale, setup in found.items()
    }


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


ACCURACIES = (
    Quantity("highest", "%"),
    Quantity("highest by validation", "%"),
    Quantity("mean", "%"),
    Quantity("corners", "%"),
)
