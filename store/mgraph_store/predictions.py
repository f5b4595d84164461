"""Cached predictions: arrays below ``predictions/`` that can always be recomputed, each under a key of its content.

Nothing refers to them and nothing is lost with them: they are not part of a commit, a copy or a bundle. The key is a
hash, made by the code that stores them, of everything that determines the numbers, so a stale one is never found. Each
file is signed with a secret of the user: one that is damaged, or that somebody else has put into the graph, counts as
missing. When they exceed their budget, the oldest are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.folder import PREDICTIONS, Folder
from mgraph_store.rows.ids import random_characters

BUDGET = 1 << 30
"""The most bytes that they may take together."""

_KEY = re.compile(r"[0-9a-f]{32}")
_SIGNATURE = 32  # bytes of keyed BLAKE2b after the array


class Predictions:
    """The cached predictions of a graph, as far as ``secret`` (at most 64 bytes) has signed them.

    ``budget`` is in bytes.

    It is only a cache: what cannot be written (a full disk, a read-only graph) is silently not kept.
    """

    def __init__(self, graph: Folder, secret: bytes, budget: int = BUDGET) -> None:
        self._folder, self._secret, self.budget = graph.sub(PREDICTIONS), secret, budget

    def get(self, key: str) -> NDArray[Any] | None:
        """Return the array under a key; None if there is none, or it is not as it was put here with our secret."""
        try:
            content = self._folder.read(_checked(key))
        except OSError:
            return None
        body, signature = content[:-_SIGNATURE], content[-_SIGNATURE:]
        if not hmac.compare_digest(self._signature(key, body), signature):
            self._folder.remove(key)
            return None
        found: NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False)
        return found

    def put(self, key: str, array: NDArray[Any]) -> bool:
        """Keep an array under a key, completely or not at all; return whether it is kept."""
        if array.nbytes > self.budget // 2:
            return False
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
        body = buffer.getvalue()
        temporary = f"{_checked(key)}.{random_characters(8)}"
        try:
            self._make_room(len(body))
            with self._folder.opened(create=True):
                pass
            self._folder.write(temporary, body + self._signature(key, body))
            self._folder.rename(temporary, self._folder, key)
        except OSError:
            with contextlib.suppress(OSError):
                self._folder.unlink(temporary)
            return False
        except BaseException:
            with contextlib.suppress(OSError):
                self._folder.unlink(temporary)
            raise
        return True

    def _signature(self, key: str, body: bytes) -> bytes:
        signed = hashlib.blake2b(key.encode(), digest_size=_SIGNATURE, key=self._secret)
        signed.update(body)
        return signed.digest()

    def _make_room(self, nbytes: int) -> None:
        sizes = sizes_of(self._folder)
        excess = sum(sizes.values()) + nbytes - self.budget
        for name, size in sizes.items():
            if excess <= 0:
                return
            self._folder.remove(name)
            excess -= size


def sizes_of(folder: Folder, min_age: float = 0.0) -> dict[str, int]:
    """Return the bytes of every cached file that is at least ``min_age`` seconds old, by its name, oldest first."""
    names = folder.entries()
    ages = {name: folder.age(name) for name in names}
    found = {name: folder.tree_size(name) for name in sorted(names, key=lambda name: -ages[name])}
    return {name: size for name, size in found.items() if ages[name] >= min_age}


def drop(graph: Folder, min_age: float = 0.0) -> None:
    """Delete the cached files that are at least ``min_age`` seconds old, as far as the file system allows."""
    folder = graph.sub(PREDICTIONS)
    for name in sizes_of(folder, min_age):
        folder.remove(name)
    graph.remove_if_empty(PREDICTIONS)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key of a prediction.")
    return key
