"""The architectures and data sets that a spec can name without user code: one line each (torch-free).

Each line names an annotated function, whose parameters are those of the spec: the ones with an annotation that explains
them, ``Annotated[type, "what it is"]``, can be given. To add one, write the function and a line here. Stored graphs
depend on the names and on the functions' defaults.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

ROOT = "root"
"""The parameter of data sets that names a directory."""


@dataclass(frozen=True)
class Param:
    """One parameter of a built-in: its type, default (None: none, or determined by the data) and meaning."""

    name: str
    hint: Any
    default: Any
    help: str


@dataclass(frozen=True)
class BuiltIn:
    """An architecture or data set: how to write it, e.g. ``npz:FILE``, and the ``module:function`` that makes it.

    ``several``: an architecture that accepts inputs of several tensors and checks their shapes itself. ``example``: the
    shape of one example and the number of classes that it is meant for, if it is not for images.
    """

    usage: str
    summary: str
    target: str
    several: bool = False
    example: tuple[tuple[int, ...], int] = ((3, 32, 32), 10)

    @property
    def name(self) -> str:
        """The part of a spec before the first colon."""
        return self.usage.partition(":")[0]

    @property
    def argument(self) -> str:
        """The placeholder for the argument after the colon: FILE, DIR, NAME; empty if there is none."""
        return self.usage.partition(":")[2]

    def function(self) -> Callable[..., Any]:
        """Import and return what makes it."""
        module, _, attribute = self.target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return function

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """The parameters that a spec can give, read from the function's signature."""
        function = self.function()
        annotated = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
        hints = get_type_hints(
            SimpleNamespace(__annotations__=annotated), vars(inspect.getmodule(function)), include_extras=True
        )
        found = []
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name)
            if get_origin(hint) is Annotated:
                plain, help = get_args(hint)
                default = None if parameter.default is parameter.empty else parameter.default
                found.append(Param(parameter.name, plain, default, help))
        for name, hint in get_type_hints(self._keywords or SimpleNamespace, include_extras=True).items():
            plain, help, *default = get_args(hint)
            found.append(Param(name, plain, default[0] if default else None, help))
        return tuple(found)

    @property
    def _keywords(self) -> Any:
        """The TypedDict of a function with too many parameters to list, ``Annotated[type, help, default]``."""
        function = self.function()
        parameters = inspect.signature(function).parameters.values()
        last = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if last is None or not str(function.__annotations__.get(last)).startswith("Unpack["):
            return None
        return vars(inspect.getmodule(function))[str(function.__annotations__[last])[len("Unpack[") : -1]]

    @cached_property
    def further(self) -> bool:
        """Whether other parameters are passed on to the library behind it."""
        parameters = inspect.signature(self.function()).parameters.values()
        return self._keywords is None and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _by_name(*entries: BuiltIn) -> Mapping[str, BuiltIn]:
    return MappingProxyType({entry.name: entry for entry in entries})


_NETS, _DATA = "mgraph.architectures", "mgraph.data"

ARCHITECTURES = _by_name(
    BuiltIn("mlp", "fully connected layers with ReLU", f"{_NETS}.builtin:mlp"),
    BuiltIn(
        "cnn",
        "3×3 convolutions with ReLU and 2×2 max-pooling, then fully connected layers",
        f"{_NETS}.builtin:cnn",
    ),
    BuiltIn("lenet5", "LeNet-5 with ReLU and max-pooling (LeCun et al. 1998, modernised)", f"{_NETS}.builtin:lenet5"),
    BuiltIn("convfc", "3 convolutions and 3 layers whose width scales (Garipov et al. 2018)", f"{_NETS}.convfc:convfc"),
    BuiltIn("cifarresnet", "ResNet-20 to -110 for small images (He et al. 2015)", f"{_NETS}.cifarresnet:cifarresnet"),
    BuiltIn("preresnet", "pre-activation ResNet-110 and -164 (He et al. 2016)", f"{_NETS}.preresnet:preresnet"),
    BuiltIn("wrn", "wide ResNet (Zagoruyko and Komodakis 2016)", f"{_NETS}.wideresnet:wrn"),
    BuiltIn("vit", "vision transformer for small images (Dosovitskiy et al. 2021)", f"{_NETS}.vit:vit"),
    BuiltIn("cct", "compact convolutional transformer (Hassani et al. 2021)", f"{_NETS}.cct:cct"),
    BuiltIn(
        "lstm",
        "recurrent language model (Zaremba et al. 2014), its two matrices of words tied",
        f"{_NETS}.lstm:lstm",
        several=True,
        example=((35,), 10000),
    ),
    BuiltIn(
        "toy",
        "a landscape of two weights: the loss on the data toy is a potential",
        f"{_NETS}.builtin:toy",
        example=((1,), 1),
    ),
    BuiltIn(
        "torchvision:NAME",
        "a classification network of torchvision, freshly initialised",
        f"{_NETS}.libraries:torchvision",
    ),
    BuiltIn("timm:NAME", "a network of timm, if that is installed, freshly initialised", f"{_NETS}.libraries:timm"),
    BuiltIn(
        "hf:CONFIG",
        "a network of transformers, if that is installed, by its kind or config.json, freshly initialised",
        f"{_NETS}.huggingface:huggingface",
        several=True,
        example=((16,), 2),
    ),
    BuiltIn(
        "peft:DIR",
        "LoRA adapters on a pretrained network of transformers in a directory, which is frozen, if peft is installed",
        f"{_NETS}.adapters:peft",
        several=True,
        example=((16,), 2),
    ),
)

# The argument of a data set is a path, except for those in CONFIGS.
DATASETS = _by_name(
    BuiltIn(
        "digits", "1797 handwritten digits of 8×8 grey levels, 10 classes; comes with mgraph", f"{_DATA}.digits:digits"
    ),
    BuiltIn("mnist", "70000 handwritten digits of 28×28, 10 classes", f"{_DATA}.downloads:mnist"),
    BuiltIn("fashionmnist", "70000 pieces of clothing of 28×28, 10 classes", f"{_DATA}.downloads:fashionmnist"),
    BuiltIn("cifar10", "60000 colour photographs of 32×32, 10 classes", f"{_DATA}.downloads:cifar10"),
    BuiltIn("cifar100", "60000 colour photographs of 32×32, 100 classes", f"{_DATA}.downloads:cifar100"),
    BuiltIn("svhn", "99289 house numbers of 32×32, 10 classes", f"{_DATA}.downloads:svhn"),
    BuiltIn("stl10", "13000 colour photographs of 96×96, 10 classes", f"{_DATA}.downloads:stl10"),
    BuiltIn(
        "tiny-imagenet:DIR", "110000 photographs of 64×64, 200 classes, as unpacked", f"{_DATA}.files:tiny_imagenet"
    ),
    BuiltIn(
        "npz:FILE",
        "NumPy arrays x_train, y_train, x_test, y_test (and x_valid, y_valid) in one file",
        f"{_DATA}.files:npz",
    ),
    BuiltIn(
        "imagefolder:DIR",
        "image files in train/CLASS, test/CLASS (and valid/CLASS)",
        f"{_DATA}.files:imagefolder",
    ),
    BuiltIn("text:DIR", "texts train.txt, test.txt (and valid.txt) for next-token prediction", f"{_DATA}.texts:text"),
    BuiltIn("csv:FILE", "a table: a column to predict from others", "mgraph.tabular:csv"),
    BuiltIn("parquet:FILE", "a table in Parquet, likewise", "mgraph.tabular:parquet"),
    BuiltIn(
        "hf:NAME_OR_DIR",
        "a data set of the library datasets, if that is installed: its columns x and y",
        f"{_DATA}.huggingface:huggingface",
    ),
    BuiltIn("toy", "for the architecture toy, whose output is its loss", f"{_DATA}.toy:toy"),
)

CONFIGS = frozenset({"hf", "peft"})
"""Architectures and data sets whose argument is a name, or may be a path."""

PRETRAINED = frozenset({"peft"})
"""Those whose argument is always a path, and whose network contains untrained weights from there."""

BASE = "base"
"""The parameter of such architectures that names a directory."""

FILES = frozenset(entry.name for entry in DATASETS.values() if entry.argument) - CONFIGS
"""Data sets named by a path."""
