"""Well-known data sets read through torchvision, which downloads them only on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import platformdirs

from mgraph.data.files import last_examples
from mgraph.data.limits import Limit, limited, limits_of
from mgraph.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from mgraph.data.task import Task

# The customary mean and standard deviation per channel, of the training images in [0, 1].
_MNIST = ((0.1307,), (0.3081,))
_FASHION = ((0.2860,), (0.3530,))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_STL10 = ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
_CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
CONSTANTS = {"mnist": _MNIST, "cifar10": _CIFAR10, "cifar100": _CIFAR100}
"""Those of data that are also had as NumPy files, by name."""

Root = Annotated[str | None, "directory of the files (default: the user's cache directory)"]
Download = Annotated[bool, "download the files if they are missing"]
Valid = Annotated[str | None, "validation data: lastN, the last N of train (default: a stratified tenth)"]
_Constants = tuple[tuple[float, ...], tuple[float, ...]]


def mnist(*, root: Root = None, download: Download = False, limit: Limit = None, valid: Valid = None) -> Task:
    """LeCun, Cortes and Burges: 60000 and 10000 digits, shape (1, 28, 28)."""
    return _fetched(_Source("mnist", "MNIST", 10, _MNIST), root, valid, download=download, limit=limit)


def fashionmnist(*, root: Root = None, download: Download = False, limit: Limit = None, valid: Valid = None) -> Task:
    """Xiao, Rasul and Vollgraf (2017): 60000 and 10000 pieces of clothing, shape (1, 28, 28)."""
    return _fetched(_Source("fashionmnist", "FashionMNIST", 10, _FASHION), root, valid, download=download, limit=limit)


def cifar10(*, root: Root = None, download: Download = False, limit: Limit = None, valid: Valid = None) -> Task:
    """Krizhevsky (2009): 50000 and 10000 photographs, shape (3, 32, 32)."""
    return _fetched(_Source("cifar10", "CIFAR10", 10, _CIFAR10), root, valid, download=download, limit=limit)


def cifar100(*, root: Root = None, download: Download = False, limit: Limit = None, valid: Valid = None) -> Task:
    """Krizhevsky (2009): 50000 and 10000 photographs in 100 classes, shape (3, 32, 32)."""
    return _fetched(_Source("cifar100", "CIFAR100", 100, _CIFAR100), root, valid, download=download, limit=limit)


def svhn(*, root: Root = None, download: Download = False, limit: Limit = None, valid: Valid = None) -> Task:
    """Netzer et al. (2011): 73257 and 26032 house numbers, shape (3, 32, 32)."""
    return _fetched(_Source("svhn", "SVHN", 10, _SVHN), root, valid, download=download, limit=limit)


def stl10(*, root: Root = None, download: Download = False, limit: Limit = None, valid: Valid = None) -> Task:
    """Coates, Ng and Lee (2011): 5000 and 8000 labelled photographs, shape (3, 96, 96)."""
    return _fetched(_Source("stl10", "STL10", 10, _STL10), root, valid, download=download, limit=limit)


def default_root() -> Path:
    """Return the directory that holds data sets unless ``root`` says otherwise."""
    return Path(platformdirs.user_cache_dir("mgraph")) / "datasets"


@dataclass(frozen=True)
class _Source:
    """A torchvision data set: our name for it and torchvision's, its classes, and its constants."""

    spec: str
    name: str
    classes: int
    constants: _Constants


def _fetched(
    source: _Source, root: str | None, valid: str | None, *, download: bool, limit: tuple[str, ...] | None
) -> Task:
    from mgraph.data.making import make_task

    limits = limits_of(limit)

    directory = Path(root).expanduser() if root else default_root()
    train, test = (_read(source, directory, part, download) for part in (True, False))
    train, held = last_examples(train, valid)
    mean, std = source.constants
    splits = {"train": train, "test": test} | ({} if held is None else {"valid": held})
    return make_task(**limited(splits, limits), classes=source.classes, mean=mean, std=std)


def _read(source: _Source, directory: Path, train: bool, download: bool) -> tuple[Any, Any]:
    """Read one part as uint8 images, shape (N, C, H, W), and labels."""
    import torchvision

    try:
        of_part: dict[str, Any] = {"train": train}
        if source.name in ("SVHN", "STL10"):
            of_part = {"split": "train" if train else "test"}
        part = getattr(torchvision.datasets, source.name)(str(directory), download=download, **of_part)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        if download:
            raise InputError(f"{source.spec} could not be fetched into {directory}: {error}.") from error
        raise NotFoundError(
            f"{source.spec} is not in {directory}; add ?download=true to fetch it, or ?root=DIR if you have it "
            "elsewhere."
        ) from error
    images = np.asarray(part.data)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] != 3:
        images = images.transpose(0, 3, 1, 2)
    labels = part.targets if hasattr(part, "targets") else part.labels
    return np.ascontiguousarray(images), np.asarray(labels).astype(np.int64)
