"""Folders of images: which files count, and to which classes they belong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mgraph.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".gif", ".tif", ".tiff", ".webp")

# Created by systems and programs beside the images; names that begin with a dot are skipped anyway.
_SYSTEM = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_NAMED = 3  # how many of many files are named


@dataclass
class Found:
    """The image files of one split with their class numbers, the classes' names, and what was skipped.

    ``files`` are relative to ``root``, with ``/``; for a folder with a great many, any other objects would take too
    much memory.
    """

    root: Path
    classes: list[str]
    files: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Sentences about what was skipped."""
        notes = []
        if self.hidden:
            notes.append(f"Hidden or system files are not data; not read in {self.root}: {some(self.hidden)}.")
        if self.others:
            notes.append(f"Not read in {self.root}, since they are not image files by name: {some(self.others)}.")
        return notes


def find_images(root: Path) -> Found:
    """List root/CLASS/** in order: classes by name, then folders, then files.

    Raises InputError, naming the folder, if there are no classes, or if one has no images or cannot be listed.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise InputError(
            f"{root.parent} has no folder {root.name}; put images into train/CLASS/ and test/CLASS/."
        ) from None
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
        before = len(found.files)
        found.files += _images_below(root / name, found)
        found.labels += [number] * (len(found.files) - before)
        if len(found.files) == before:
            empty.append(name)
    if not found.classes:
        raise InputError(f"{root} has no class folders; put the images into {root.name}/CLASS/.")
    if empty:
        raise InputError(
            f"The class folder {some(empty)} of {root} holds no image ({', '.join(ENDINGS)}); fill it, or remove it "
            f"from every split."
        )
    return found


def is_hidden(name: str) -> bool:
    """Return whether a file or folder belongs to a program or the system, judging by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM | _SYSTEM_FILES


def _images_below(folder: Path, found: Found) -> Iterator[str]:
    """Yield the images of a class, and record what is skipped; links are followed, but not in circles."""

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
                yield Path(here, name).as_posix()
            else:
                found.others.append(f"{here}/{name}")


def some(names: Sequence[str]) -> str:
    """List the first few of many."""
    listed = ", ".join(names[:_NAMED])
    return listed if len(names) <= _NAMED else f"{listed} and {len(names) - _NAMED} more"
