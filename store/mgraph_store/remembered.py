"""What reading numbers has looked up, which stays true until the next commit.

To open the index takes ten times as long as to read a small network and to sum nine of them. The last commit is seen
from the journal alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from mgraph_store.index.journal import Count, Journal
from mgraph_store.recipes import Recipe
from mgraph_store.rows.layout import Layout

_MOST = 2048  # recipes, of a few kilobytes each


class Remembered:
    """The recipes of nodes by what they are asked for, and the layouts of spaces; safe to use from threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._at: Count | None = None
        self._recipes: dict[str, Sequence[Recipe]] = {}
        self._layouts: dict[str, Layout] = {}

    def recipe(self, asked: str) -> Sequence[Recipe] | None:
        """Return what the node with this name or id is made of; None if it was not looked up since the last commit."""
        with self._lock:
            return self._recipes.get(asked) if self._is_present() else None

    def knows_any(self) -> bool:
        """Return whether any node was looked up since the last commit."""
        with self._lock:
            return bool(self._recipes) and self._is_present()

    def layout(self, space: str) -> Layout | None:
        """Return the layout of a space; None if it was not looked up since the last commit."""
        with self._lock:
            return self._layouts.get(space) if self._is_present() else None

    def take(self, recipes: Mapping[str, Sequence[Recipe]], layouts: Mapping[str, Layout] | None = None) -> None:
        """Take note of what was looked up; the caller has the index open, so that nobody commits meanwhile."""
        with self._lock:
            if not self._is_present() or len(self._recipes) + len(recipes) > _MOST:
                self._at = self._journal.count()
                self._recipes, self._layouts = {}, {}
            self._recipes.update(recipes)
            self._layouts.update(layouts or {})

    def _is_present(self) -> bool:
        return self._at is not None and self._journal.count() == self._at
