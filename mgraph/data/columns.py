"""Turn columns of a table of Hugging Face's ``datasets`` into inputs and targets: images, numbers, lists, texts.

An encoder makes an array from some rows of one column. What it must know about the whole column (words, sizes) is
passed when it is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.data.decoding import decode
from mgraph.data.images import some
from mgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAD = "<pad>"

Rows = Sequence[Any]


@dataclass(frozen=True)
class Column:
    """A column of a data set: its owner, its name, and its kind: image, number, list, text, label, or another."""

    whose: str
    name: str
    kind: str
    classes: tuple[str, ...] = ()

    def refuse(self, why: str) -> InputError:
        """Return an error that names the column."""
        return InputError(f"Column {self.name} of {self.whose} {why}")

    def require_whole(self, values: Rows, places: Sequence[int]) -> None:
        """Raise InputError if a value is missing; ``places`` are the numbers of the rows, from 0."""
        gone = [place for place, value in zip(places, values, strict=True) if value is None]
        if gone:
            raise self.refuse(f"has no value in row {gone[0]} (from 0); fill it, or leave such rows out.")


def kind_of(feature: Any) -> str:
    """Return the kind of a column: image, label, number, list, text, or the name of an unsupported type."""
    name = type(feature).__name__
    if name in ("Image", "ClassLabel"):
        return {"Image": "image", "ClassLabel": "label"}[name]
    if name == "Value":
        if feature.dtype in ("string", "large_string"):
            return "text"
        return "number" if feature.dtype.startswith(("int", "uint", "float", "bool", "double")) else feature.dtype
    if name.startswith("Array"):
        return "list"
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    if inner is not None and kind_of(inner) in ("number", "label", "list"):
        return "list"
    return name if inner is None else f"{name} of {kind_of(inner)}"


Encoder = Callable[[Mapping[str, Rows], Sequence[int]], Any]
"""Makes an array, (N, …), or a dict of them, from rows, given as columns and by their numbers in the split."""


class DamagedError(InputError):
    """Images that cannot be read, each described in words."""

    def __init__(self, column: Column, damaged: Sequence[str], count: int | None = None) -> None:
        of = "" if count is None else f" of {count}"
        super().__init__(
            f"Column {column.name} of {column.whose} has {len(damaged)}{of} images that cannot be read: "
            f"{some(damaged)}; leave these rows out."
        )
        self.column, self.damaged = column, tuple(damaged)


def numbers(columns: Sequence[Column]) -> Encoder:
    """Place columns of numbers side by side, (N, columns)."""

    def encode(rows: Mapping[str, Rows], places: Sequence[int]) -> NDArray[np.float32]:
        for column in columns:
            column.require_whole(rows[column.name], places)
        return np.stack([np.asarray(rows[column.name], np.float32) for column in columns], axis=1)

    return encode


def lists(column: Column) -> Encoder:
    """Take lists of numbers, all of the same length."""

    def encode(rows: Mapping[str, Rows], places: Sequence[int]) -> NDArray[Any]:
        values = rows[column.name]
        column.require_whole(values, places)
        try:
            array = np.asarray(values)
        except ValueError:
            array = np.zeros(0, object)
        if array.dtype.kind not in "buif":
            sizes = sorted({len(value) for value in values})
            raise column.refuse(
                f"has lists of {len(sizes)} lengths, {sizes[0]} to {sizes[-1]}; pad them to one."
                if len(sizes) > 1
                else "has lists that are not numbers of one shape."
            )
        return array.astype(np.float32) if array.dtype.kind == "f" else array

    return encode


def images(column: Column, size: int) -> Encoder:
    """Decode images, (N, 3, size, size); unreadable ones are counted and named by their row."""

    def encode(rows: Mapping[str, Rows], places: Sequence[int]) -> NDArray[Any]:
        values = rows[column.name]
        column.require_whole(values, places)
        made, damaged = [], []
        for row, value in zip(places, values, strict=True):
            if value.get("bytes") is None:
                raise column.refuse("names files of images, and does not hold them; give imagefolder:DIR instead.")
            image, facts = decode(value["bytes"], size, None)
            if image is None:
                damaged.append(f"row {row} ({facts.damaged or 'it has transparent pixels'})")
            elif image.dtype != np.uint8:
                damaged.append(f"row {row} (it is grey with 16 bits)")
            else:
                made.append(image)
        if damaged:
            raise DamagedError(column, damaged)
        return np.stack(made)

    return encode


def one_size(column: Column, value: Mapping[str, Any]) -> int:
    """Return the size of an image, which must be square, as the default for all."""
    if value.get("bytes") is None:
        raise column.refuse("names files of images, and does not hold them; give imagefolder:DIR instead.")
    _, facts = decode(value["bytes"], None, None)
    if facts.damaged:
        raise column.refuse(f"has images that cannot be read: row 0 ({facts.damaged}).")
    if facts.width != facts.height:
        raise column.refuse(
            f"has images of {facts.width}×{facts.height} pixels; say to what size to resize them, as in size=64."
        )
    return facts.width


def texts(column: Column, ids: Callable[[str], Sequence[int]], length: int, pad: int) -> Encoder:
    """Turn texts into ``length`` tokens each, truncated or padded, with a mask of the real ones."""

    def encode(rows: Mapping[str, Rows], places: Sequence[int]) -> dict[str, NDArray[np.int64]]:
        column.require_whole(rows[column.name], places)
        tokens = np.full((len(rows[column.name]), length), pad, np.int64)
        mask = np.zeros_like(tokens)
        for row, text in enumerate(rows[column.name]):
            found = ids(text)[:length]
            tokens[row, : len(found)], mask[row, : len(found)] = found, 1
        return {"input_ids": tokens, "attention_mask": mask}

    return encode


def vocabulary(tokens: Iterable[Sequence[str]], least: int) -> dict[str, int]:
    """Number the tokens of texts, the most frequent first, after ``<pad>`` and ``<unk>``."""
    from mgraph.data.texts import UNKNOWN

    counts: Counter[str] = Counter()
    for some_tokens in tokens:
        counts.update(some_tokens)
    kept = sorted((token for token, n in counts.items() if n >= least), key=lambda token: (-counts[token], token))
    return {token: number for number, token in enumerate([PAD, UNKNOWN, *(k for k in kept if k != UNKNOWN)])}


def labels(column: Column, words: Sequence[str] = ()) -> Encoder:
    """Take labels: whole numbers, or ``words`` by their index; quantities become floats."""
    numbers_of = {word: number for number, word in enumerate(words)}

    def encode(rows: Mapping[str, Rows], places: Sequence[int]) -> NDArray[Any]:
        values = rows[column.name]
        column.require_whole(values, places)
        if words:
            strange = [str(value) for value in values if str(value) not in numbers_of]
            if strange:
                raise column.refuse(f"has the label {strange[0]!r}, which no row of train has; give other rows.")
            return np.array([numbers_of[str(value)] for value in values], np.int64)
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise column.refuse("has lists of several lengths; pad them to one.")
        if array.dtype.kind == "f":  # of one number: a column, as a network's only output is
            return array.astype(np.float32)[:, None] if array.ndim == 1 else array.astype(np.float32)
        return array.astype(np.int64)

    return encode
