"""The architectures that a spec can name, readable without torch. Stored graphs depend on these defaults."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mgraph.specs import BuiltIn, Param

_CLASSES = Param("classes", "int", None, "number of outputs (default: the data's number of classes)")
_BN = Param("bn", "bool", False, "batch normalisation of every hidden layer")

_ENTRIES = (
    BuiltIn(
        "mlp",
        "fully connected layers with ReLU",
        "mgraph.architectures.builtin:mlp",
        (Param("hidden", "ints", (256, 256), "widths of the hidden layers"), _BN, _CLASSES),
    ),
    BuiltIn(
        "cnn",
        "3×3 convolutions with ReLU and 2×2 max-pooling, then fully connected layers",
        "mgraph.architectures.builtin:cnn",
        (
            Param("channels", "ints", (16, 32), "channels of the convolutions; each halves height and width"),
            Param("hidden", "ints", (64,), "widths of the hidden fully connected layers"),
            Param("bn", "bool", False, "batch normalisation after every convolution"),
            _CLASSES,
        ),
    ),
    BuiltIn(
        "lenet5",
        "LeNet-5 with ReLU and max-pooling (LeCun et al. 1998, modernised)",
        "mgraph.architectures.builtin:lenet5",
        (_CLASSES,),
    ),
    BuiltIn(
        "toy",
        "a landscape of two weights: the loss on the data toy is a potential",
        "mgraph.architectures.landscapes:toy",
        (Param("potential", "str", "ring", "ring, valley or muller-brown"),),
    ),
    BuiltIn(
        "torchvision",
        "a classification network of torchvision, freshly initialised",
        "mgraph.architectures.libraries:torchvision",
        (
            Param("stem", "str", "imagenet", "cifar: a ResNet's stem for small images, 3×3 without pooling"),
            _CLASSES,
        ),
        argument="NAME",
        further=True,
    ),
    BuiltIn(
        "timm",
        "a network of timm, if that is installed, freshly initialised",
        "mgraph.architectures.libraries:timm",
        (_CLASSES,),
        argument="NAME",
        further=True,
    ),
)

ARCHITECTURES: Mapping[str, BuiltIn] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
