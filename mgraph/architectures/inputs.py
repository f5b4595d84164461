"""What the built-in networks require of the data's shapes and of their own parameters, and how they refuse."""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.errors import InputError


def image_of(name: str, shape: tuple[int, ...], least: int = 1) -> tuple[int, int, int]:
    """Return channels, height and width; raise InputError if it is not an image or below ``least`` pixels a side."""
    if len(shape) != 3:
        raise InputError(f"{name} needs images of shape (channels, height, width), not {shape}; take mlp.")
    if min(shape[1:]) < least:
        raise InputError(f"{name} needs images of at least {least}×{least}, not {shape[1]}×{shape[2]}.")
    return shape[0], shape[1], shape[2]


def positive(name: str, widths: Sequence[int | float]) -> None:
    """Raise InputError unless all widths are at least 1."""
    if any(width < 1 for width in widths):
        raise InputError(f"{name} must be positive whole numbers, not {','.join(map(str, widths))}.")


def scaled(name: str, width: float, channels: Sequence[int]) -> list[int]:
    """Multiply channel counts by a width and round; raise InputError if no channels are left."""
    made = [round(width * one) for one in channels]
    if min(made) < 1:
        raise InputError(f"{name}?width={width:g} leaves no channels of {min(channels)}; give a larger width.")
    return made


def repeats(name: str, depth: int, per_unit: int, others: int, known: Sequence[int]) -> int:
    """Return n for depth = ``per_unit``·n + ``others``; raise InputError, naming the paper's depths, if none fits."""
    n, left = divmod(depth - others, per_unit)
    if left or n < 1:
        examples = ", ".join(map(str, known))
        raise InputError(f"{name} has {per_unit}n+{others} layers, such as {examples}; not depth={depth}.")
    return n


def share(name: str, key: str, value: float) -> None:
    """Raise InputError unless a probability is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise InputError(f"{key} of {name} must be at least 0 and below 1, not {value:g}.")
