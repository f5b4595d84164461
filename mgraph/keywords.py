"""Keywords that several functions share, written once as a TypedDict (PEP 692), so that a type checker knows each one.

Python itself only sees ``**options``, so the functions that take them check here whether all are known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def refuse_unknown(function: str, given: Iterable[str], known: type) -> None:
    """Raise TypeError, as Python does, for a keyword that is not a field of the TypedDict ``known``."""
    names = list(known.__annotations__)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; further keywords are {', '.join(names)}."
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
