"""Data from a user's own files: NumPy arrays, and folders of images, which are streamed if they are large."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from mgraph.data.imagefiles import ImageFiles
from mgraph.data.images import Found, find_images, is_hidden
from mgraph.data.limits import Limit, limited, limits_of
from mgraph.data.machine import fits
from mgraph.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mgraph.data.task import Task

Pair = tuple[Any, Any]
Mean = Annotated[tuple[float, ...] | None, "mean per channel, after scaling uint8 to [0, 1]"]
Std = Annotated[tuple[float, ...] | None, "standard deviation per channel, likewise"]

Stream = Annotated[
    bool | None, "whether images are read when they are needed (default: if they would fill a quarter of the memory)"
]

_SPLITS = ("train", "valid", "test")


def npz(
    path: Path,
    *,
    mean: Mean = None,
    std: Std = None,
    classes: Annotated[int | None, "number of classes (default: largest label + 1)"] = None,
    limit: Limit = None,
) -> Task:
    """Load x_train, y_train, x_test, y_test and, if there, x_valid, y_valid.

    Inputs are uint8 images, (N, H, W), (N, H, W, C) or (N, C, H, W), or floats of any shape as the network sees them;
    targets are integer labels. ``limit`` keeps only the first examples of a split.
    """
    from mgraph.data.making import make_task

    limits = limits_of(limit)
    arrays = _load(path)
    needed = ["x_train", "y_train", "x_test", "y_test"]
    needed += ["x_valid", "y_valid"] if {"x_valid", "y_valid"} & set(arrays) else []
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise InputError(
            f"{path} has no array {missing[0]!r} (it has {', '.join(sorted(arrays)) or 'none'}); "
            f"save x_train, y_train, x_test and y_test."
        )
    splits: dict[str, Any] = {
        name: (channels_first(arrays[f"x_{name}"]), arrays[f"y_{name}"])
        for name in ("train", "valid", "test")
        if f"x_{name}" in needed
    }
    return make_task(**limited(splits, limits), classes=classes, mean=mean, std=std)


def imagefolder(
    path: Path,
    *,
    size: Annotated[int, "height and width to which images are resized"] = 32,
    mean: Mean = None,
    std: Std = None,
    background: Annotated[str | None, "behind transparent pixels: white, black, or ignore to drop alpha"] = None,
    limit: Limit = None,
    stream: Stream = None,
) -> Task:
    """Load train/CLASS/*, test/CLASS/* and, if there, valid/CLASS/*, resized to (3, size, size).

    Class numbers follow the alphabetical order of the folders in train, which every split must have.
    :mod:`mgraph.data.decoding` says how files are read; ``background`` (white, black or ignore) is put behind
    transparent pixels. ``limit`` takes the first examples of a split in a fixed shuffled order, since files are sorted
    by class.
    """
    if size < 1:
        raise InputError(f"size must be at least 1, not {size}.")
    _require_folder(path)
    splits: dict[str, Found] = {}
    notes = _unread_folders(path)
    for name in _SPLITS:
        if name == "valid" and not (path / name).is_dir():
            continue
        splits[name] = found = find_images(path / name)
        names = splits["train"].classes
        if found.classes != names:
            odd = sorted(set(found.classes) ^ set(names))[0]
            raise InputError(f"The classes of {path / name} are not those of train: {odd!r}; use the same folders.")
        notes += found.notes
    return _of_images(_limited(splits, limit), _Images(size, background, mean, std, stream), notes)


@dataclass(frozen=True)
class _Images:
    """How the images of all splits are read."""

    size: int
    background: str | None
    mean: Mean
    std: Std
    stream: bool | None


def _of_images(splits: dict[str, Found], how: _Images, notes: list[str]) -> Task:
    """Make a task from image files, which are held in memory or streamed."""
    import torch

    from mgraph.data.making import make_task
    from mgraph.data.splits import ArraySplit

    files = {name: ImageFiles(found, how.size, how.background) for name, found in splits.items()}
    stream = how.stream
    if stream is None:
        stream = not fits(3 * how.size**2 * sum(map(len, files.values())))
    made: dict[str, Any] = {}
    for name, images in files.items():
        if stream:
            notes += images.look()
            made[name] = images
        else:
            pixels, more = images.read()
            x, y = torch.from_numpy(pixels), torch.from_numpy(images.targets)
            made[name] = ArraySplit(x, y, how.mean, how.std, origin=images.examples_digest)
            notes += more
    task = make_task(**made, classes=len(splits["train"].classes), mean=how.mean, std=how.std)
    return replace(task, notes=(*notes, *task.notes))


def _limited(splits: dict[str, Found], limit: tuple[str, ...] | None) -> dict[str, Found]:
    """Keep the first examples of a fixed shuffled order, before any image is read."""
    limits = limits_of(limit)
    kept = limited({name: (np.arange(len(found.files)),) for name, found in splits.items()}, limits, _shuffled)
    chosen = dict(splits)
    for name in limits:
        found, (places,) = splits[name], kept[name]
        chosen[name] = replace(found, files=[found.files[i] for i in places], labels=[found.labels[i] for i in places])
    return chosen


def channels_first(x: NDArray[Any]) -> NDArray[Any]:
    """Convert uint8 images (N, H, W) or (N, H, W, C) to (N, C, H, W); leave anything else as it is."""
    if x.dtype != np.uint8:
        return x
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _shuffled(n: int) -> NDArray[np.int64]:
    order: NDArray[np.int64] = np.random.RandomState(0).permutation(n)
    return order


def last_examples(pair: Pair, rule: str | None) -> tuple[Pair, Pair | None]:
    """Split off the last examples of (x, y) as validation data, by a rule such as ``last5000``, if any."""
    if rule is None:
        return pair, None
    match = re.fullmatch(r"last([1-9][0-9]*)", rule)
    x, y = pair
    if match is None or int(match[1]) >= len(x):
        raise InputError(f"valid is lastN, as in last5000, with N below the {len(x)} training examples, not {rule!r}.")
    cut = len(x) - int(match[1])
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def tiny_imagenet(
    path: Path,
    *,
    mean: Mean = (0.4802, 0.4481, 0.3975),
    std: Std = (0.2770, 0.2691, 0.2821),
    limit: Limit = None,
    stream: Stream = None,
) -> Task:
    """Load Tiny ImageNet as unpacked: 100000 photographs in 200 classes, shape (3, 64, 64).

    The images in ``val`` are the test data, since those in ``test`` have no labels; validation data are a stratified
    tenth of train. ``limit`` takes the first examples of a split in a fixed shuffled order.
    """
    _require_folder(path)
    train = find_images(path / "train")
    splits = {"train": train, "test": _annotated(path / "val", train.classes)}
    return _of_images(_limited(splits, limit), _Images(64, None, mean, std, stream), [])


def _annotated(folder: Path, classes: list[str]) -> Found:
    """Find the images of a folder whose classes are listed in ``val_annotations.txt``."""
    file = folder / "val_annotations.txt"
    try:
        lines = [line.split("\t") for line in file.read_text().splitlines() if line]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; give the folder tiny-imagenet-200.") from None
    numbers = {name: i for i, name in enumerate(classes)}
    odd = [line for line in lines if len(line) < 2 or line[1] not in numbers]
    if odd:
        raise InputError(f"A line of {file} names no class of train: {' '.join(odd[0])!r}.")
    names = [name for name, *_ in lines]
    gone = [name for name in names if not (folder / "images" / name).is_file()]
    if gone:
        raise InputError(f"{len(gone)} of {len(names)} images that {file} names are missing: {gone[0]} …")
    return Found(folder, classes, [f"images/{name}" for name in names], [numbers[word] for _, word, *_ in lines])


def _require_folder(path: Path) -> None:
    """Raise NotFoundError if there is nothing, InputError for a file."""
    if not path.exists():
        raise NotFoundError(f"The image folder {path} does not exist; check the path.")
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the one that has train/CLASS/ and test/CLASS/.")


def _unread_folders(path: Path) -> list[str]:
    """Say which folders beside the splits are not read, such as a ``val``."""
    others = sorted(p.name for p in path.iterdir() if p.name not in _SPLITS and p.is_dir() and not is_hidden(p.name))
    known = ", ".join(_SPLITS)
    return [f"Of {path} only {known} are read, not {', '.join(others[:3])}."] if others else []


def _load(path: Path) -> dict[str, NDArray[Any]]:
    name = ""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {}
            for name in file.files:
                arrays[name] = file[name]
            return arrays
    except FileNotFoundError:
        raise NotFoundError(f"The data file {path} does not exist; check the path.") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        if "Object arrays" in why:
            raise InputError(
                f"{name} of {path} is an array of Python objects; make it one of plain numbers: examples of one shape "
                f"(resize, crop or pad), labels 0, 1, …."
            ) from None
        why = "it is something else" if "pickle" in why else why.rstrip(".")
        raise InputError(f"{path} cannot be read as an .npz file of plain arrays: {why}.") from None
