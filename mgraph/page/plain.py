"""Values as the page's JSON has them: strangers' text made visible, numbers short, nothing that JSON cannot say."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from mgraph.shown import visible

DIGITS = 5  # significant ones of a number in a table
POINT_DIGITS = 4  # of the numbers of swept points, which are many


def plain(value: Any) -> Any:
    """Return a value as the page has it, with everything inside: see :func:`number` for numbers."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float | np.floating):
        return number(float(value))
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, Mapping):
        return {visible(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return visible(str(value))


def number(value: float, digits: int = DIGITS) -> int | float | str:
    """Return a number with so many significant digits, whole ones as int; NaN and infinity, which JSON lacks, as text.

    >>> number(0.123456), number(2.0), number(float("nan"))
    (0.12346, 2, 'nan')
    """
    if not math.isfinite(value):
        return str(value)
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def numbers(values: Iterable[float]) -> list[int | float | str]:
    """Return the numbers of swept points."""
    return [number(float(value), POINT_DIGITS) for value in values]


def quoted(text: str) -> str:
    r"""Quote a word for a shell, so that the command is also harmless to look at: hidden characters as escapes.

    >>> quoted("a b"), quoted("a\x1b[1m")
    ("'a b'", "$'a\\x1b[1m'")
    """
    if visible(text) == text and "\n" not in text:
        return shlex.quote(text)
    # Every character that a terminal might obey or a reader not see becomes its bytes, which bash, zsh and fish … know.
    written = "".join(c if re.fullmatch(r"[ -~]", c) and c not in "\\'" else _bytes(c) for c in text)
    return f"$'{written}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
