"""How an augmentation is written, and the available parts (torch-free): ``crop4+flip``, or a function of the user's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from mgraph.errors import InputError
from mgraph.settings import setting
from mgraph.specs import Spec
from mgraph.train.functions import name_of

_PART = re.compile(r"(?P<name>[a-z]+)(?P<number>[0-9]*)")


@dataclass(frozen=True)
class Kind:
    """One kind of part: what its number means, its least, largest and default values (0, 0: it takes none).

    ``moves`` says whether it moves pixels, so that targets with one value per pixel would no longer match.
    """

    what: str
    low: int = 0
    high: int = 0
    default: int | None = None
    moves: bool = True


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "crop": Kind("pixels of black border on every side, from which the image's size is cut at random", 1, 1024),
        "flip": Kind("left and right swapped in half of the examples"),
        "rotate": Kind("degrees by which an image turns at most, either way", 1, 180),
        "cutout": Kind("side of a square in the midst of whose pixels nothing is seen", 1, 1024, moves=False),
        "randaugment": Kind("magnitude, of 30, of two operations drawn from the 14 of RandAugment", 0, 30, 9),
    }
)


@dataclass(frozen=True)
class Part:
    """A part of an augmentation: its kind, and its number (0 for kinds that take none)."""

    name: str
    number: int = 0

    @property
    def kind(self) -> Kind:
        """The description of its kind."""
        return KINDS[self.name]


def parse_augment(text: str) -> tuple[Part, ...]:
    """Parse ``crop4+flip``; raise InputError, naming the part and similar names, for anything else."""
    return tuple(_part(piece.strip(), text) for piece in text.split("+"))


def canonical(text: str) -> str:
    """Return the one spelling of what may be written in several ways: ``randaugment`` is ``randaugment9``."""
    if is_own(text):
        return text
    return "+".join(f"{part.name}{part.number if part.kind.high else ''}" for part in parse_augment(text))


def is_own(text: str) -> bool:
    """Return whether it names the user's own function."""
    return ":" in text and Spec.parse(text).is_factory


def check_augment(text: str) -> None:
    """Raise InputError unless this is how an augmentation is written; nothing is looked up yet."""
    first = text.partition("+")[0].strip()
    found = _PART.fullmatch(first)
    if "+" in text and ":" in text and found and found["name"] in KINDS:
        raise InputError(
            f"In augment={text} a function of your own stands beside {first}: give the function alone, and do the rest "
            f"in it."
        )
    if is_own(text):
        if Spec.parse(text).params:
            raise InputError(f"A function is named module:function or file.py:function, without parameters: {text!r}.")
    else:
        parse_augment(text)


def augment_setting() -> Any:
    """Declare the setting, the same for everything that trains."""
    return setting(
        None,
        "augmentation of training batches, at random for every example: parts joined by + of crop4 (border), flip, "
        "rotate5 (degrees), cutout8 (side) and randaugment; or module:function or file.py:function",
        check=check_augment,
        by_name=partial(name_of, what="augment"),
    )


def _part(piece: str, text: str) -> Part:
    found = _PART.fullmatch(piece)
    if found is None or found["name"] not in KINDS:
        close = difflib.get_close_matches(found["name"] if found else piece, KINDS, 1)
        hint = f" Did you mean {_example(close[0])}?" if close else ""
        raise InputError(
            f"augment has no part {piece!r}; there are {', '.join(map(_example, KINDS))}, joined by +, or a function "
            f"of your own as file.py:function.{hint}"
        )
    kind = KINDS[found["name"]]
    if kind.high == 0:
        if found["number"]:
            raise InputError(f"In augment={text} {found['name']} takes no number; write {found['name']}.")
        return Part(found["name"])
    if not found["number"] and kind.default is None:
        raise InputError(f"In augment={text} {piece} needs a number ({kind.what}), as in {_example(piece)}.")
    number = int(found["number"]) if found["number"] else kind.default or 0
    if not kind.low <= number <= kind.high:
        raise InputError(f"The number of {found['name']} ({kind.what}) is {kind.low} to {kind.high}, not {number}.")
    return Part(found["name"], number)


def _example(name: str) -> str:
    return name + {"crop": "4", "rotate": "5", "cutout": "8"}.get(name, "")
