"""Warnings as the user sees them: ours and those of libraries, each once and in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mgraph
from mgraph.errors import MGraphWarning
from mgraph_cli.terminal import echo

_LONGEST = 500  # characters of a library's warning

# Warnings that concern neither the numbers nor the user: the library, and how the text begins.
_CHATTER = (
    # Which precision is used is our own setting, and is recorded with the run.
    ("torch", "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled."),
    # Whether there is a GPU is seen from the device, which is recorded too.
    ("torch", "Can't initialize NVML"),
    ("torch", "User provided device_type of 'cuda', but CUDA is not available."),
    # How torch compiles, and that it compiles anew.
    ("torch", "dynamo_pgo force disabled"),
    ("torch", "Not enough SMs to use max_autotune_gemm mode"),
)
_OURS = Path(mgraph.__file__).parent


class Warnings:
    """Shows warnings on stderr; Python's filters (-W) say which kinds are shown at all."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def show(self, message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        """Print a warning; in place of :func:`warnings.showwarning`."""
        text = str(message)
        if issubclass(category, MGraphWarning):
            echo(f"Warning: {text}", err=True)
            return
        library = library_of(filename)
        line = " ".join(text.split())
        if line in self._shown or any(library == whose and line.startswith(start) for whose, start in _CHATTER):
            return
        self._shown.add(line)
        cut = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
        echo(f"Warning ({library}): {cut}", err=True)


def library_of(filename: str) -> str:
    """Name the package that a file belongs to, or the file itself if it is the user's own."""
    path = Path(filename)
    if path.is_relative_to(_OURS) or path.is_relative_to(Path(__file__).parent):
        return "a library"  # the call does not tell us which one
    for home in ("site-packages", "dist-packages"):
        if home in path.parts[:-1]:
            return path.parts[path.parts.index(home) + 1].removesuffix(".py")
    if path.is_relative_to(Path(sys.base_prefix) / "lib"):
        return "python"
    return path.name
