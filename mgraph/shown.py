r"""What mgraph shows to people: strangers' text is escaped, and cells cannot act as formulas in a spreadsheet.

:func:`visible` escapes what a terminal obeys or a reader cannot see, see :mod:`mgraph_store.visible`.
"""

from __future__ import annotations

import re
from typing import Any

from mgraph_store.visible import visible, visible_lines

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # including full-width ones


def plain_cell(value: Any) -> Any:
    r"""Return a CSV cell that a spreadsheet shows as it is: text that would be a formula gets an apostrophe before it.

    Numbers stay numbers, also as text. Other text is made :func:`visible`.

    >>> plain_cell("=1+1"), plain_cell("-0.5"), plain_cell(-0.5)
    ("'=1+1", '-0.5', -0.5)
    """
    if not isinstance(value, str):
        return value
    formula = value.lstrip().startswith(_FORMULA) or value.startswith(_FORMULA)
    return "'" * (formula and not _NUMBER.fullmatch(value)) + visible(value)


__all__ = ["plain_cell", "visible", "visible_lines"]
