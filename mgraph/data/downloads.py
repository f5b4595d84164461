"""Well-known data sets read through torchvision, which fetches them only if asked to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import platformdirs

from mgraph.data.files import Limit, first_examples
from mgraph.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from mgraph.data.task import Task

# Mean and standard deviation per channel of the training images in [0, 1], as customary.
_MNIST = ((0.1307,), (0.3081,))
_FASHION = ((0.2860,), (0.3530,))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

Root = Annotated[str | None, "directory of the files (default: the user's cache directory)"]
Download = Annotated[bool, "fetch the files if they are not there"]
_Constants = tuple[tuple[float, ...], tuple[float, ...]]


def mnist(*, root: Root = None, download: Download = False, limit: Limit = None) -> Task:
    """LeCun, Cortes and Burges: 60000 and 10000 digits, shape (1, 28, 28)."""
    return _fetched("mnist", "MNIST", 10, _MNIST, root, download, limit)


def fashionmnist(*, root: Root = None, download: Download = False, limit: Limit = None) -> Task:
    """Xiao, Rasul and Vollgraf (2017): 60000 and 10000 pieces of clothing, shape (1, 28, 28)."""
    return _fetched("fashionmnist", "FashionMNIST", 10, _FASHION, root, download, limit)


def cifar10(*, root: Root = None, download: Download = False, limit: Limit = None) -> Task:
    """Krizhevsky (2009): 50000 and 10000 photographs, shape (3, 32, 32)."""
    return _fetched("cifar10", "CIFAR10", 10, _CIFAR10, root, download, limit)


def cifar100(*, root: Root = None, download: Download = False, limit: Limit = None) -> Task:
    """Krizhevsky (2009): 50000 and 10000 photographs in 100 classes, shape (3, 32, 32)."""
    return _fetched("cifar100", "CIFAR100", 100, _CIFAR100, root, download, limit)


def default_root() -> Path:
    """Return where data sets are kept unless ``root`` says otherwise."""
    return Path(platformdirs.user_cache_dir("mgraph")) / "datasets"


def _fetched(
    spec: str,
    name: str,
    classes: int,
    constants: _Constants,
    root: str | None,
    download: bool,
    limit: int | None,
) -> Task:
    from mgraph.data.making import make_task

    directory = Path(root).expanduser() if root else default_root()
    train, test = (_read(spec, name, directory, part, download) for part in (True, False))
    mean, std = constants
    return make_task(train=first_examples(train, limit), test=test, classes=classes, mean=mean, std=std)


def _read(spec: str, name: str, directory: Path, train: bool, download: bool) -> tuple[Any, Any]:
    """Read one part as uint8 images, shape (N, C, H, W), and labels."""
    import torchvision

    try:
        part = getattr(torchvision.datasets, name)(str(directory), train=train, download=download)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        if download:
            raise InputError(f"{spec} could not be fetched into {directory}: {error}.") from error
        raise NotFoundError(
            f"{spec} is not in {directory}; add ?download=true to fetch it, or ?root=DIR if you have it elsewhere."
        ) from error
    images = np.asarray(part.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(part.targets)
