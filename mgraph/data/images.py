"""Folders of images: which files count, and how each becomes an array (three channels, one size).

What a file shows is what is read. Images of any colour mode become RGB, of 8 bits; grey ones of 16 bits keep their
precision, as floats in [0, 1]. A camera's orientation mark (EXIF) is applied. Of several frames the first is taken.
Transparency needs to be told what lies behind it, and what cannot be read rightly is refused by name. Colour profiles
are not applied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".gif", ".tif", ".tiff", ".webp")
BACKGROUNDS = ("white", "black", "ignore")

# Made by systems and programs beside the images; what begins with a dot is skipped anyway.
_SYSTEM = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_NAMED = 3  # of many files, so many are named
_FULL = 65535


@dataclass
class Found:
    """The image files of one split with their class numbers, the classes' names, and what was passed over."""

    root: Path
    classes: list[str]
    files: list[tuple[Path, int]] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Sentences on what was passed over."""
        notes = []
        if self.hidden:
            notes.append(f"Hidden or system files are not data; not read in {self.root}: {_some(self.hidden)}.")
        if self.others:
            notes.append(f"Not read in {self.root}, since they are not image files by name: {_some(self.others)}.")
        return notes


def find_images(root: Path) -> Found:
    """List root/CLASS/** in order: classes by name, then folders, then files.

    Raises InputError, naming the folder, if there are no classes, or one has no image, or it cannot be looked into.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"The image folder {root} cannot be read: {error.strerror}.") from None
    found = Found(root, [])
    for entry in entries:
        if is_hidden(entry.name):
            found.hidden.append(entry.name)
        elif entry.is_dir():
            found.classes.append(entry.name)
        else:
            found.others.append(entry.name)
    empty = []
    for number, name in enumerate(found.classes):
        images = list(_images_below(root / name, found))
        found.files += [(file, number) for file in images]
        if not images:
            empty.append(name)
    if not found.classes:
        raise InputError(f"{root} has no class folders; put the images into {root.name}/CLASS/.")
    if empty:
        raise InputError(
            f"The class folder {_some(empty)} of {root} holds no image ({', '.join(ENDINGS)}); fill it, or remove it "
            f"from every split."
        )
    return found


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is a program's or the system's, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM | _SYSTEM_FILES


def _images_below(folder: Path, found: Found) -> Iterator[Path]:
    """Yield the images of a class, and note what is passed over; links are followed, circles are not."""

    def refuse(error: OSError) -> None:
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from None

    seen: set[str] = set()
    walked = []
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = os.path.relpath(place, found.root)
        found.hidden += [f"{here}/{name}" for name in sorted(folders) if is_hidden(name)]
        seen.add(os.path.realpath(place))
        folders[:] = [n for n in folders if not is_hidden(n) and os.path.realpath(f"{place}/{n}") not in seen]
        walked.append((place, files))
    for place, files in sorted(walked):
        here = os.path.relpath(place, found.root)
        for name in sorted(files):
            if is_hidden(name):
                found.hidden.append(f"{here}/{name}")
            elif name.lower().endswith(ENDINGS):
                yield Path(place, name)
            else:
                found.others.append(f"{here}/{name}")


def read_images(found: Found, size: int, background: str | None) -> tuple[NDArray[Any], list[str]]:
    """Read all images, shape (N, 3, size, size), as uint8, or float32 in [0, 1] if any has 16 bits; and notes on them.

    ``background`` is white or black behind transparent pixels, or ``ignore`` for the colours that lie under them.
    Raises InputError, with the number of files and the first few names, for those that cannot be read.
    """
    if background is not None and background not in BACKGROUNDS:
        raise InputError(f"background is {', '.join(BACKGROUNDS)}, not {background!r}.")
    pixels: NDArray[Any] = np.empty((len(found.files), 3, size, size), np.uint8)
    report = _Report(found)
    for i, (file, _) in enumerate(found.files):
        try:
            image = _read(file, size, background, report)
        except MemoryError:
            raise
        except _TransparentError:
            report.transparent.append(_short(file, found.root))
            continue
        except Exception as error:  # decoders raise nearly everything for damaged files
            why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            report.damaged.append(f"{_short(file, found.root)} ({why.replace(str(file), 'it')})")
            continue
        if image.dtype != pixels.dtype:
            if pixels.dtype == np.uint8:
                pixels = _scaled(pixels)
            else:
                image = _scaled(image)
        pixels[i] = image
    report.refuse()
    return pixels, report.notes(size)


class _TransparentError(Exception):
    """An image has transparent pixels, and nobody said what lies behind them."""


@dataclass
class _Report:
    """What was met while the images of a folder were read."""

    found: Found
    damaged: list[str] = field(default_factory=list)
    transparent: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    deepest: int = 0

    def refuse(self) -> None:
        """Raise InputError if some of the files could not be read."""
        total, root = len(self.found.files), self.found.root
        if self.damaged:
            raise InputError(
                f"{len(self.damaged)} of {total} images in {root} cannot be read: {_some(self.damaged)}; replace them "
                f"or take them out."
            )
        if self.transparent:
            raise InputError(
                f"{len(self.transparent)} of {total} images in {root} have transparent pixels: "
                f"{_some(self.transparent)}; say what lies behind them: add background=white or background=black to "
                f"the spec, or background=ignore for the colours stored under them."
            )

    def notes(self, size: int) -> list[str]:
        """Sentences on what was converted."""
        notes, root = [], self.found.root
        if self.frames:
            notes.append(f"Of files with several frames in {root} the first is taken: {_some(self.frames)}.")
        if self.shortened:
            notes.append(
                f"Colour images of 16 bits in {root} are read with 8 bits per colour: {_some(self.shortened)}."
            )
        if len(self.sizes) > 1:
            low, high = min(self.sizes), max(self.sizes)
            notes.append(
                f"The images in {root} have {len(self.sizes)} sizes, from {low[0]}×{low[1]} to {high[0]}×{high[1]} "
                f"pixels; all are brought to {size}×{size}, whatever their proportions."
            )
        if 0 < self.deepest < _FULL // 8:
            notes.append(
                f"The 16-bit images in {root} reach {self.deepest} of {_FULL} only, so that inputs lie below "
                f"{self.deepest / _FULL:.2g}; give mean and std."
            )
        return notes


def _read(file: Path, size: int, background: str | None, report: _Report) -> NDArray[Any]:
    """Read one image, shape (3, size, size): uint8, or float32 in [0, 1]."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        report.sizes.add(image.size)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a phone's photo with its depth map
            report.frames.append(_short(file, report.found.root))
        deep = any(";16" in str(tile) for tile in image.tile)  # before it is loaded
        image.load()
        if image.mode.startswith("I;16") or (deep and image.mode == "I"):
            return _read_grey(image, size, background, report)
        if deep:  # of which Pillow takes the upper 8
            report.shortened.append(_short(file, report.found.root))
        if image.mode in ("I", "F", "LAB", "HSV"):
            what = {"I": "32-bit integers", "F": "floating-point numbers"}.get(image.mode, f"{image.mode} colours")
            raise InputError(f"its pixels are {what}; save it with 8 or 16 bits")
        upright = ImageOps.exif_transpose(image)
        colours = _on_background(upright, background)
        return np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _on_background(image: Image.Image, background: str | None) -> Image.Image:
    from PIL import Image

    if not image.has_transparency_data or background == "ignore":
        return image.convert("RGB")
    layered = image.convert("RGBA")
    if np.asarray(layered)[..., 3].min() == 255:  # all of it opaque
        return image.convert("RGB")
    if background is None:
        raise _TransparentError
    return Image.alpha_composite(Image.new("RGBA", layered.size, background), layered).convert("RGB")


def _read_grey(image: Image.Image, size: int, background: str | None, report: _Report) -> NDArray[np.float32]:
    """Read a grey image of 16 bits, shape (3, size, size), as float32 in [0, 1]."""
    from PIL import Image, ImageOps

    values = np.asarray(ImageOps.exif_transpose(image)).astype(np.float32)
    report.deepest = max(report.deepest, int(values.max()))
    clear = values == image.info["transparency"] if "transparency" in image.info else np.zeros_like(values, bool)
    if clear.any() and background != "ignore":  # one grey stands for it
        if background is None:
            raise _TransparentError
        values[clear] = _FULL if background == "white" else 0
    plane = Image.fromarray(values / np.float32(_FULL)).resize((size, size), Image.Resampling.BILINEAR)
    grey: NDArray[np.float32] = np.asarray(plane).clip(0, 1)
    return np.stack([grey] * 3)


def _scaled(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    return values.astype(np.float32) / np.float32(255)


def _short(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _some(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    """List the first few of many."""
    listed = ", ".join(map(show, names[:_NAMED]))
    return listed if len(names) <= _NAMED else f"{listed} and {len(names) - _NAMED} more"
