"""What points and connections of a graph have in common: tags, notes and ancestry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mgraph.session.session import Session
from mgraph_store import Connection, Node


class Labelled:
    """What nodes and connections have in common: tags, notes, ancestry."""

    _session: Session
    record: Node | Connection

    def tag(self, *tags: str) -> dict[str, Any]:
        """Add tags; return all its ``tags`` and ``notes``."""
        return self._label(dict.fromkeys(tags))

    def note(self, **notes: str | float) -> dict[str, Any]:
        """Set notes, values by key: ``x.note(lr="0.1", by="me")``; return all tags and notes."""
        return self._label({key: str(value) for key, value in notes.items()})

    def unlabel(self, *names: str) -> dict[str, Any]:
        """Remove tags and notes; InputError if one of them is not there."""
        return self._label({}, names)

    def _label(self, notes: dict[str, str | None], remove: Sequence[str] = ()) -> dict[str, Any]:
        from mgraph.bookkeeping.labels import set_labels

        return set_labels(self._session.store, self.record, notes=notes, remove=remove)

    def ancestry(self) -> dict[str, Any]:
        """Return what it was made from, back to training runs and files, as a tree of plain data."""
        from mgraph.bookkeeping.ancestry import ancestry

        return ancestry(self._session.store, self.record)

    def ancestry_lines(self) -> list[str]:
        r"""Draw the same as text, one line per item: ``print(*x.ancestry_lines(), sep="\n")``."""
        from mgraph.bookkeeping.ancestry import tree_lines

        return tree_lines(self.ancestry())
