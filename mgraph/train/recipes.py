"""Recipes: how papers trained their networks, as presets of ``mgraph train`` (torch-free).

A recipe holds what its source says, and lists what the source leaves open, for which mgraph's defaults are used. [G] is
Garipov et al. 2018, [L] the paper on low-loss path finding; the numbers are from their texts. To add a recipe, write an
entry here once its architecture exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mgraph.errors import MGraphWarning
from mgraph.specs import Spec


class RecipeWarning(MGraphWarning):
    """A preset of training is used on a network or data other than those it was published for."""


@dataclass(frozen=True)
class Recipe:
    """Values of TrainSettings, the network and data that they are for, their source, and what the source leaves open.

    ``shape`` and ``classes`` are those of the data, whatever the data are called; ``classes`` is None where the recipe
    is the same for several.
    """

    name: str
    arch: str
    data: str
    shape: tuple[int, ...]
    classes: int | None
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    unstated: str = ""

    def differences(self, arch: str, shape: object, classes: int | None) -> list[str]:
        """List how a network and its data differ from the recipe's."""
        found = []
        if Spec.parse(arch) != Spec.parse(self.arch):
            found.append(f"the network {self.arch}, not {arch}")
        if shape != self.shape or self.classes not in (None, classes):
            size = f"inputs {self.shape}" + (f" and {self.classes} classes" if self.classes else "")
            found.append(f"{self.data} ({size}), not inputs {shape} and {classes} classes")
        return found


_SGD = {"optimizer": "sgd", "momentum": 0.9}
_LLPF = "[L] appendix F, table 6 and the table of augmentations"
_RESNET18 = "torchvision:resnet18?stem=cifar"
_CIFAR10: dict[str, Any] = {"data": "cifar10", "shape": (3, 32, 32), "classes": 10}
_CIFAR100 = _CIFAR10 | {"data": "cifar100", "classes": 100}
_CIFAR = _CIFAR10 | {"data": "cifar10 or cifar100", "classes": None}
_GARIPOV = _SGD | {"schedule": "curve", "augment": "crop4+flip"}
_STANDARD = "batch size; that standard augmentation is crop4+flip"
_VGG16: dict[str, Any] = {
    "arch": "torchvision:vgg16?stem=cifar",
    "source": "[G] section 6 (learning rate, epochs) and appendix A.5 (network), its code (weight decay, schedule)",
    "settings": _GARIPOV | {"lr": 0.05, "weight_decay": 5e-4, "epochs": 200},
    "unstated": _STANDARD,
}
_PRERESNET110: dict[str, Any] = {
    "arch": "preresnet?depth=110",
    "source": "[G] section 6 (network, learning rate, epochs), its code (schedule)",
    "settings": _GARIPOV | {"lr": 0.1, "epochs": 150},
    "unstated": f"{_STANDARD}; weight decay",
}
_PRERESNET164: dict[str, Any] = {
    "arch": "preresnet?depth=164",
    "source": "[G] section 4 (network), its code (learning rate, epochs, weight decay, batch size, schedule)",
    "settings": _GARIPOV | {"lr": 0.1, "weight_decay": 3e-4, "epochs": 150, "batch_size": 128},
    "unstated": "that standard augmentation is crop4+flip",
}
_WRN = _PRERESNET110 | {"arch": "wrn?depth=28&width=10", "settings": _GARIPOV | {"lr": 0.1, "epochs": 200}}
_LATE = ",".join(f"{epoch}ep" for epoch in range(14, 55))  # from the 15th epoch on, 1/1.15 of the previous one
_FAST_VGG = {"lr": 0.01, "schedule": "cyclic?period=2ep&low=0.05"}
_FAST_RESNET = {"lr": 0.05, "schedule": "cyclic?period=4ep&low=0.01"}
_FAST = (
    ("vgg16", _VGG16, _FAST_VGG, {"lr": 0.05, "epochs": 200, "schedule": "restarts?cycles=5"}),
    ("preresnet110", _PRERESNET110, _FAST_RESNET, {"lr": 0.1, "epochs": 150, "schedule": "restarts?cycles=4"}),
    ("wrn28-10", _WRN, _FAST_RESNET, {"lr": 0.1, "epochs": 200, "schedule": "restarts?cycles=5"}),
)
"""A network, how it is trained, its FGE cycles, and the snapshot ensemble with which these are compared."""


def _fast() -> Iterator[Recipe]:
    """Yield the recipes of [G] table 1: FGE, from a mode trained for three quarters of its epochs, and snapshots."""
    said = {
        "fge": "[G] section 6 (cycles, learning rates) and appendix A.5 (epochs)",
        "snapshot": "[G] section 6 (their best for Huang et al. 2017)",
    }
    for network, ordinary, fge, snapshot in _FAST:
        kept = {key: value for key, value in ordinary["settings"].items() if key not in snapshot}
        own = {"fge": fge | {"fge": True, "epochs": 22}, "snapshot": snapshot | {"snapshot": True}}
        for name, data in (("cifar10", _CIFAR10), ("cifar100", _CIFAR100)):
            of = {"arch": ordinary["arch"], "unstated": ordinary["unstated"], **data}
            for kind, source in said.items():
                yield Recipe(f"{network}-{name}-{kind}", source=source, settings=kept | own[kind], **of)


_UNREAD = "learning rate and schedule; steps of augmentation after the crop"

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                "lenet5-mnist",
                "lenet5",
                "mnist",
                (1, 28, 28),
                10,
                _LLPF,
                _SGD
                | {
                    "lr": 0.01,
                    "schedule": "constant",
                    "weight_decay": 0.0,
                    "batch_size": 64,
                    "epochs": 20,
                    "augment": "rotate5",
                },
            ),
            Recipe(
                "resnet18-cifar10",
                _RESNET18,
                source=_LLPF,
                settings=_SGD | {"weight_decay": 5e-4, "batch_size": 256, "epochs": 30, "augment": "crop4"},
                unstated=_UNREAD,
                **_CIFAR10,
            ),
            Recipe(
                "resnet18-cifar10-sharp",
                _RESNET18,
                source="[L] appendix L (modes in sharper minima) and appendix F, table 6",
                settings=_SGD
                | {
                    "lr": 0.1,
                    "schedule": "constant",
                    "weight_decay": 0.0,
                    "batch_size": 256,
                    "epochs": 30,
                    "augment": "crop4",
                },
                unstated="steps of augmentation after the crop",
                **_CIFAR10,
            ),
            Recipe(
                "resnet18-cifar100",
                _RESNET18,
                source=_LLPF,
                settings=_SGD | {"weight_decay": 5e-4, "batch_size": 256, "epochs": 50, "augment": "crop4"},
                unstated=_UNREAD,
                **_CIFAR100,
            ),
            Recipe("vgg16-cifar10", **_CIFAR10, **_VGG16),
            Recipe("vgg16-cifar100", **_CIFAR100, **_VGG16),
            Recipe("preresnet110-cifar10", **_CIFAR10, **_PRERESNET110),
            Recipe("preresnet110-cifar100", **_CIFAR100, **_PRERESNET110),
            Recipe("preresnet164", **_CIFAR, **_PRERESNET164),
            Recipe("preresnet164-cifar10", **_CIFAR10, **_PRERESNET164),
            Recipe("preresnet164-cifar100", **_CIFAR100, **_PRERESNET164),
            Recipe("wrn28-10", **_CIFAR, **_WRN),
            Recipe("wrn28-10-cifar10", **_CIFAR10, **_WRN),
            Recipe("wrn28-10-cifar100", **_CIFAR100, **_WRN),
            Recipe(
                "mobilenetv2-cifar10",
                "torchvision:mobilenet_v2?stem=cifar",
                source=_LLPF,
                settings=_SGD | {"weight_decay": 4e-5, "batch_size": 128, "epochs": 200, "augment": "crop4"},
                unstated=_UNREAD,
                **_CIFAR10,
            ),
            Recipe(
                "efficientnet-b0-cifar10",
                "torchvision:efficientnet_b0?stem=cifar",
                source=_LLPF,
                settings=_SGD | {"weight_decay": 1e-4, "batch_size": 256, "epochs": 120, "augment": "crop4"},
                unstated=_UNREAD,
                **_CIFAR10,
            ),
            Recipe(
                "cct7-cifar10",
                "cct",
                source="[L] appendix F, table 6 (batch size, epochs) and the table of augmentations; optimiser, "
                "learning rate, schedule, weight decay and label smoothing from the code of Hassani et al. 2021 (its "
                "configuration of 300 epochs), because those of [L] are not legible",
                settings={
                    "optimizer": "adamw",
                    "lr": 5.5e-4,
                    "schedule": "cosine?warmup=10ep",
                    "weight_decay": 0.06,
                    "label_smoothing": 0.1,
                    "batch_size": 128,
                    "epochs": 300,
                    "augment": "crop4",
                },
                unstated="steps of augmentation after the crop (that code also mixes images)",
                **_CIFAR10,
            ),
            Recipe(
                "lstm-ptb",
                "lstm?width=1500&dropout=0.65&init=0.04&tied=false",
                "text",
                (35,),
                10000,
                "[G] appendix A.3 and table 3 (its code is the recurrent tutorial of TensorFlow, and the perplexities "
                "those of its large configuration); that is the large LSTM of Zaremba et al. 2014, section 4.1, whose "
                "loss is summed over 35 tokens: learning rate 1 and clipping at 10 there are 35 and 10/35 of a mean",
                {
                    "optimizer": "sgd",
                    "momentum": 0.0,
                    "lr": 35.0,
                    "schedule": f"multistep?at={_LATE}&factor=0.869565",
                    "clip": 0.285714,
                    "weight_decay": 0.0,
                    "batch_size": 20,
                    "epochs": 55,
                },
                unstated="that every example begins with a state of zeros, which there is carried on",
            ),
            *_fast(),
        )
    }
)
