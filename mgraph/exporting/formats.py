"""The formats of exported files, by their endings, and what they need (no torch)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mgraph.errors import InputError

WEIGHTS = (".safetensors", ".pt", ".pth")
PROGRAMS = (".pt2", ".onnx")
ONNX = ".onnx"


def is_program(path: Path) -> bool:
    """Tell whether a file of this name holds a program, rather than weights alone."""
    return path.suffix in PROGRAMS


def check_format(path: Path) -> None:
    """Raise InputError for a file that cannot be written, by its ending."""
    if path.suffix not in WEIGHTS + PROGRAMS:
        raise InputError(
            f"{path.name} must end in {', '.join(WEIGHTS)} (weights), .pt2 (a program of torch.export) or .onnx."
        )


def check_normalise(path: Path, normalise: bool) -> None:
    """Raise InputError for normalisation that is to go into a file which holds no program."""
    if normalise and not is_program(path):
        raise InputError(
            f"--normalise puts the normalisation into a program, and {path.name} holds weights alone: export to .pt2 "
            "or .onnx, or normalise by the mean and std that the model card names."
        )


def require_libraries(path: Path, *, verify: bool) -> None:
    """Raise InputError, with the pip command, if a library is missing that writes the file or is to verify it."""
    needed = [] if path.suffix != ONNX else ["onnx", "onnxscript", *(["onnxruntime"] if verify else [])]
    missing = [name for name in needed if not _installed(name)]
    if missing:
        also = "" if missing != ["onnxruntime"] else " (or leave out the check: --no-verify)"
        raise InputError(f"{path.name} needs {' and '.join(missing)}: pip install 'mgraph[onnx]'{also}.")


def card_of(path: Path) -> Path:
    """Return the path of the model card beside an exported file."""
    return path.with_name(f"{path.name}.md")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # its import is blocked
        return False
