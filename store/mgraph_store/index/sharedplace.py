"""Where a graph is shared, if it is. Most are not, and need not load what sharing takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from mgraph_store.errors import CorruptError
from mgraph_store.folder import Folder

SHARED = "shared.json"
"""File in the graph's directory that says where it is shared."""


class SharedPlace(NamedTuple):
    """The contents of ``shared.json``: where the tensors and the log are, each a URL or a directory, and the id of the
    graph that must be found there."""

    tensors: str
    log: str
    id: str

    @classmethod
    def below(cls, place: str, identity: str) -> SharedPlace:
        """Return the places below a URL or in a directory, which is made absolute."""
        whole = place.rstrip("/") if "://" in place else str(Path(place).absolute())
        return cls(f"{whole}/tensors", f"{whole}/log", identity)

    @classmethod
    def read(cls, graph: Folder) -> SharedPlace | None:
        """Read the file in a graph's directory; None if it is not shared, CorruptError if it is damaged."""
        try:
            document = json.loads(graph.read(SHARED))
            found = cls(*(str(document[name]) for name in ("tensors", "log", "id")))
            if found != cls.below(found.log.removesuffix("/log"), found.id):
                raise ValueError("These are not two places of one graph.")
            return found
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise CorruptError(
                f"{graph.path / SHARED} does not say where the graph is shared: restore it from a copy of the graph."
            ) from None

    def write(self, graph: Folder) -> None:
        """Write the file into a graph's directory that is being made."""
        graph.write(SHARED, json.dumps(self._asdict()).encode() + b"\n")

    @property
    def is_remote(self) -> bool:
        """Whether it is at a URL."""
        return "://" in self.log
