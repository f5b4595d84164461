"""[N] Draxler et al. (2018), Essentially No Barriers in Neural Network Energy Landscape: minima and the tree of their
saddles; and those that [L] table 9 measured with the authors' configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from typing_extensions import override

from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.repro.experiment import (
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
from mgraph.repro.steps import Grid, Join, Step, Train, modes_of

_TINY = Net("cnn", "cnn?channels=4,8&hidden=16,", "digits", {"epochs": 6, "lr": 0.1})
_SMALL = Net("cnn", "cnn?channels=8,16,32&hidden=64,", "cifar10", {"epochs": 8, "lr": 0.05}, limit=10000)
_RESNET20 = Net(
    "resnet20",
    "cifarresnet?depth=20",
    "cifar10",
    {"epochs": 200, "lr": 0.1, "weight_decay": 1e-4, "batch_size": 128, "augment": "crop4+flip"},
)

# The published schedules; at the smaller scales with fewer cycles and steps, and looks at part of the data.
_STANDARD = {
    "tiny": {"cycles": ("1x20@0.05", "1x10@0.01"), "batch_size": 128},
    "small": {"cycles": ("2x40@0.1", "1x40@0.01"), "batch_size": 256, "dense_examples": 1000},
    "paper": dict(NudgedElasticBand.presets["standard"]),
}
_FAST = {
    "tiny": {"pivots": 5, "cycles": ("1x20@0.05",), "insert": 0, "batch_size": 128},
    "small": {
        "pivots": 9,
        "cycles": ("1x60@0.1", "1x40@0.01"),
        "insert": 0,
        "batch_size": 256,
        "dense_examples": 1000,
    },
    "paper": dict(NudgedElasticBand.presets["fast"]),
}
_BRIEF = {"quick": {"cycles": ("2x30@0.05",)}}
_GRID = Grid(inner=3, splits=("train", "test"))
_PART = {"quick": {"dense_examples": 1000}, "grid": replace(_GRID, examples=5000)}


def minima(trial: Trial) -> tuple[Train, ...]:
    """Return the minima of a repeat."""
    return tuple(
        Train.of(trial.net, trial.name(f"m{i}", shared=True), trial.seed(i)) for i in range(trial.option("minima"))
    )


def bands(trial: Trial) -> tuple[Join, ...]:
    """Return the bands between minima: of all pairs, or of each with those that come next."""
    names, reach = modes_of(minima(trial)), trial.option("reach")
    pairs = [(i, j) for i, j in combinations(range(len(names)), 2) if min(j - i, i - j + len(names)) <= reach]
    return tuple(band(trial, names[i], names[j], f"{i}-{j}", trial.option("band")) for i, j in pairs)


def band(trial: Trial, a: str, b: str, what: str, settings: Mapping[str, Any]) -> Join:
    """Return a band between two minima: by the published schedule, or mgraph's quick one with its early stop."""
    method = NudgedElasticBand.parse({"stop": ()} | dict(settings))
    if not trial.faithful:
        method = NudgedElasticBand.preset("quick", batch_size=method.batch_size, **trial.option("quick", {}))
    grid = trial.option("grid", _GRID)
    return Join(name=trial.name(f"band-{what}"), net=trial.net, ends=(a, b), method=method, grid=grid)


@dataclass(frozen=True, kw_only=True)
class Tree(Row):
    """Minima, the bands between them, and the minimum spanning tree of their saddles."""

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*minima(trial), *bands(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        """Read the tree of this variant's bands alone."""
        import networkx as nx

        bands_of: nx.Graph[str] = nx.Graph()
        for joined in bands(trial):
            bands_of.add_edge(*joined.ends, saddle=float(lab.swept(joined).values["train", "loss"].max()))
        saddles = sorted(s for _, _, s in bands_of.edges.data("saddle"))
        tree = [s for _, _, s in nx.minimum_spanning_tree(bands_of, "saddle").edges.data("saddle")]
        own = [
            next(e["value"] for e in lab[m].describe()["evaluations"] if (e["split"], e["metric"]) == ("train", "loss"))
            for m in minima(trial)
        ]
        return {
            "minima": Number(float(len(own))),
            "mean loss of the minima": Number(sum(own) / len(own)),
            "lowest saddle": Number(saddles[0]),
            "highest saddle": Number(saddles[-1]),
            "mean saddle of the tree": Number(sum(tree) / len(tree)),
            "highest saddle of the tree": Number(max(tree)),
        }


@dataclass(frozen=True, kw_only=True)
class Saddles(Row):
    """The saddles of bands between several pairs of independent modes ([L] table 9)."""

    schedule: str

    def _joined(self, trial: Trial) -> tuple[Join, ...]:
        names = modes_of(minima(trial))
        pairs = zip(names[::2], names[1::2], strict=True)
        return tuple(band(trial, a, b, f"{self.schedule}-{i}", trial.option("band")) for i, (a, b) in enumerate(pairs))

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*minima(trial), *self._joined(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        found = [float(lab.swept(joined).values["train", "loss"].max()) for joined in self._joined(trial)]
        return {
            "lowest saddle": Number(min(found)),
            "mean saddle": Number(sum(found) / len(found)),
            "highest saddle": Number(max(found)),
        }


def _pairs(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Setup]:
    return {
        "tiny": Setup(_TINY, 1, {"minima": 4, "band": settings["tiny"]} | _BRIEF),
        "small": Setup(_SMALL, 1, {"minima": 8, "band": settings["small"]} | _PART),
        "paper": Setup(_RESNET20, 1, {"minima": 8, "band": settings["paper"]}),
    }


def _of(source: str, *saddles: float) -> dict[str, Published]:
    return {
        "lowest saddle": Published(min(saddles), source),
        "mean saddle": Published(sum(saddles) / len(saddles), f"{source} (the mean of its numbers)"),
        "highest saddle": Published(max(saddles), source),
    }


EXPERIMENTS = (
    Experiment(
        "n-minima",
        "N",
        "Minima joined by nudged elastic bands, and the minimum spanning tree of their saddles",
        (
            Quantity("minima"),
            Quantity("mean loss of the minima"),
            Quantity("lowest saddle"),
            Quantity("mean saddle"),
            Quantity("highest saddle"),
            Quantity("mean saddle of the tree"),
            Quantity("highest saddle of the tree"),
        ),
        (
            Tree(
                name="tree",
                setups={
                    "tiny": Setup(_TINY, 1, {"minima": 4, "reach": 1, "band": _STANDARD["tiny"]} | _BRIEF),
                    "small": Setup(_SMALL, 1, {"minima": 10, "reach": 1, "band": _STANDARD["small"]} | _PART),
                    "paper": Setup(_RESNET20, 1, {"minima": 10, "reach": 5, "band": _STANDARD["paper"]}),
                },
                published={
                    q: not_legible("figures")
                    for q in ("mean loss of the minima", "mean saddle of the tree", "highest saddle of the tree")
                },
            ),
            Saddles(
                name="standard",
                schedule="standard",
                setups=_pairs(_STANDARD),
                published=_of("[L] table 9, ResNet20, four runs", 0.519, 1.648, 0.542, 1.541),
                variants=VARIANTS,
            ),
            Saddles(
                name="fast",
                schedule="fast",
                setups=_pairs(_FAST),
                published=_of("[L] table 9, ResNet20 (fast), four runs", 4.2, 1.24, 2.898, 2.63),
                variants=VARIANTS[:1],
            ),
        ),
        "How the modes were trained is not said in [L]; ours is a usual recipe for ResNet-20. Bands of mgraph's preset "
        "quick are much cheaper than the published schedules: here the two columns differ in cost as well.",
        same_cost=False,
    ),
)
