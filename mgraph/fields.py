"""The components of a batch: one tensor, or a dict or tuple of tensors whose common leading axis is the examples.

Inputs and targets are *fields* in this sense: the tokens and the attention mask of texts, two images, or, for most
networks, a single tensor. The functions here treat all of them like one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Fields = Tensor | dict[str, Tensor] | tuple[Tensor, ...]
Shape = tuple[int, ...]
Shapes = Shape | dict[str, Shape] | tuple[Shape, ...]
"""The shapes of one example, in the form of its fields; a tuple of numbers is the shape of a single tensor."""


def tensors_of(fields: Fields) -> list[Tensor]:
    """List the tensors in order."""
    if isinstance(fields, Tensor):
        return [fields]
    return list(fields.values() if isinstance(fields, dict) else fields)


def over(function: Callable[[Tensor], Tensor], fields: Fields) -> Fields:
    """Apply a function to every tensor; the result has the same form."""
    if isinstance(fields, Tensor):
        return function(fields)
    if isinstance(fields, dict):
        return {name: function(tensor) for name, tensor in fields.items()}
    return tuple(function(tensor) for tensor in fields)


def named_tensors(fields: Fields) -> list[tuple[str, Tensor]]:
    """List the tensors with their names in messages: a key, a place, or nothing if there is only one."""
    if isinstance(fields, Tensor):
        return [("", fields)]
    pairs: Any = fields.items() if isinstance(fields, dict) else enumerate(fields)
    return [(str(name), tensor) for name, tensor in pairs]


def of_form(form: Fields, tensors: Sequence[Tensor]) -> Fields:
    """Give tensors the form of other fields with the same number of tensors, in order."""
    if isinstance(form, Tensor):
        (only,) = tensors
        return only
    if isinstance(form, dict):
        return dict(zip(form, tensors, strict=True))
    return tuple(tensors)


def examples_in(fields: Fields) -> int:
    """Return the number of examples: the length of the leading axis."""
    return len(fields if isinstance(fields, Tensor) else tensors_of(fields)[0])


def part_of(fields: Fields, index: Any) -> Fields:
    """Return some of the examples: a slice, or those at the given indices."""
    return over(lambda tensor: tensor[index], fields)


def divided(fields: Fields, sizes: Sequence[int]) -> list[Fields]:
    """Divide the examples into parts of these sizes."""
    if isinstance(fields, Tensor):
        return list(torch.split(fields, list(sizes)))
    parts = zip(*(torch.split(tensor, list(sizes)) for tensor in tensors_of(fields)), strict=True)
    return [of_form(fields, part) for part in parts]


def joined(batches: Sequence[Fields]) -> Fields:
    """Concatenate the examples of one or more batches of the same form."""
    together = [torch.cat(parts) for parts in zip(*map(tensors_of, batches), strict=True)]
    return of_form(batches[0], together)


def copied(fields: Fields) -> Fields:
    """Copy every tensor."""
    return over(Tensor.clone, fields)


def shapes_of(fields: Fields) -> Shapes:
    """Return the shapes of one example."""
    if isinstance(fields, Tensor):
        return tuple(fields.shape[1:])
    if isinstance(fields, dict):
        return {name: tuple(tensor.shape[1:]) for name, tensor in fields.items()}
    return tuple(tuple(tensor.shape[1:]) for tensor in fields)


def numbers_in(shapes: Shapes) -> int:
    """Return the number of values in an example with these shapes."""
    if isinstance(shapes, Mapping):
        return sum(map(numbers_in, shapes.values()))
    count = 1
    for extent in shapes:
        if not isinstance(extent, int):
            return sum(numbers_in(shape) for shape in shapes if isinstance(shape, tuple))
        count *= extent
    return count


def are_labels(targets: Fields) -> bool:
    """Return whether targets are one tensor of whole numbers."""
    return isinstance(targets, Tensor) and not targets.is_floating_point()


def describe(fields: Fields) -> str:
    """Name the shapes for a sentence: ``shape [8, 3, 32, 32]``, or those of every field; of integers also the type."""
    if isinstance(fields, Tensor):
        return f"shape {_shape(fields)}"
    return "shapes " + ", ".join(f"{name} {_shape(tensor)}" for name, tensor in named_tensors(fields))


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"
