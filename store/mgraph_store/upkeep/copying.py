"""Copying a whole graph while others read and write it.

The index and its journal are copied under the shared lock, which keeps everyone from committing for as long as the disk
takes for these two. Tensor objects are immutable, so they are copied without a lock. If somebody removes one meanwhile,
the index is copied again, and what has already been copied is reused. The copy is made beside its place and renamed
into it when it is whole, so half a copy is never found there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mgraph_store.errors import CorruptError, InputError, NameTakenError, StoreError
from mgraph_store.folder import TEMPORARY, Folder, put_in_place
from mgraph_store.index.index import JOURNAL, check_path
from mgraph_store.index.journal import COUNTER
from mgraph_store.index.lock import LOCKS
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import Run
from mgraph_store.tensors.objects import ROOT_GROUP, disk_error

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore

_ATTEMPTS = 10


@dataclass(frozen=True)
class Copied:
    """What was copied: tensor objects, total bytes, and the ids of runs that were under way or can be resumed."""

    objects: int
    nbytes: int
    unfinished: tuple[str, ...]


def copy(store: GraphStore, target: Path) -> Copied:
    """Copy a graph to a path where there is nothing yet, whole or not at all.

    It has all rows and their tensors as of one commit, and shares nothing with the original: tensors at a URL are
    copied into the new directory. Saved states of runs, garbage, and what a repair set aside are not copied.

    Raises
    ------
    NameTakenError
        If there is something at the path.
    InputError
        If its directory does not exist, cannot be written, or is within the graph.
    CorruptError
        If the graph lacks tensors that its rows name.
    StoreError
        If the disk is full, or others keep removing tensors.
    """
    target = target.absolute()
    check_path(target)
    if os.path.lexists(target):
        raise NameTakenError(f"{target} exists already: choose another path for the copy.")
    if store.path.resolve() in target.resolve().parents:
        raise InputError(f"{target} is within the graph itself: choose a path outside it for the copy.")
    building = target.parent / f".{target.name}.{random_characters(8)}"
    try:
        building.mkdir()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot make a copy at {target} ({reason}): choose a writable place.") from None
    try:
        copied = _fill(store, building)
        put_in_place(building, target)
    except FileExistsError:
        raise NameTakenError(f"{target} exists already: choose another path for the copy.") from None
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return copied


def _fill(store: GraphStore, building: Path) -> Copied:
    new = Folder(building)
    tensors, journal = new.sub("tensors.zarr"), new.sub(JOURNAL)
    for folder in (tensors, journal, new.sub(TEMPORARY)):
        with folder.opened(create=True):
            pass
    tensors.write("zarr.json", ROOT_GROUP)
    for lock in LOCKS:
        new.write(lock, b"")
    lacking: set[str] = set()
    for _ in range(_ATTEMPTS):
        with store.reading() as reader:
            keys = reader.tensor_keys()
            unfinished = tuple(r.id for r in reader.all(Run, where="status <> 'complete' AND plan IS NOT NULL"))
            _copy_rows(store, new, journal)
        if lost := sorted(lacking & keys):
            raise CorruptError(
                f"Graph {store.path} lacks tensor object {lost[0]}, which its rows name: nothing was copied; "
                "`mgraph check` says what can be done."
            )
        lacking = {key for key in sorted(keys) if not tensors.is_folder(key) and not _copy_object(store, key, tensors)}
        if not lacking:
            break
    else:
        raise StoreError(f"Others remove tensors of graph {store.path} faster than they can be copied: try again.")
    for key in set(tensors.entries()) - keys - {"zarr.json"}:
        tensors.remove(key)
    Folder(building.parent).flush_tree(building.name)
    return Copied(len(keys), Folder(building.parent).tree_size(building.name), unfinished)


def _copy_rows(store: GraphStore, new: Folder, journal: Folder) -> None:
    index = store.index.path.name
    for name in (index, log := f"{index}.wal"):
        new.unlink(name)
    if store.folder.has(index):
        store.index.copy_to(new)
    if store.folder.has(log):
        store.folder.copy_file(log, new)
    for name in journal.entries():
        journal.unlink(name)
    count = store.index.journal.count()
    for name in () if count is None else (COUNTER, count.file):
        if store.folder.sub(JOURNAL).has(name):
            store.folder.sub(JOURNAL).copy_file(name, journal)


def _copy_object(store: GraphStore, key: str, tensors: Folder) -> bool:
    """Copy a tensor object; False if it does not exist or was removed meanwhile."""
    try:
        store.tensor_store.copy_object(key, tensors)
        if store.tensor_store.has(key):  # removal is one step, so all of it was there
            return True
    except FileNotFoundError:
        pass
    tensors.remove(key)
    return False
