"""How many examples of each split are used (``limit=1000,test=500``), for quick trials on large data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from mgraph.errors import InputError
from mgraph.specs import suggestion

SPLITS = ("train", "valid", "test")

Limit = Annotated[
    tuple[str, ...] | None, "use only this many training examples, and test=N, valid=N of those: 1000,test=500"
]
Pair = tuple[Any, Any]


def limits_of(given: Sequence[str] | int | None) -> dict[str, int]:
    """Parse ``1000,test=500`` into examples by split; a bare number is for train.

    Raises InputError for an unknown split, a split that is limited twice, fewer than 2 examples of train, or none of
    another split.
    """
    parts = [] if given is None else [str(given)] if isinstance(given, int) else list(map(str, given))
    found: dict[str, int] = {}
    for part in parts:
        split, equals, number = part.rpartition("=")
        split = split.strip() if equals else "train"
        if split not in SPLITS:
            raise InputError(
                f"limit has no split {split!r};{suggestion(split, SPLITS)} write it like limit=1000,valid=500,test=500."
            )
        if split in found:
            raise InputError(f"limit gives {split} twice; give it once.")
        least = 2 if split == "train" else 1
        if not number.strip().isdecimal() or int(number) < least:
            of_split = "" if split == "train" else f" of {split}"
            raise InputError(f"limit{of_split} must be at least {least}, not {number.strip()}.")
        found[split] = int(number)
    return found


def limited(
    splits: Mapping[str, Any], limits: Mapping[str, int], order: Callable[[int], Any] | None = None
) -> dict[str, Any]:
    """Keep the first examples of each split, a tuple of arrays; if ``order`` is given, the first of ``order(N)``.

    Raises InputError for a limit on validation data if there are none: they will be held out from train.
    """
    for split in limits:
        if split not in splits:
            raise InputError(
                f"limit names {split}, and these data have no {split} split of their own: it is taken from the "
                "training examples, so limit these."
            )
    kept = dict(splits)
    for split, most in limits.items():
        chosen = slice(most) if order is None else order(len(splits[split][0]))[:most]
        kept[split] = tuple(part[chosen] for part in splits[split])
    return kept
