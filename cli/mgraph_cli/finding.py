"""Which graph a command is about, if none is named."""

from __future__ import annotations

from pathlib import Path

from mgraph.errors import InputError, NotFoundError


def find_graph(start: Path) -> Path:
    """Find the only *.mgraph directory in ``start`` or the nearest directory above that has one, as git does."""
    for directory in (start, *start.parents):
        try:
            found = sorted(p for p in directory.glob("*.mgraph") if p.is_dir())
        except OSError:
            continue
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found)
            raise InputError(f"{directory} holds several graphs ({names}); choose one with --graph.")
    raise NotFoundError("There is no graph here or above; make one with mgraph init, or name one with --graph.")
