"""The data sets that a spec can name, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mgraph.specs import BuiltIn, Param

_ROOT = Param("root", "str", None, "directory of the files (default: the user's cache directory)")
_DOWNLOAD = Param("download", "bool", False, "fetch the files if they are not there")
_LIMIT = Param("limit", "int", None, "use only the first so many training examples")
_MEAN = Param("mean", "floats", None, "mean per channel, after scaling uint8 to [0, 1]")
_STD = Param("std", "floats", None, "standard deviation per channel, likewise")
_FETCHED = (_ROOT, _DOWNLOAD, _LIMIT)

_ENTRIES = (
    BuiltIn(
        "digits",
        "1797 handwritten digits of 8×8 grey levels, 10 classes; comes with mgraph",
        "mgraph.data.digits:digits",
    ),
    BuiltIn("mnist", "70000 handwritten digits of 28×28, 10 classes", "mgraph.data.downloads:mnist", _FETCHED),
    BuiltIn(
        "fashionmnist",
        "70000 pieces of clothing of 28×28, 10 classes",
        "mgraph.data.downloads:fashionmnist",
        _FETCHED,
    ),
    BuiltIn("cifar10", "60000 colour photographs of 32×32, 10 classes", "mgraph.data.downloads:cifar10", _FETCHED),
    BuiltIn(
        "cifar100",
        "60000 colour photographs of 32×32, 100 classes",
        "mgraph.data.downloads:cifar100",
        _FETCHED,
    ),
    BuiltIn(
        "npz",
        "NumPy arrays x_train, y_train, x_test, y_test (and x_valid, y_valid) in one file",
        "mgraph.data.files:npz",
        (_MEAN, _STD, Param("classes", "int", None, "number of classes (default: largest label + 1)"), _LIMIT),
        argument="FILE",
    ),
    BuiltIn(
        "imagefolder",
        "image files in train/CLASS, test/CLASS (and valid/CLASS), held in memory",
        "mgraph.data.files:imagefolder",
        (
            Param("size", "int", 32, "height and width to which images are resized"),
            _MEAN,
            _STD,
            Param("background", "str", None, "behind transparent pixels: white, black, or ignore to drop alpha"),
            _LIMIT,
        ),
        argument="DIR",
    ),
    BuiltIn("toy", "for the architecture toy, whose output is its loss", "mgraph.data.toy:toy"),
)

DATASETS: Mapping[str, BuiltIn] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
