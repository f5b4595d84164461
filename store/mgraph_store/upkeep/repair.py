"""Repairing only what can be proven: the journal's checksums prove rows, digests prove tensors."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.folder import SET_ASIDE, TEMPORARY, Folder
from mgraph_store.index import commits
from mgraph_store.index.changes import parts
from mgraph_store.index.following import follow
from mgraph_store.index.instances import CONFIG, STORAGE
from mgraph_store.index.interrupts import interruptible
from mgraph_store.rows.columns import from_json
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import NodeBuffers, now
from mgraph_store.rows.schema import STORED
from mgraph_store.upkeep import rescue
from mgraph_store.upkeep.check import (
    JournalState,
    examine,
    format_of,
    journal_state,
    sums,
)
from mgraph_store.upkeep.tensorcheck import Stored, buffers_problem, parameters_problem

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore


def repair(store: GraphStore) -> list[str]:
    """Repair what :func:`mgraph_store.upkeep.check.examine` calls repairable; return what was done, one sentence each.

    An index that has lost or changed rows is rebuilt from the journal, and a journal from the index. The damaged index
    is set aside in ``damaged``, never deleted. Tensors are written again under a new key, and their rows changed, if
    their digest proves that they are the same.

    Raises
    ------
    InputError
        If rows of a graph that machines share are damaged, because the others have them.
    OldFormatError
        If the graph must be upgraded first.
    StoreError
        If there is nothing left from which to repair the index, or the disk is full.
    """
    with contextlib.suppress(CorruptError):  # if it cannot be read, the journal knows
        store.index.require_present(format_of(store))
    subjects = {p.subject for p in examine(store, deep=True)}
    if store.index.journal.is_shared and subjects & {"index", "journal"}:
        raise InputError(
            f"Graph {store.path} is shared with other machines, whose log has all commits: instead of repairing this "
            "directory, join the graph again in a new one (mgraph join)."
        )
    with store.lock.exclusive():
        done = _repair_rows(store, subjects)
    return done + _repair_parameters(store) + _repair_buffers(store)


def _repair_rows(store: GraphStore, subjects: set[str]) -> list[str]:
    with contextlib.suppress(StoreError):
        follow(store.index, store.lock.timeout)
    state = journal_state(store.index.journal, store.index.journal.count())
    number = _number(store)
    readable = state.last if state.present else -1
    behind = number is None or (state.count is not None and number < state.count.number)
    changed = state.whole and not subjects.isdisjoint(("meta", *STORED))
    if (behind or changed) and readable >= 0 and readable >= (-1 if number is None else number):
        done = [_rebuild(store, state)]
        return done if state.whole else [*done, _begin_again(store)]
    if number is None:
        raise StoreError(
            f"Neither the index nor the journal of graph {store.path} can be read: restore both from a copy of it."
        )
    if behind or "journal" in subjects:
        return [_begin_again(store)]
    return []


def _number(store: GraphStore) -> int | None:
    # How many commits the index has seen; None if it cannot be read.
    try:
        with store.index.connect(read_only=True, patience=store.lock.timeout, behind=True) as con:
            store.index.check_tables(con)
            sums(con)  # reads all blocks
            return commits.number_of(con)
    except StoreError:
        return None


def _rebuild(store: GraphStore, state: JournalState) -> str:
    # The order matters: an old write-ahead log must never lie beside the new index. A crash in between leaves an
    # index that is behind, or none, and the journal, from which the next repair makes it.
    graph, index = store.folder, store.index.path.name
    making = graph.sub(TEMPORARY, f"index-{random_characters(8)}")
    with making.opened(create=True) as descriptor, interruptible():
        new = making.path_within(descriptor) / index  # in a directory of our own
        with duckdb.connect(str(new), config={**CONFIG, **STORAGE}) as con:
            number = commits.replay(con, state.entries())
    making.flush(index)
    aside = _new_folder(graph.sub(SET_ASIDE))
    for name in (index, f"{index}.wal"):
        if graph.has(name):
            graph.copy_file(name, aside)
    aside.flush()
    aside.above().flush()
    graph.unlink(f"{index}.wal")
    graph.flush()
    making.rename(index, graph, index)
    graph.flush()
    making.above().remove(making.name)
    where = f"{SET_ASIDE}/{aside.name}"
    return f"The index was rebuilt from the journal, with all rows up to commit {number}; the old one is in {where}."


def _begin_again(store: GraphStore) -> str:
    with store.index.connect(read_only=False, patience=store.lock.timeout, behind=True) as con:
        number = commits.number_of(con)
        store.index.journal.begin(number, parts(con))
    return f"The journal was rebuilt with all rows of the index, up to commit {number}."


def _new_folder(parent: Folder) -> Folder:
    moment = f"{now():%Y%m%dT%H%M%S}"
    number = 0
    with parent.opened(create=True) as descriptor:
        while True:
            name = f"{moment}-{number}" if number else moment
            try:
                os.mkdir(name, dir_fd=descriptor)
            except FileExistsError:
                number += 1
            else:
                return parent.sub(name)


def _repair_parameters(store: GraphStore) -> list[str]:
    done = []
    with store.reading() as reader:
        stored = Stored.read(reader)
    layouts, codecs = stored.layouts(), {s.id: s.codec for s in stored.spaces}
    for node in stored.nodes:
        layout = layouts.get(node.space_id)
        if parameters_problem(store, node, deep=True, layout=layout) is None:
            continue
        found = rescue.parameters(store, node)
        if found is not None:
            own = None if node.columns is None else from_json(node.columns)
            with store.transaction() as tx:
                (ref,) = tx.write_parameters([found], codec=codecs[node.space_id], layout=layout, ranges=[own])
                tx.update(replace(node, tensor_key=ref.key, tensor_row=ref.row, nbytes=ref.nbytes), since=node)
            done.append(f"The parameters of node {node.name or node.id} were written again, with the digest they had.")
    return done


def _repair_buffers(store: GraphStore) -> list[str]:
    done = []
    with store.reading() as reader:
        stored = Stored.read(reader)
    layouts, codecs = stored.layouts(), {s.id: s.codec for s in stored.spaces}
    for key in dict.fromkeys(row.tensor_key for row in stored.buffers):
        same = [row for row in stored.buffers if row.tensor_key == key]  # several nodes may share an object
        space = stored.space_of.get(same[0].node_id, "")
        if buffers_problem(store, same[0], deep=True, layout=layouts.get(space)) is None:
            continue
        found = rescue.buffers(store, same[0])
        if found is not None:
            with store.transaction() as tx:
                ref = tx.write_buffers(found, codec=codecs[space], layout=layouts.get(space))
                tx.remove(NodeBuffers, "tensor_key", [key])
                tx.add(*[replace(row, tensor_key=ref.key, nbytes=ref.nbytes) for row in same])
            nodes = ", ".join(row.node_id for row in same)
            done.append(f"The buffers {same[0].policy} of {nodes} were written again, with the digest they had.")
    return done
