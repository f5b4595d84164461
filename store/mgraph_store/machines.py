"""Graphs that several machines share: making one, and joining one that there is.

What such a graph is, see :mod:`mgraph_store.index.shared`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mgraph_store.errors import FormatError, InputError, NameTakenError, NotFoundError
from mgraph_store.folder import TEMPORARY, Folder
from mgraph_store.index.changes import empty
from mgraph_store.index.index import check_path
from mgraph_store.index.journalrecord import unpacked
from mgraph_store.index.shared import Birth, have_grids, newest_snapshot
from mgraph_store.index.sharedplace import SharedPlace
from mgraph_store.objectstorage import check_url
from mgraph_store.rows import schema
from mgraph_store.rows.ids import random_characters
from mgraph_store.sharedlog import SharedLog
from mgraph_store.store import TENSORS, GraphStore
from mgraph_store.tensors.claims import Place, new_claim
from mgraph_store.tensors.objects import ROOT_GROUP
from mgraph_store.tensors.remote import RemoteTensorStore


def share(path: str | Path, place: str, *, lock_timeout: float | None = None) -> GraphStore:
    """Make an empty graph that other machines can :func:`join`, with its tensors and commits at a place that all reach.

    ``place`` is a URL, or a directory on a disk that all of them have mounted.

    Raises
    ------
    NameTakenError
        If the path exists, or there is something at the place.
    InputError
        If no directory can be made at the path or the place, or the URL is of an unknown kind.
    StoreError
        If the URL cannot be reached or written, or has no conditional writes.
    """
    path, shared = _free(path), SharedPlace.below(place, random_characters(16))
    claimed = remote = None
    if shared.is_remote:
        claimed, graph = Place(check_url(shared.tensors), new_claim()), Folder(path)
        remote = RemoteTensorStore(claimed, graph.sub(TENSORS), graph.sub(TEMPORARY))
        remote.claim()
    else:
        _make_directories(shared)
    try:
        GraphStore.make(path, claimed, shared)
        store = GraphStore(path, lock_timeout=lock_timeout)
        with store.lock.shared(), store.index.connect(read_only=True) as con:
            meta = empty(con)["meta"]
        Birth(shared.id, meta, claimed.claim if claimed else None).put(SharedLog.at(shared.log))
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if remote is not None:
            remote.release()
        raise
    return store


def join(path: str | Path, place: str, *, lock_timeout: float | None = None) -> GraphStore:
    """Make this machine's directory of a graph that :func:`share` has made at a place, with all its commits.

    Raises
    ------
    NotFoundError
        If there is no shared graph at the place.
    NameTakenError
        If the path exists.
    FormatError, CorruptError
        If the graph has an older format and must be upgraded first, or a newer one, or its log is damaged.
    InputError, StoreError
        As for :func:`share`.
    """
    path, shared = _free(path), SharedPlace.below(place, "")
    if not shared.is_remote and not Path(shared.log).is_dir():
        raise NotFoundError(f"There is no shared graph in {place}: make one with `mgraph init --shared`.")
    log = SharedLog.at(shared.log)
    birth = Birth.read(log)
    shared = shared._replace(id=birth.id)
    found = newest_snapshot(log)
    if found is None and birth.format < schema.FORMAT_VERSION and not _is_upgraded(log):
        raise FormatError(
            f"The shared graph at {place} has format {birth.format}, and this mgraph joins it in format "
            f"{schema.FORMAT_VERSION} only: give mgraph upgrade on a machine that has it, and then join."
        )
    number, document = found or (0, {"meta": birth.meta})
    claimed = Place(check_url(shared.tensors), birth.claim) if shared.is_remote else None
    GraphStore.make(path, claimed, shared, lambda index: index.create_from(number, document))
    store = GraphStore(path, lock_timeout=lock_timeout)
    store.pull()
    return store


def _is_upgraded(log: SharedLog) -> bool:
    return have_grids(unpacked(record.payload) or {} for record in log.since())


def _free(path: str | Path) -> Path:
    path = Path(path).absolute()
    check_path(path)
    if path.exists() or path.is_symlink():
        raise NameTakenError(f"{path} exists already: choose another path for the graph.")
    return path


def _make_directories(shared: SharedPlace) -> None:
    tensors = Path(shared.tensors)
    if Path(shared.log).is_dir() and next(SharedLog.at(shared.log).since(), None) is not None:
        raise NameTakenError(f"There is a shared graph in {tensors.parent} already: join it with `mgraph join`.")
    try:
        for folder in (tensors, tensors.parent / TEMPORARY, Path(shared.log)):
            folder.mkdir(parents=True, exist_ok=True)
        (tensors / "zarr.json").write_bytes(ROOT_GROUP)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot share a graph in {tensors.parent} ({reason}): choose a writable place.") from None
