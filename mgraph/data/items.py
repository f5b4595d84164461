"""The items of a ``Dataset`` as tensors: (input, target) pairs that all have the same shapes and types.

Input and target are each a tensor, or a dict or tuple of tensors. An item may also be one dict with an entry ``labels``
or ``label``, as in Hugging Face's ``datasets``: that entry is the target and the rest the input (a single entry becomes
just that tensor). Floats become float32, as in arrays, and integer targets int64. A batch is always a copy, because a
Dataset may return the same buffer every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgraph.data.labels import refuse_words
from mgraph.errors import InputError, MGraphError
from mgraph.fields import Fields, named_tensors, over, tensors_of

_STORAGE_ONLY = (torch.uint16, torch.uint32, torch.uint64)
Pair = tuple[Fields, Fields]

_TARGETS = ("labels", "label")  # names of the target in dict items, as in Hugging Face's data sets


def read_batch(dataset: Any, places: Sequence[int], name: str) -> Pair:
    """Read the items at these places into one batch: x and y of shape (B, …), or several such tensors each.

    ``name`` is what messages call them, such as "the train split". Raises InputError, naming the item, if one cannot be
    read, is not a pair of numbers, or differs from the first in shape or type.
    """
    quick = _stacked_pairs([item for _, item in _items(dataset, places, name)])
    if quick is not None:
        return quick
    # One by one, copying each before requesting the next; this also finds which one is odd.
    xs = ys = None
    for k, (place, item) in enumerate(_items(dataset, places, name)):
        x, y = as_pair(item, name, place)
        if xs is None or ys is None:
            xs, ys = (over(lambda t: t.new_empty((len(places), *t.shape)), part) for part in (x, y))
        for what, part, batch in (("Input", x, xs), ("Target", y, ys)):
            _require_alike(what, part, batch, name, places[0], place)
            for one, row in zip(tensors_of(part), tensors_of(batch), strict=True):
                row[k] = one
    assert xs is not None
    assert ys is not None
    return xs, ys


def as_pair(item: Any, name: str, place: int) -> Pair:
    """Turn an item into tensors (x, y); raise InputError, saying what it is and should be, if it is not a pair."""
    where = f"Item {place} of {name}"
    if isinstance(item, Mapping):
        item = _divided(item, where)
    if not isinstance(item, list | tuple) or len(item) != 2:
        what = f"{len(item)} things" if isinstance(item, list | tuple) else f"a {type(item).__name__}"
        raise InputError(f"{where} is {what}; items of a Dataset must be (input, target) pairs.")
    return _typed(_as_fields(item[0], "input", where, name), _as_fields(item[1], "target", where, name))


def _divided(item: Mapping[Any, Any], where: str) -> tuple[Any, Any]:
    """Split a dict into inputs and target; raise InputError if no single entry has the name of a target."""
    found = [key for key in _TARGETS if key in item]
    if len(found) != 1 or len(item) < 2:
        keys = ", ".join(repr(key) for key in list(item)[:5])
        raise InputError(
            f"{where} is a dict with {keys or 'nothing in it'}, and it is unknown which is the input and which the "
            "target. Name the target 'labels', or wrap the Dataset in one whose __getitem__ returns a pair: one "
            "tensor each, as in item['image'], item['label'], or a dict of what the network's forward takes as the "
            "input."
        )
    (target,) = found
    inputs = {key: value for key, value in item.items() if key != target}
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs, item[target]


def check_input_type(x: Tensor, where: str) -> None:
    """Raise InputError for an unsigned type that torch can store but barely compute with."""
    if x.dtype in _STORAGE_ONLY:
        raise InputError(
            f"{where} is of type {str(x.dtype).removeprefix('torch.')}, which networks cannot compute with; give "
            f"images as uint8, or as floats (16-bit images divided by 65535), and tokens as int64."
        )


def _typed(x: Fields, y: Fields) -> Pair:
    return over(input_typed, x), over(target_typed, y)


def input_typed(x: Tensor) -> Tensor:
    """Convert floats and booleans to float32; leave integers as they are."""
    return x.to(torch.float32) if x.is_floating_point() or x.dtype == torch.bool else x


def target_typed(y: Tensor) -> Tensor:
    """Convert floats to float32, and integers to the type that torch's losses expect."""
    return y.to(torch.float32 if y.is_floating_point() else torch.int64)


def _stacked_pairs(items: Sequence[Any]) -> Pair | None:
    """Stack plain items at once; return None if they are not all alike, or share memory."""
    if not all(type(item) in (tuple, list) and len(item) == 2 for item in items):
        return None
    x, y = _stacked([item[0] for item in items]), _stacked([item[1] for item in items])
    return None if x is None or y is None or x.dtype in _STORAGE_ONLY else _typed(x, y)


def _stacked(parts: list[Any]) -> Tensor | None:
    kind = type(parts[0])
    if any(type(part) is not kind for part in parts):
        return None
    if kind is int and all(abs(part) < 1 << 62 for part in parts):
        return torch.tensor(parts)
    if kind is float:
        return torch.tensor(parts, dtype=torch.float32)
    if issubclass(kind, np.generic):
        values = np.array(parts)
        return torch.from_numpy(values) if values.dtype.kind in "buif" else None
    # Arrays at the same address may be one buffer, refilled for every item.
    if kind is np.ndarray:
        alike = len({(part.shape, part.dtype) for part in parts}) == 1
        apart = len({part.__array_interface__["data"][0] for part in parts}) == len(parts)
        plain = parts[0].dtype.kind in "buif" and parts[0].dtype.isnative
        return torch.from_numpy(np.stack(parts)) if alike and apart and plain else None
    if kind is Tensor:
        alike = len({(part.shape, part.dtype, part.device) for part in parts}) == 1
        plain = parts[0].layout == torch.strided and not parts[0].is_complex()
        apart = plain and len({part.data_ptr() for part in parts}) == len(parts)
        return torch.stack(parts).detach().cpu() if alike and apart else None
    return None


def _as_fields(value: Any, what: str, where: str, name: str) -> Fields:
    """Turn an input or target into tensors; a plain list or tuple of numbers becomes one tensor."""
    if isinstance(value, Mapping):
        if not value:
            raise InputError(f"The {what} of {where[0].lower()}{where[1:]} is an empty dict.")
        for key in value:
            if not isinstance(key, str):
                raise InputError(
                    f"The {what} of {where[0].lower()}{where[1:]} is a dict with the key {key!r}; keys are the names "
                    "of what the network's forward takes."
                )
        return {key: _as_tensor(part, f"{what} {key}", where, name) for key, part in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return tuple(_as_tensor(part, f"{what} {i}", where, name) for i, part in enumerate(value))
    return _as_tensor(value, what, where, name)


def _as_tensor(value: Any, what: str, where: str, name: str) -> Tensor:
    if isinstance(value, Tensor):
        tensor: Tensor = value.detach()
    elif hasattr(value, "getbands"):  # a Pillow image; Pillow may not be installed
        raise InputError(
            f"The {what} of {where[0].lower()}{where[1:]} is a PIL image; give the Dataset the transform "
            f"torchvision.transforms.PILToTensor() (uint8) or ToTensor() (floats)."
        )
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(f"The {what} of {where[0].lower()}{where[1:]} is not an array: {error}.") from None
        if what.startswith("target"):
            refuse_words(name, array)
        if array.dtype.kind not in "buif":
            raise InputError(
                f"The {what} of {where[0].lower()}{where[1:]} is a {type(value).__name__}; give a tensor or an array "
                f"of numbers."
            )
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if what.startswith("input"):
        check_input_type(tensor, f"The {what} of {where[0].lower()}{where[1:]}")
    if tensor.is_complex():
        raise InputError(f"The {what} of {where[0].lower()}{where[1:]} is of type {tensor.dtype}; give real numbers.")
    return tensor


def _items(dataset: Any, places: Sequence[int], name: str) -> Iterator[tuple[int, Any]]:
    """Yield (place, item), in a single request if the Dataset supports it."""
    whole = getattr(dataset, "__getitems__", None)
    if whole is not None:
        try:
            items = whole(list(places))
        except (MGraphError, MemoryError):
            raise
        except Exception as error:  # the user's own code
            raise _unreadable(f"Items {places[0]} to {places[-1]}", name, error) from error
        yield from zip(places, items, strict=True)
        return
    for place in places:
        try:
            item = dataset[place]
        except (MGraphError, MemoryError):
            raise
        except Exception as error:  # the user's own code
            raise _unreadable(f"Item {place}", name, error) from error
        yield place, item


def _unreadable(what: str, name: str, error: Exception) -> InputError:
    why = " ".join(str(error).split()).rstrip(".")
    return InputError(f"{what} of {name} cannot be read: {type(error).__name__}{': ' if why else ''}{why}.")


def _require_alike(what: str, part: Fields, batch: Fields, name: str, first: int, place: int) -> None:
    mine, theirs = named_tensors(part), named_tensors(batch)
    if [key for key, _ in mine] != [key for key, _ in theirs]:
        raise InputError(
            f"{what} {place} of {name} has {_keys(part)}, and {what.lower()} {first} {_keys(batch)}; give all of them "
            f"the same, in one order."
        )
    for (key, one), (_, rows) in zip(mine, theirs, strict=True):
        of = f"{what} {place} of {name}" + (f", {key}," if key else "")
        if one.shape != rows.shape[1:]:
            raise InputError(
                f"{of} has shape {list(one.shape)}, and {what.lower()} {first} {list(rows.shape[1:])}; give all of "
                "them one shape (resize, crop or pad)."
            )
        if one.dtype != rows.dtype:
            raise InputError(
                f"{of} is of type {one.dtype}, and {what.lower()} {first} {rows.dtype}; give all of them one type."
            )


def _keys(fields: Fields) -> str:
    return ", ".join(key for key, _ in named_tensors(fields)) if not isinstance(fields, Tensor) else "one tensor"
