"""Collecting garbage: objects that no row refers to, unfinished files, states of complete runs, cached predictions, an
overlong journal.

A plan is made first and then carried out, so that a dry run and a real one cannot disagree. Anything younger than some
hours stays, because it may belong to a process that is still at work.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mgraph_store import predictions
from mgraph_store.folder import PREDICTIONS, STATES, TEMPORARY, Folder
from mgraph_store.rows.records import Run
from mgraph_store.sharedlog import Writing
from mgraph_store.tensors.claims import SharedTensorsWarning
from mgraph_store.upkeep.shortening import shorten, shortest_length

if TYPE_CHECKING:
    from mgraph_store.index.reader import Reader
    from mgraph_store.store import GraphStore

DEFAULT_AGE = 24 * 3600.0
_LEAST_JOURNAL = 1 << 20  # bytes that a new journal must save
_MOMENT = 0.01  # seconds for which objects are hidden at a time


@dataclass(frozen=True)
class Garbage:
    """One thing to remove: what it is (object, unfinished, state, predictions, journal), name, bytes on disk, why.

    The name of what was left unfinished in a directory that machines share is its whole path.
    """

    kind: str
    name: str
    nbytes: int
    why: str


@dataclass(frozen=True)
class Collection:
    """A plan: what is removed, and how many more things are garbage but still too young.

    ``shared`` says why tensor objects stay, if they do: another directory uses the same ones at a URL. ``writing`` says
    who keeps newer objects from being removed, in a graph that machines share.
    """

    items: tuple[Garbage, ...]
    young: int
    min_age: float
    shared: str | None = None
    writing: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that will be freed."""
        return sum(item.nbytes for item in self.items)

    def apply(self, store: GraphStore) -> None:
        """Delete what was planned and is not in use by now; OldFormatError if the graph must be upgraded first."""
        if self.items:
            store.require_present_format()
        remove_objects(store, [i.name for i in self.items if i.kind == "object"])
        saved = store.folder.sub(STATES)
        for item in self.items:
            if item.kind == "unfinished":
                folder, _, name = item.name.rpartition("/")
                unfinished = store.tensor_store.unfinished if folder else store.folder.sub(TEMPORARY)
                if unfinished.newest(name) >= self.min_age:
                    unfinished.remove(name)
        states = [i.name for i in self.items if i.kind == "state"]
        if states:
            with store.reading() as reader:
                over = _complete(reader, states)
            for name in over:
                saved.remove(name)
        if any(i.kind == PREDICTIONS for i in self.items):
            predictions.drop(store.folder, self.min_age)
        if any(i.kind == "journal" for i in self.items):
            shorten(store)


def plan_collection(store: GraphStore, min_age: float = DEFAULT_AGE) -> Collection:
    """Look for garbage that is at least ``min_age`` seconds old.

    Raises
    ------
    CorruptError
        If the index cannot be read or has lost commits, since then nothing is known to be garbage.
    StoreError
        If other machines share the graph, and what they have committed cannot be read.
    """
    # In this order: who ends writing after this look is seen by it, and who ended before has committed.
    writing = store.index.journal.writing()
    shared = store.tensor_store.refusal()
    keys = set() if shared else store.tensor_store.keys()  # before the rows: what is committed meanwhile is no garbage
    store.pull()
    unfinished, states = store.folder.sub(TEMPORARY), store.folder.sub(STATES)
    names = states.entries()
    with store.reading() as reader:
        garbage = sorted(keys - reader.tensor_keys())
        complete = _complete(reader, names)
    count = store.index.journal.count()
    length = 0 if count is None else count.length
    shortest = shortest_length(store) if length > _LEAST_JOURNAL else length
    sizes = store.tensor_store.sizes(garbage)
    found = [
        (Garbage("object", key, sizes.get(key, 0), "no row refers to it"), _age(store, key, writing)) for key in garbage
    ]
    for name in unfinished.entries():
        found.append((_left(unfinished, name, name), unfinished.newest(name)))
    there = store.tensor_store.unfinished
    if writing is not None and there.path != unfinished.path:  # in a directory that machines share
        for name in there.entries():
            found.append((_left(there, name, f"{there.path}/{name}"), writing.age(there.changed(name))))
    for name, why in complete.items():
        found.append((Garbage("state", name, states.tree_size(name), why), states.newest(name)))
    old = [item for item, seconds in found if seconds >= min_age]
    cached = predictions.sizes_of(store.folder.sub(PREDICTIONS), min_age)
    if cached:
        why = f"{len(cached)} cached, computed again when they are needed"
        old.append(Garbage(PREDICTIONS, PREDICTIONS, sum(cached.values()), why))
    saved = length - shortest
    if saved > max(_LEAST_JOURNAL, shortest):
        old.append(Garbage("journal", "journal", saved, "its rows alone are shorter than their history"))
    young = len(found) - sum(item.kind not in ("journal", PREDICTIONS) for item in old)
    return Collection(tuple(old), young, min_age, shared, _held_up(writing))


def _left(folder: Folder, name: str, shown: str) -> Garbage:
    return Garbage("unfinished", shown, folder.tree_size(name), "left by a process that was stopped")


def _age(store: GraphStore, key: str, writing: Writing | None) -> float:
    return store.tensor_store.age(key) if writing is None else writing.age(store.tensor_store.written(key))


def _held_up(writing: Writing | None) -> str | None:
    if writing is None or writing.who is None:
        return None
    return (
        f"Tensors have been written by {writing.who} for {(writing.now - writing.oldest) / 3600:.1f} h, so nothing "
        "newer is removed. If that process is gone, and so are all others that write, say so: mgraph gc --claim."
    )


def remove_objects(store: GraphStore, keys: Iterable[str]) -> list[str]:
    """Delete those tensor objects that no row refers to; return their keys.

    If other directories use them too, delete none and warn.
    """
    keys = list(keys)[::-1]
    refusal = store.tensor_store.refusal() if keys else None
    if refusal is not None:
        warnings.warn(refusal, SharedTensorsWarning, stacklevel=2)
        return []
    gone: list[str] = []
    while keys:
        with store.reading() as reader:  # so that nobody commits a row meanwhile, but for a moment only
            used, until = reader.tensor_keys(), time.monotonic() + _MOMENT
            while keys:
                if (key := keys.pop()) not in used:
                    store.tensor_store.hide(key)
                    gone.append(key)
                if time.monotonic() >= until:
                    break
    for key in gone:
        store.tensor_store.remove(key)
    return gone


def _complete(reader: Reader, runs: list[str]) -> dict[str, str]:
    # A run that was interrupted or failed may be resumed from its state; one that is complete or gone, never.
    if not runs:
        return {}
    status = {run.id: run.status for run in reader.all(Run, id=runs)}
    over = {name: status.get(name, "gone") for name in runs}
    return {name: f"its run is {what}" for name, what in over.items() if what in ("complete", "gone")}
