"""[L] Connecting Independently Trained Modes via Layer-Wise Connectivity: LLPF between modes, towards the origin and
across variance spheres, with the measures of its appendices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from mgraph.methods.llpf.method import LLPF
from mgraph.repro.experiment import OURS, Experiment, Net, Number, Published, Quantity, Row, Setup, Trial, not_legible
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Ask, Grid, Join, Step, Train, modes_of

_TINY = Net("cnn", "cnn?channels=4,8&hidden=16,", "digits", {"epochs": 8, "lr": 0.1})
_TINY_BN = Net("cnn-bn", "cnn?bn=true&channels=4,8&hidden=16,", "digits", {"epochs": 8, "lr": 0.1})
_TINY_CCT = Net(
    "cct",
    "cct?depth=1&dim=16&heads=2",
    "digits",
    {"epochs": 10, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.01},
)
_LENET = Net("lenet5", "lenet5", "mnist", {}, "lenet5-mnist")
_LENET_SMALL = Net("lenet5", "lenet5", "mnist", {"epochs": 5, "batch_size": 64})
_RESNET = Net("resnet18", "torchvision:resnet18?stem=cifar", "cifar10", {}, "resnet18-cifar10")
_DLA = Net("dla", "timm:dla34", "cifar10", {}, "resnet18-cifar10")
_CCT = Net("cct7", "cct", "cifar10", {}, "cct7-cifar10")

# The authors' walk holds every layer's variance at the start's; ours blends it into the destination's. At the smaller
# scales both move in mgraph's larger steps.
_SHORT = {"ticks": 100, "step_a": 0.03, "max_iters": 15, "max_groups": 3, "origin_ticks": 60, "check_examples": 500}
_FASTER = {"ticks": 1500, "check_examples": 2000, "keep_every": 20}
_MEASURED = Grid(inner=1, splits=("train", "test"))
_MEASURED_PART = Grid(inner=1, splits=("train", "test"), examples=5000)


def walk(trial: Trial, kind: str) -> Join:
    """Return a walk: between two modes (m2m), towards the origin (m2o), or across variance spheres."""
    settings: dict[str, Any] = {"walk": kind} | dict(trial.option("walk", {}))
    preset = trial.option("preset")
    if not trial.faithful:
        method = LLPF.parse(settings)
    elif preset is not None:
        method = LLPF.preset(preset, walk=kind)
    else:
        method = LLPF.parse({"variance_target": "start"} | settings)
    ends = modes_of(modes(trial, kind))
    return Join(name=trial.name(kind), net=trial.net, ends=ends, method=method, grid=trial.option("grid", _MEASURED))


def modes(trial: Trial, kind: str) -> tuple[Train, ...]:
    """Return the modes that a walk joins: independent ones; across, the second one with more weight decay."""
    a, b = (Train.of(trial.net, trial.name(x, shared=True), trial.seed(i)) for i, x in enumerate("ab"))
    if kind == "m2o":
        return (a,)
    if kind == "m2m":
        return a, b
    low, high = trial.option("decays")
    return tuple(
        Train.of(trial.net, trial.name(f"decay-{decay:g}", shared=True), trial.seed(5 + i), weight_decay=decay)
        for i, decay in enumerate((low, high))
    )


@dataclass(frozen=True, kw_only=True)
class Walk(Row):
    """The checks of a walk: how high it gets, whether it arrives, and how far the loss rises between kept points."""

    kind: str

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial, self.kind), walk(trial, self.kind))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        joined = walk(trial, self.kind)
        data = lab.swept(joined)
        checks, test = lab[joined].describe(data.sweep)["checks"], data.values["test", "loss"]
        wanted = {
            "largest train loss": checks["max_train_loss"],
            "tolerance": checks["tolerance"],
            "rise between points": checks["largest_rise_within_a_piece"],
            "way left": 100 * checks["left_before_the_last_piece"],
            "largest test loss": float(test.max()),
        }
        return {name: Number(float(value)) for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Measures(Row):
    """Cosines and variances of two independent modes, sharpness and relative flatness of the first (A, C, L)."""

    variants: tuple[str, ...] = (OURS,)

    def _asks(self, trial: Trial) -> tuple[Ask, Ask]:
        a, b = modes_of(modes(trial, "m2m"))
        return (
            Ask(name=trial.name("cosine"), net=trial.net, function=lambda lab: lab.graph.compare(a, b).pairs[0]),
            Ask(
                name=trial.name("sharpness"),
                net=trial.net,
                function=lambda lab: lab.graph.node(a).sharpness(directions=10, examples=2000),
                forward=8 * 10 * 2 * 2000,
            ),
        )

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial, "m2m"), *self._asks(trial))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        pair, sharpness = (lab[ask] for ask in self._asks(trial))
        facts = sharpness.describe()
        profile = {row["radius"]: row["mean"] for row in facts["profile"]}
        found = {
            "median cosine": pair.describe()["median_cosine"],
            "variance ratio": pair.describe()["variance_ratio"],
            "relative flatness": facts["relative_flatness"],
            "sharpness at 0.016": profile.get(0.016),
        }
        return {name: Number(float(value)) for name, value in found.items() if value is not None}


_QUANTITIES = (
    Quantity("largest train loss"),
    Quantity("tolerance"),
    Quantity("rise between points"),
    Quantity("way left", "%"),
    Quantity("largest test loss"),
    Quantity("median cosine"),
    Quantity("variance ratio"),
    Quantity("relative flatness"),
    Quantity("sharpness at 0.016"),
)


def _experiment(
    name: str,
    title: str,
    setups: Mapping[str, Setup],
    published: Mapping[str, Mapping[str, Published]],
    deviations: str,
    kinds: tuple[str, ...] = ("m2m", "m2o", "across"),
) -> Experiment:
    rows: list[Row] = [Walk(name=k, kind=k, setups=setups, published=published.get(k, {})) for k in kinds]
    rows.append(Measures(name="measures", setups=setups, published=published.get("measures", {})))
    return Experiment(name, "L", title, _QUANTITIES, tuple(rows), deviations, same_cost=False)


def _loss(said: str, source: str, value: float | None = None) -> dict[str, Published]:
    return {"largest train loss": Published(value, source, said)}


_LOW = "below 0.1"
_FLAT = {"relative flatness": not_legible("figure 21"), "sharpness at 0.016": not_legible("figure 21")}
_FIGURE = {"largest train loss": not_legible("figures 9 and 11")}
_DECAYS = {"decays": (0.0, 5e-3)}
_UNREAD = (
    "Learning rates and schedules of the modes, and some settings of the walks, are not legible in our text of the "
    "paper; mgraph recipes and mgraph methods llpf say what is taken instead. The two columns differ in cost: ours "
    "stops when it has arrived."
)
EXPERIMENTS = (
    _experiment(
        "l-lenet5",
        "LLPF on LeNet-5: between modes, towards the origin, across variance spheres",
        {
            "tiny": Setup(_TINY, 1, {"walk": _SHORT} | _DECAYS),
            "small": Setup(_LENET_SMALL, 1, {"walk": _FASTER, "grid": _MEASURED_PART} | _DECAYS),
            "paper": Setup(_LENET, 3, {"preset": "paper-lenet5"} | _DECAYS),
        },
        {"m2m": _FIGURE, "m2o": _FIGURE, "measures": _FLAT},
        _UNREAD,
    ),
    _experiment(
        "l-resnet18",
        "LLPF on ResNet-18: between modes, towards the origin, across variance spheres",
        {
            "tiny": Setup(_TINY_BN, 1, {"walk": _SHORT} | _DECAYS),
            "paper": Setup(_RESNET, 3, {"preset": "paper", "decays": (1e-4, 5e-4), "grid": _MEASURED_PART}),
        },
        {
            "m2m": _loss("", "table 9, ResNet18 (our)", 0.04),
            "measures": _FLAT | {"median cosine": Published(0.0104, "table 3 (the median of its 21 layers)")},
            "across": {"largest train loss": not_legible("appendix G")},
        },
        _UNREAD,
    ),
    _experiment(
        "l-cct7",
        "LLPF on CCT-7: between modes, towards the origin, across variance spheres",
        {
            "tiny": Setup(_TINY_CCT, 1, {"walk": _SHORT} | _DECAYS),
            "paper": Setup(_CCT, 3, {"preset": "paper-cct", "decays": (0.01, 0.06), "grid": _MEASURED_PART}),
        },
        {
            "m2m": _loss(_LOW, "§5"),
            "across": {"largest train loss": not_legible("appendix G")},
            "measures": _FLAT,
        },
        f"{_UNREAD} The weight decays of the two spheres are ours.",
    ),
    _experiment(
        "l-dla",
        "LLPF on DLA: between modes, towards the origin, across variance spheres",
        {
            "tiny": Setup(_TINY_BN, 1, {"walk": _SHORT} | _DECAYS),
            "paper": Setup(_DLA, 3, {"preset": "paper-dla", "decays": (1e-4, 5e-4), "grid": _MEASURED_PART}),
        },
        {
            "m2m": _loss(_LOW, "§5"),
            "across": {"largest train loss": not_legible("figure 4")},
        },
        f"{_UNREAD} The network is timm's DLA-34 (pip install 'mgraph[timm]'), whose first layers are those for "
        "ImageNet, and its modes are trained by the recipe for ResNet-18; tiny takes a CNN with BatchNorm.",
    ),
)
