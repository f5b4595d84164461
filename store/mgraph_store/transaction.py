"""Writing: tensors first and immediately, rows last and all together, or nothing at all."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import (
    ConflictError,
    InputError,
    MGraphError,
    NonFiniteError,
    OutcomeUnknownError,
    StoreError,
)
from mgraph_store.index import commits
from mgraph_store.index.changes import Changes
from mgraph_store.index.following import follow_if_due, follow_later, reading
from mgraph_store.index.index import Index
from mgraph_store.index.journal import Count
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.reader import Reader
from mgraph_store.index.shared import OvertakenError
from mgraph_store.rows.columns import Ranges
from mgraph_store.rows.constraints import check_blocks, check_record, verify
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Named, Record
from mgraph_store.rows.schema import TABLE_OF, columns
from mgraph_store.rows.selecting import tensor_keys
from mgraph_store.rows.statements import run
from mgraph_store.sharing import buffers_at, parameters_at
from mgraph_store.tensors import attributes
from mgraph_store.tensors.digests import digest, digest_of_digests
from mgraph_store.tensors.objects import (
    CHUNK_BYTES,
    SEGMENT_BYTES,
    SEGMENT_ROWS,
    TensorStore,
    disk_error,
    new_key,
)

_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # seconds, at most, after other machines were quicker


@dataclass(frozen=True)
class TensorRef:
    """Where tensors were written: key, row of a segment (or None), content digest, size in bytes."""

    key: str
    row: int | None
    digest: str
    nbytes: int


class Transaction:
    """A transaction from :meth:`GraphStore.transaction`: collects records, writes tensors, commits on leaving.

    No lock is held and no database is open until the end, so the caller may compute for hours inside.
    """

    def __init__(self, tensors: TensorStore, index: Index, lock: GraphLock) -> None:
        self._tensors, self._index, self._lock = tensors, index, lock
        self._keys: list[str] = []
        self._marks: list[str] = []
        self._added: dict[type[Any], list[Record]] = {}
        self._updated: list[Named] = []
        self._since: list[Named | None] = []  # the records from which these were made
        self._removed: list[tuple[str, str, Sequence[str]]] = []
        self._expected: list[Named] = []
        self._required: list[Callable[[Reader], None]] = []
        self._open, self._attempted = True, False
        self._process = os.getpid()

    def write_parameters(
        self,
        rows: Sequence[NDArray[np.float32]],
        *,
        codec: str = "none",
        layout: Layout | None = None,
        ranges: Sequence[Ranges | None] | None = None,
    ) -> list[TensorRef]:
        """Write the parameters of several nodes, each float32 of shape (D,); durable on return.

        What the graph already has is not written again but shared (:mod:`mgraph_store.sharing`). For a partial node,
        pass what :func:`mgraph_store.rows.columns.take` takes from the parameters. Rows of at most 4 MiB written
        together share a segment; larger or single ones get an object each. ``layout``, that of the space, and
        ``ranges``, the columns of each row that is taken from a partial node's parameters, are noted in the attributes
        of the arrays, for those who read them without the index.

        Raises
        ------
        NonFiniteError
            If a number is NaN or infinite.
        InputError
            If a row is not a flat float32 array with at least one element, or does not fit the layout.
        StoreError
            If the disk is full or refuses.
        """
        self._check_open()
        for i, row in enumerate(rows):
            _check_parameters(i, row)
        digests = [digest(row) for row in rows]
        places = dict(parameters_at(self._tensors, self._index, self._lock, digests, layout)) if digests else {}
        first = {d: i for i, d in reversed(list(enumerate(digests))) if d not in places}
        new = sorted(first.values())
        for batch in _batches([rows[i] for i in new]):
            written = [new[i] for i in batch]
            said = attributes.of_parameters(
                [digests[i] for i in written],
                rows[written[0]].size,
                layout,
                [ranges[i] if ranges else None for i in written],
                segment=len(batch) > 1,
            )
            key = self._new_key()
            if len(batch) == 1:
                self._tensors.write(key, {"float32": rows[written[0]]}, codec, {"float32": said})
            else:
                self._tensors.write_segment(key, [rows[i] for i in written], codec, said)
            places |= {digests[i]: (key, k if len(batch) > 1 else None) for k, i in enumerate(written)}
        return [TensorRef(*places[d], d, row.nbytes) for d, row in zip(digests, rows, strict=True)]

    def write_buffers(
        self, groups: Mapping[str, NDArray[Any]], *, codec: str = "none", layout: Layout | None = None
    ) -> TensorRef:
        """Write the buffers of a node: dtype name (float32, float64, int64) → flat array; durable on return.

        ``layout``, that of the space, is noted in the attributes of the arrays.

        Raises
        ------
        InputError
            If there is no array, or one is not flat, is empty, has another dtype, or does not fit the layout.
        StoreError
            If the disk is full or refuses.
        """
        self._check_open()
        digests = {dtype: digest(array) for dtype, array in groups.items()}
        found = digest_of_digests(digests)
        key = buffers_at(self._tensors, self._index, self._lock, found, layout) if groups else None
        if key is None:
            said = {d: attributes.of_buffers(digests[d], d, array.size, layout) for d, array in groups.items()}
            key = self._new_key()
            self._tensors.write(key, groups, codec, said)
        return TensorRef(key, None, found, sum(a.nbytes for a in groups.values()))

    def add(self, *records: Record) -> None:
        """Add records of any kind; they are stored when the transaction ends.

        Raises
        ------
        InputError
            If a name is malformed, or a node is not exactly one of stored, derived and partial.
        """
        self._check_open()
        for record in records:
            check_record(record)
            self._added.setdefault(type(record), []).append(record)

    def update(self, record: Named, *, since: Named | None = None) -> None:
        """Replace the row with the record's id when the transaction ends.

        ``since`` is the record that it was made from, as it was read: then only the columns in which the two differ are
        written, and what others changed meanwhile, a name for example, stays. Without it the whole row is replaced, so
        :meth:`expect` the one that you know, or what others changed is undone.

        Raises
        ------
        InputError
            If a name is malformed, or ``since`` is something else; at the end also ``NotFoundError`` if no row has the
            id, and ``ConflictError`` if somebody has changed one of the same columns.
        """
        self._check_open()
        check_record(record)
        if not hasattr(record, "id"):
            raise InputError(f"Rows of {TABLE_OF[type(record)]} have no id and cannot be updated.")
        if since is not None and (type(since), since.id) != (type(record), record.id):
            raise InputError(f"{record.id} cannot be an update of {since.id}.")
        self._updated.append(record)
        self._since.append(since)

    def expect(self, record: Named) -> None:
        """Store nothing unless the row with the record's id is still this record when the transaction ends.

        Raises
        ------
        ConflictError
            At the end, if it has changed by then, or is gone.
        """
        self._check_open()
        self._expected.append(record)

    def remove(self, record: type[Record], column: str, values: Sequence[str]) -> None:
        """Remove the rows of a record's table whose ``column``, a text, is one of ``values``.

        Tensors stay; after the transaction, those that no row refers to are garbage.

        Raises
        ------
        InputError
            If there is no such column; at the end, if another row still refers to a removed one.
        """
        self._check_open()
        if column not in {c.name for c in columns(record)}:
            raise InputError(f"{TABLE_OF[record]} has no column {column!r}.")
        if values:
            self._removed.append((TABLE_OF[record], column, values if isinstance(values, list) else list(values)))

    def require(self, check: Callable[[Reader], None]) -> None:
        """Call ``check`` when nobody else can write any more and nothing has changed yet; it raises to stop the commit.

        Thus a plan made earlier is carried out only if it is still right.
        """
        self._check_open()
        self._required.append(check)

    def commit(self) -> None:
        """Store all rows at once; :meth:`GraphStore.transaction` calls this on leaving.

        Raises
        ------
        InputError
            If a name or id is taken (``NameTakenError``), or a row refers to something that does not exist.
        ConflictError
            If a row is not what was expected.
        LockTimeoutError, StoreError
            If the graph cannot be locked, or the disk is full.
        """
        self._check_open()
        check_blocks(self._added)
        if self._added or self._updated or self._removed or self._expected or self._required:
            asks = bool(self._updated or self._removed or self._expected or self._required)
            if asks or not self._index.known:
                self._index.prepare()
            for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
                try:
                    with self._lock.exclusive():
                        self._index.journal.pull()
                        self._commit_or_be_overtaken(asks)
                    break
                except OvertakenError:  # by another machine: this one's graph is free meanwhile
                    time.sleep(random.uniform(0, pause))
            self._end_writing()
        else:
            self.discard()
        self._open = False

    def _commit_or_be_overtaken(self, asks: bool) -> None:
        done = None if asks else self._commit_what_is_known_to_fit()
        if done is None:
            self._commit_within_the_index()
        else:
            follow_if_due(self._index, self._lock, *done)

    def discard(self) -> None:
        """Drop the records and remove the tensors written here, unless a row refers to them after all."""
        self._open = False
        if os.getpid() != self._process:  # in a forked child, the tensors belong to the parent
            return
        kept: set[str] = set()
        if self._attempted:  # the commit was interrupted: ask what became of it
            try:
                with reading(self._index, self._lock) as con:
                    kept = tensor_keys(con)
            except MGraphError:
                return  # unknown; garbage is better than a row without tensors
        for key in self._keys:
            if key not in kept:
                self._tensors.remove(key)
        self._end_writing()

    def _end_writing(self) -> None:
        with contextlib.suppress(MGraphError, OSError):  # a mark that stays holds up a gc, which says so
            self._index.journal.end_writing(self._marks)

    def _commit_what_is_known_to_fit(self) -> tuple[Count, Count] | None:
        """Commit rows that surely fit by what this process knows; None, and nothing is done, if it is not sure.

        Returns the commit, and the one up to which the index had come.
        """
        journal, known = self._index.journal, self._index.known
        count, applied = journal.standing()
        sure = (
            count is not None
            and applied is not None
            and journal.reaches(count)
            and known.follow(journal, count)
            and known.fit(self._added)
        )
        if count is None or applied is None or not sure:
            return None
        if journal.is_shared and self._others_keys(()):
            return None
        self._check_tensors((), {})
        return self._append(count, Changes.of(self._added, ())), applied

    def _commit_within_the_index(self) -> None:
        """Commit rows that are verified in the index, which has them then, too."""
        committed = None
        try:
            with self._index.connect(read_only=False, patience=self._lock.timeout) as con:
                con.begin()
                try:
                    committed = self._store(con)
                    con.commit()
                except BaseException:
                    with contextlib.suppress(duckdb.Error):
                        con.rollback()
                    raise
        except StoreError:
            if committed is None:
                raise
            follow_later(self._index)  # for it is in the journal
            return
        self._index.journal.note_applied(committed)

    def _store(self, con: duckdb.DuckDBPyConnection) -> Count:
        try:
            count = commits.settle(con, self._index.journal)  # which may write all existing rows
        except OSError as error:
            raise disk_error(error, self._index.path.parent) from error
        if not (self._updated or self._removed or self._expected or self._required):
            self._index.known.miss(con, self._index.journal)
        reader = Reader(con)
        for record in self._expected:
            if reader.all(type(record), id=record.id) != [record]:
                raise ConflictError(
                    f"Another process has changed or removed {record.id} meanwhile: look again and repeat."
                )
        for check in self._required:
            check(reader)
        present = self._present(reader)
        updated = self._rebased(present)
        self._check_tensors(updated, present)
        if self._index.journal.is_shared:
            self._require_still_used(con, updated)
        changes = Changes.of(self._added, updated, self._removed)
        changes.apply(con)
        verify(con, self._added, updated, self._removed)
        run(con, "UPDATE meta SET commits = ?", [count.number + 1])
        return self._append(count, changes)

    def _append(self, count: Count, changes: Changes) -> Count:
        """Commit: write the record of the changes into the journal."""
        document = changes.document()
        self._attempted = True
        try:
            committed = self._index.journal.append(count, document)
        except OvertakenError:
            raise
        except BaseException as error:
            if isinstance(error, OutcomeUnknownError) or self._index.journal.is_shared:
                self._keys.clear()  # a row may refer to them
            if isinstance(error, OSError):
                self._attempted = False
                raise disk_error(error, self._index.path.parent) from error
            raise
        self._index.known.add(count, committed, document)
        return committed

    def _present(self, reader: Reader) -> dict[str, Named]:
        """Read the rows to be updated; new ones have no row yet, but count as well."""
        wanted: dict[type[Any], list[str]] = {}
        for record in self._updated:
            wanted.setdefault(type(record), []).append(record.id)
        found: dict[str, Named] = {r.id: r for kind, ids in wanted.items() for r in reader.all(kind, id=ids)}
        for kind in wanted:
            found |= {r.id: r for r in self._added.get(kind, ()) if isinstance(r, Named)}
        return found

    def _rebased(self, present: Mapping[str, Named]) -> list[Named]:
        """Apply each update to the row as it is now, one after the other if there are several for a row."""
        rows = dict(present)
        done = []
        for record, since in zip(self._updated, self._since, strict=True):
            row = rows.get(record.id)
            made = record if since is None or row is None else _merged(record, since, row)
            done.append(made)
            rows[record.id] = made
        return done

    def _check_tensors(self, updated: Iterable[Record], present: Mapping[str, Named]) -> None:
        # Somebody may have removed them since: a gc with a short delay those written here, rm those of another node.
        # What a row already names is not checked: a node whose tensors are lost may still get another name.
        named = {getattr(row, "tensor_key", None) for row in present.values()}
        changed = [r for r in updated if getattr(r, "tensor_key", None) not in named]
        records = [r for records in self._added.values() for r in records]
        keys = {key for r in (*records, *changed) if (key := getattr(r, "tensor_key", None))}
        for key in sorted(keys):
            if not self._tensors.has(key):
                raise StoreError(f"Tensor object {key} was removed before its row was stored: start again.")

    def _others_keys(self, updated: Iterable[Record]) -> set[str]:
        records = [*itertools.chain.from_iterable(self._added.values()), *updated]
        return {key for r in records if (key := getattr(r, "tensor_key", None))} - set(self._keys)

    def _require_still_used(self, con: duckdb.DuckDBPyConnection, updated: Iterable[Record]) -> None:
        # Another machine may be deleting what no row refers to any more; it asks no lock of ours.
        for key in sorted(self._others_keys(updated) - tensor_keys(con)):
            raise StoreError(f"Tensor object {key} was removed before its row was stored: start again.")

    def _new_key(self) -> str:
        if not self._marks and (mark := self._index.journal.begin_writing()) is not None:
            self._marks.append(mark)
        # Recorded before it is written, so that an interruption at any moment finds it.
        self._keys.append(new_key())
        return self._keys[-1]

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError("This transaction has ended: start another one.")
        if os.getpid() != self._process:
            raise StoreError("This transaction belongs to another process, from which this one was forked.")


def _merged(record: Named, since: Named, row: Named) -> Named:
    """Write the columns in which ``record`` differs from ``since`` into ``row``."""
    changed = {}
    for column in columns(type(record)):
        old, new, found = (column.to_sql(getattr(r, column.name)) for r in (since, record, row))
        if new == old:
            continue
        if found not in (old, new):
            raise ConflictError(
                f"Another process has changed {column.name} of {record.id} meanwhile: look again and repeat."
            )
        changed[column.name] = getattr(record, column.name)
    return replace(row, **changed)


def _check_parameters(i: int, row: NDArray[np.float32]) -> None:
    if row.ndim != 1 or row.size == 0 or row.dtype != np.float32:
        raise InputError(
            f"Parameters {i} have dtype {row.dtype} and shape {list(row.shape)}: give a flat, not empty float32 array."
        )
    with np.errstate(invalid="ignore"):  # a sum in float64 cannot overflow; it is finite iff all terms are
        finite = math.isfinite(row.sum(dtype=np.float64))
    if not finite:
        bad = np.flatnonzero(~np.isfinite(row))
        raise NonFiniteError(
            f"Parameters {i} have {bad.size} of {row.size} elements that are NaN or infinite, "
            f"the first at {bad[0]}: they are not stored."
        )


def _batches(rows: Sequence[NDArray[np.float32]]) -> list[list[int]]:
    # Positions that share a tensor object: small rows of one length, up to the size limit of a segment.
    batches: list[list[int]] = []
    filling: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        batch = filling.get(row.nbytes)
        full = batch is None or len(batch) == SEGMENT_ROWS or row.nbytes * (len(batch) + 1) > SEGMENT_BYTES
        if batch is None or full or row.nbytes > CHUNK_BYTES:
            batch = filling[row.nbytes] = []
            batches.append(batch)
        batch.append(i)
    return batches
