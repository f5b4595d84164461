"""[G] Garipov et al. (2018), Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs: loss and error along paths
(table 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from mgraph.repro.experiment import (
    OURS,
    Experiment,
    Number,
    Published,
    Quantity,
    Row,
    Setup,
    Trial,
)
from mgraph.repro.experiments.g_paths import (
    BEZIER,
    CHAIN,
    CIFAR,
    CONV3FC,
    FC,
    RESNET158,
    RESNET164,
    RESNET_PATH,
    SEGMENT,
    SINGLE,
    SMALL_PATH,
    SMALL_RESNET,
    SMALL_VGG,
    TINY,
    TINY_BN,
    TINY_FC,
    TINY_PATH,
    UNSTATED,
    VGG16,
    VGG16_100,
    VGG_PATH,
    WRN,
    modes,
    path,
)
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Step

_OF_PATH = ("min", "int", "max")
_QUANTITIES = (
    Quantity("length ratio"),
    *(Quantity(f"train loss, {part}") for part in _OF_PATH),
    *(Quantity(f"train error, {part}", "%") for part in _OF_PATH),
    *(Quantity(f"test error, {part}", "%") for part in _OF_PATH),
)


@dataclass(frozen=True, kw_only=True)
class Path(Row):
    """Min, Int and Max along a path of [G] table 2; a loss there is the L2-regularised one."""

    kind: str

    @override
    def steps(self, trial: Trial) -> tuple[Step, ...]:
        return (*modes(trial), path(trial, self.kind))

    @override
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        data = lab.swept(path(trial, self.kind))
        loss = next(name for split, name in data.values if split == "train" and name.startswith("l2loss"))
        if self.kind == SINGLE:
            return self._of_ends(data, loss)
        rows = lab[path(trial, self.kind)].describe(data.sweep)["summary"]
        summary = {(s["split"], s["metric"], s["statistic"]): s["value"] for s in rows}
        found = {"length ratio": summary["none", "geometry", "length_ratio"]}
        turned = {"min": "max", "int": "integral", "max": "min"}
        for part in _OF_PATH:
            found[f"train loss, {part}"] = summary["train", loss, "integral" if part == "int" else part]
            for split in ("train", "test"):
                found[f"{split} error, {part}"] = 100 * max(0.0, 1 - summary[split, "accuracy", turned[part]])
        return {name: Number(value) for name, value in found.items()}

    def _of_ends(self, data: Any, loss: str) -> Mapping[str, Number]:
        ends = list(data.grid.ends)
        found: dict[str, float] = {}
        for part, choose in (("min", min), ("max", max)):
            found[f"train loss, {part}"] = choose(data.values["train", loss][ends])
            for split in ("train", "test"):
                found[f"{split} error, {part}"] = 100 * choose(1 - data.values[split, "accuracy"][ends])
        return {name: Number(float(value)) for name, value in found.items()}


# Table 2: length ratio; min, int and max of train loss, train error and test error; None where it has a dash.
_TABLE2: dict[str, dict[str, tuple[float | None, ...]]] = {
    "fc-mnist": {
        SINGLE: (None, 0.018, None, 0.0181, 0.0117, None, 0.0117, 1.46, None, 1.5),
        SEGMENT: (1, 0.018, 0.2522, 0.6571, 0.01, 0.53, 2.13, 1.45, 1.96, 3.18),
        BEZIER: (1.58, 0.0157, 0.0203, 0.0239, 0.0117, 0.0225, 0.035, 1.46, 1.522, 1.56),
        CHAIN: (1.73, 0.0134, 0.0218, 0.029, 0, 0.03, 0.07, 1.46, 1.51, 1.58),
    },
    "3conv3fc-cifar10": {
        SINGLE: (None, 0.0498, None, 0.0498, 0.06, None, 0.06, 12.3, None, 12.36),
        SEGMENT: (1, 0.494, 1.1239, 2.4164, 0.06, 35.69, 88.24, 12.28, 43.3, 88.27),
        BEZIER: (1.30, 0.0337, 0.0377, 0.0498, 0.05, 0.1, 0.2, 12.06, 12.7, 13.66),
        CHAIN: (1.67, 0.0403, 0.0438, 0.0498, 0.06, 0.15, 0.31, 12.17, 12.68, 13.31),
    },
    "vgg16-cifar10": {
        SINGLE: (None, 0.0401, None, 0.0405, 0, None, 0.01, 6.87, None, 7.01),
        SEGMENT: (1, 0.0393, 1.7586, 2.5691, 0, 61.43, 90, 6.87, 63.75, 90),
        BEZIER: (1.55, 0.0276, 0.0303, 0.0405, 0, 0.01, 0.02, 6.59, 6.77, 7.01),
        CHAIN: (1.83, 0.0251, 0.0309, 0.0445, 0, 0.01, 0.04, 6.54, 6.89, 7.28),
    },
    "resnet158-cifar10": {
        SINGLE: (None, 0.0150, None, 0.0153, 0.02, None, 0.02, 5.56, None, 5.74),
        SEGMENT: (1, 0.0133, 0.5512, 2.613, 0.002, 16.37, 81.41, 5.57, 20.79, 80.00),
        BEZIER: (2.13, 0.0133, 0.0168, 0.0225, 0.00, 0.02, 0.07, 5.48, 5.82, 6.24),
        CHAIN: (3.48, 0.0133, 0.0168, 0.0468, 0.00, 0.05, 0.139, 5.48, 5.88, 7.35),
    },
    "wrn-cifar10": {
        SINGLE: (None, 0.0338, None, 0.0349, 0, None, 0, 4.49, None, 4.56),
        SEGMENT: (1, 0.0333, 0.412, 2.2033, 0, 5.44, 65.62, 4.49, 10.55, 66.6),
        BEZIER: (1.83, 0.0304, 0.0329, 0.0378, 0, 0.01, 0.04, 4.4, 4.62, 4.83),
        CHAIN: (1.95, 0.0263, 0.0291, 0.0372, 0, 0, 0, 4.38, 6.93, 10.38),
    },
    "vgg16-cifar100": {
        SINGLE: (None, 0.1401, None, 0.141, 0.05, None, 0.06, 29.44, None, 29.94),
        SEGMENT: (1, 0.1374, 3.6056, 4.9413, 0.04, 73.25, 99, 29.44, 80.59, 99.01),
        BEZIER: (1.52, 0.0952, 0.1069, 0.141, 0.03, 0.08, 0.18, 29.28, 30.49, 31.23),
        CHAIN: (1.64, 0.1184, 0.1388, 0.1997, 0.04, 0.19, 0.39, 29.33, 30.13, 30.92),
    },
    "resnet164-cifar100": {
        SINGLE: (None, 0.079, None, 0.0799, 0.06, None, 0.09, 24.41, None, 24.4),
        SEGMENT: (1, 0.0757, 1.8444, 5.5289, 0.06, 38.03, 98.65, 24.4, 53.69, 98.83),
        BEZIER: (1.87, 0.0736, 0.0832, 0.0979, 0.05, 0.28, 0.96, 24.15, 24.99, 26.1),
        CHAIN: (2.56, 0.0674, 0.0778, 0.1086, 0.06, 0.28, 0.85, 23.98, 24.92, 26.12),
    },
}
_SETUPS2: dict[str, dict[str, Setup]] = {
    "fc-mnist": {
        "tiny": Setup(TINY_FC, 1, TINY_PATH),
        "small": Setup(FC, 1, SMALL_PATH | {"lr": 0.05}),
        "paper": Setup(FC, 1, VGG_PATH | {"epochs": 30, "lr": 0.05}),
    },
    "3conv3fc-cifar10": {
        "small": Setup(replace(CONV3FC, arch="convfc?width=0.3&channels=16,32,64", train=CIFAR), 1, SMALL_PATH),
        "paper": Setup(CONV3FC, 1, VGG_PATH | {"epochs": 200}),
    },
    "vgg16-cifar10": {
        "tiny": Setup(TINY, 1, TINY_PATH),
        "small": Setup(SMALL_VGG, 1, SMALL_PATH),
        "paper": Setup(VGG16, 1, VGG_PATH),
    },
    "resnet158-cifar10": {
        "tiny": Setup(TINY_BN, 1, TINY_PATH | {"batchnorm": True}),
        "small": Setup(SMALL_RESNET, 1, SMALL_PATH | {"batchnorm": True}),
        "paper": Setup(RESNET158, 1, RESNET_PATH | {"batchnorm": True}),
    },
    "wrn-cifar10": {"paper": Setup(WRN, 1, RESNET_PATH | {"batchnorm": True})},
    "vgg16-cifar100": {"paper": Setup(VGG16_100, 1, VGG_PATH)},
    "resnet164-cifar100": {"paper": Setup(RESNET164, 1, RESNET_PATH | {"batchnorm": True})},
}


def _table2() -> tuple[Path, ...]:
    rows = []
    for net, by_kind in _TABLE2.items():
        for kind, numbers in by_kind.items():
            source = f"table 2, {net} {kind}"
            given = zip(_QUANTITIES, numbers, strict=True)
            published = {q.name: Published(float(x), source) for q, x in given if x is not None}
            variants = (OURS,) if kind in (SINGLE, SEGMENT) else Path.variants
            rows.append(
                Path(name=f"{net}-{kind}", kind=kind, setups=_SETUPS2[net], published=published, variants=variants)
            )
    return tuple(rows)


EXPERIMENTS = (
    Experiment(
        "g-table2",
        "G",
        "Loss and error along segments, Bézier curves and chains (table 2)",
        _QUANTITIES,
        _table2(),
        UNSTATED,
    ),
)
