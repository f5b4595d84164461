"""Claims on the tensors at a URL: every directory that uses them has one there, so that none deletes what another
needs.

A graph with tensors at a URL keeps in ``tensors.json`` the URL, the id of its *claim*, and the identity of its
directory: its inode and the id of its file system, which a move within the disk preserves and a copy does not. The
claim itself is the object ``claim-ID.json`` beside the tensor objects. A directory that is not the one recorded in its
``tensors.json`` is a copy: it makes its own claim before it does anything else at the URL.

Objects are deleted only by a directory whose claim is the only one there. Declaring the others gone
(:meth:`Claims.take_over`) removes their claims; such a directory then neither deletes nor writes there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import warnings
from typing import TYPE_CHECKING, NamedTuple

from mgraph_store.errors import CorruptError, MGraphWarning, NameTakenError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import now

if TYPE_CHECKING:
    from mgraph_store.objectstorage import ObjectStorage

CONFIG = "tensors.json"
"""File in the graph's directory that holds the URL and the claim."""

_CLAIM = re.compile(r"claim-([a-z0-9]{12})\.json")
_FIRST = "zarr.json"
_SHOWN = 200  # characters of what a claim says about its directory


class SharedTensorsWarning(MGraphWarning):
    """Another directory uses the same tensors at a URL: nothing was deleted there."""


class Place(NamedTuple):
    """The contents of ``tensors.json``: the URL, the claim, and which directory made it; None in graphs older than
    claims."""

    url: str
    claim: str | None = None
    directory: str | None = None

    @classmethod
    def read(cls, graph: Folder) -> Place | None:
        """Read the file in a graph's directory; None if the tensors are in the directory itself. ``CorruptError`` if it
        is damaged."""
        try:
            document = json.loads(graph.read(CONFIG))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or not isinstance(document.get("url"), str):
            raise CorruptError(
                f"{graph.path / CONFIG} does not say where the tensors are: restore it from a copy of the graph."
            )
        claim, directory = document.get("claim"), document.get("directory")
        known = isinstance(claim, str) and isinstance(directory, str) and _CLAIM.fullmatch(f"claim-{claim}.json")
        return cls(document["url"], claim, directory) if known else cls(document["url"])

    def write(self, graph: Folder) -> None:
        """Write the file, whole or not at all; OSError if the directory cannot be written."""
        text = json.dumps({"url": self.url, "claim": self.claim, "directory": self.directory}).encode() + b"\n"
        temporary = f".{CONFIG}.{random_characters(8)}"
        try:
            graph.write(temporary, text)
            graph.flush(temporary)
            graph.rename(temporary, graph, CONFIG)
        finally:
            graph.remove(temporary)
        graph.flush()


def directory_of(graph: Folder) -> str:
    """Identify a graph's directory by what a copy of it does not share."""
    descriptor = graph.root.descriptor()
    return f"{os.fstatvfs(descriptor).f_fsid:x}-{os.fstat(descriptor).st_ino:x}"


def new_claim() -> str:
    """Draw the id of a claim."""
    return random_characters(12)


class Claims:
    """The claims at a URL, as one graph's directory sees them."""

    def __init__(self, graph: Folder, place: Place, storage: ObjectStorage) -> None:
        self._graph, self._place, self._storage = graph, place, storage
        self._is_there = False

    def begin(self) -> None:
        """Claim an empty place for a new graph; ``NameTakenError`` if somebody else has it, or something is there.

        The description of the whole comes first, and is put only if there is none yet, so that of several who try at
        once, one succeeds. The others find something that is not theirs, and delete nothing. Storage that ignores this
        condition is recognised, and a warning says so: there, two who try at the same moment both succeed.
        """
        first = json.dumps({"attributes": {"claim": self._place.claim}, "zarr_format": 3, "node_type": "group"})
        taken = NameTakenError(f"{self._place.url} already holds something: choose an empty place for the tensors.")
        if next(self._storage.find(), None) is not None:
            raise taken
        if not self._storage.put_new(_FIRST, first.encode() + b"\n"):
            raise taken
        self._put()
        if self._storage.put_new(self._name, self._about()):  # which is there already
            warnings.warn(
                f"{self._place.url} is on storage that ignores the conditions of conditional writes: make sure that "
                "nobody else makes a graph there at this moment.",
                SharedTensorsWarning,
                stacklevel=2,
            )

    def introduce(self) -> None:
        """Make a new claim for a directory that is a copy; do nothing for any other."""
        here = directory_of(self._graph)
        if self._place.claim is not None and self._place.directory == here:
            return
        # Deterministic, so that a directory that cannot be written always makes the same one.
        text = f"{self._place.url} {self._place.claim} {here}"
        self._place = self._place._replace(claim=hashlib.blake2b(text.encode(), digest_size=6).hexdigest())
        try:
            self._put()
        except Exception as error:
            warnings.warn(
                f"The tensors at {self._place.url} are shared with another copy of this graph, and cannot be claimed "
                f"for this one, too ({error}): they may be deleted there. mgraph copy gives this one tensors of its "
                "own.",
                SharedTensorsWarning,
                stacklevel=2,
            )
            return
        try:
            self._place._replace(directory=here).write(self._graph)
        except OSError:
            return

    def require(self) -> None:
        """Raise StoreError if this directory no longer has a claim at the URL; checked once."""
        try:
            if not self._is_there:
                self._storage.read(self._name)
        except FileNotFoundError:
            raise StoreError(self._lost()) from None
        self._is_there = True

    def refusal(self) -> str | None:
        """Say why nothing may be deleted at the URL; None if this directory is the only one that uses it."""
        others = self._others()
        if not self._storage.has(self._name):
            return self._lost()
        if not others:
            return None
        told = "; ".join(self._said(name) for name in others[:3]) + ("; …" if len(others) > 3 else "")
        return (
            f"The tensors at {self._place.url} are shared with {_count(len(others))} of this graph ({told}), so "
            "nothing is deleted there. If that is gone, or has tensors of its own by now (mgraph copy), say so: "
            "mgraph gc --claim."
        )

    def take_over(self) -> None:
        """Make this directory the only one that uses the tensors."""
        self._storage.put(self._name, self._about())
        self._is_there = True
        self._storage.delete(self._others())

    def remove(self) -> None:
        """Remove what :meth:`begin` has written."""
        self._storage.delete([self._name])
        self._storage.delete([_FIRST])  # last, so that until then nobody else takes the place

    @property
    def _name(self) -> str:
        return f"claim-{self._place.claim}.json"

    def _about(self) -> bytes:
        about = {"host": socket.gethostname(), "path": str(self._graph.path), "since": f"{now():%Y-%m-%d %H:%M} UTC"}
        return json.dumps(about | {"put": random_characters(12)}).encode() + b"\n"

    def _put(self) -> None:
        self._storage.put_new(self._name, self._about())  # unless it is there already
        self._is_there = True

    def _others(self) -> list[str]:
        return sorted(name for name in self._storage.names() if _CLAIM.fullmatch(name) and name != self._name)

    def _said(self, name: str) -> str:
        try:
            about = json.loads(self._storage.read(name))
            return f"{about['path']} on {about['host']}, since {about['since']}"[:_SHOWN]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return name

    def _lost(self) -> str:
        return (
            f"The tensors at {self._place.url} belong to another copy of this graph alone, as somebody said there "
            "(mgraph gc --claim): nothing is written or deleted there from here. mgraph copy gives this one tensors of "
            "its own."
        )


def _count(copies: int) -> str:
    return "another copy" if copies == 1 else f"{copies} other copies"
