"""[G] Garipov et al. (2018), Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs: its networks, and paths
between their modes.
"""

from __future__ import annotations

from typing import Any

from mgraph.methods.base import Method
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.linear import Linear
from mgraph.repro.data import DATA
from mgraph.repro.experiment import (
    Net,
    Trial,
)
from mgraph.repro.steps import Grid, Join, Train, modes_of

DIGITS: dict[str, Any] = {"epochs": 8, "lr": 0.1, "weight_decay": 5e-4}
TINY = Net("cnn", "cnn?channels=4,8&hidden=16,", "digits", DIGITS)
TINY_BN = Net("cnn-bn", "cnn?bn=true&channels=4,8&hidden=16,", "digits", DIGITS)
TINY_FC = Net("fc", "mlp?hidden=16,16", "digits", DIGITS)
SMALL = "cnn?channels=16,32,64&hidden=128,"
CIFAR: dict[str, Any] = {"epochs": 8, "lr": 0.05, "weight_decay": 5e-4, "augment": "crop4+flip"}
SMALL_VGG = Net("cnn", SMALL, "cifar10", CIFAR)
SMALL_RESNET = Net("cnn-bn", f"{SMALL}&bn=true", "cifar10", CIFAR)
FC = Net("fc", "mlp?hidden=1000,500", "mnist", {"epochs": 10, "lr": 0.1, "batch_size": 128, "weight_decay": 1e-4})
CONV3FC = Net("convfc", "convfc", "cifar10", {"epochs": 200, "lr": 0.05, "batch_size": 128, "augment": "crop4+flip"})
VGG16 = Net("vgg16", "torchvision:vgg16?stem=cifar", "cifar10", {"batch_size": 128}, "vgg16-cifar10")
VGG16_100 = Net("vgg16-cifar100", "torchvision:vgg16?stem=cifar", "cifar100", {"batch_size": 128}, "vgg16-cifar100")
RESNET158 = Net(
    "resnet158",
    "cifarresnet?depth=158",
    "cifar10",
    {"epochs": 150, "lr": 0.1, "weight_decay": 3e-4, "batch_size": 128, "augment": "crop4+flip"},
)
RESNET164 = Net("resnet164", "preresnet?depth=164", "cifar100", {}, "preresnet164-cifar100")
WRN = Net("wrn", "wrn?depth=28&width=10", "cifar10", {"batch_size": 128, "weight_decay": 5e-4}, "wrn28-10-cifar10")

# How a path is trained as in the authors' code (README: VGG 600 epochs at 0.015, residual networks 200 at 0.03): one
# parameter value for every whole batch of 128. Ours takes the defaults for as many epochs, each of as many passes.
TINY_PATH = {"epochs": 8, "lr": 0.05, "batch": 64, "points": 11}
SMALL_PATH = {"epochs": 8, "lr": 0.05, "batch": 128, "points": 21, "examples": 5000}
VGG_PATH = {"epochs": 600, "lr": 0.015, "batch": 128, "points": 121}
RESNET_PATH = {"epochs": 200, "lr": 0.03, "batch": 128, "points": 121}
SEGMENT, BEZIER, CHAIN, SINGLE = "segment", "bezier", "polychain", "single"


def decay_of(net: Net) -> float:
    """Return the weight decay of a network's modes, which its regularised loss counts too."""
    return float(Train.of(net, "x", 0).settings.weight_decay)


def modes(trial: Trial, count: int = 2) -> tuple[Train, ...]:
    """Return the independent modes of a repeat."""
    return tuple(
        Train.of(trial.net, trial.name(letter, shared=True), trial.seed(i)) for i, letter in enumerate("abc"[:count])
    )


def path(trial: Trial, kind: str) -> Join:
    """Return a straight segment, a Bézier curve or a chain with one bend between two modes."""
    shared = kind in (SEGMENT, SINGLE)
    recipe = Train.of(trial.net, "recipe", 0).settings
    how: dict[str, Any] = {"epochs": trial.option("epochs"), "augment": recipe.augment}
    if trial.faithful:
        how |= {"lr": trial.option("lr"), "batch_size": trial.option("batch"), "samples": 1, "batch": "whole"}
        how |= {"weight_decay": recipe.weight_decay}
    method: Method = Linear()
    if not shared:
        method = (BezierCurve if kind == BEZIER else PolygonalChain)(**how)
    every = DATA[trial.net.data].train if trial.faithful and trial.option("batchnorm") else None
    grid = Grid(
        points=trial.option("points"),
        examples=trial.option("examples"),
        bn_examples=every,
        metrics=() if trial.net.data in ("words", "ptb") else (f"l2loss?decay={decay_of(trial.net):g}",),
    )
    what = SEGMENT if shared else kind
    name = trial.name(what, shared=shared)
    return Join(name=name, net=trial.net, ends=modes_of(modes(trial)), method=method, grid=grid)


UNSTATED = (
    "Not said in the paper: the sizes of FC and of 3conv3fc's convolutions, batch sizes, and how paths are trained; "
    "where the authors' later code says it (600 epochs at 0.015 for VGG-16, 200 at 0.03 for residual networks, batches "
    "of 128) that is taken, else ours. A train loss is the L2-regularised cross-entropy, as there."
)
