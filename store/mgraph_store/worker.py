"""Writing from several processes: workers write tensors, and one process commits the rows.

A :class:`WorkerStore` reads the graph and makes tensors durable like any store, but its transactions end without
touching the index: their rows wait until the worker hands them over. The process that may write the index takes them
into its own transaction (:meth:`Transaction.take_over`), all or none. What is never taken over has no row, and is
garbage like anything else without one.

Workers could commit themselves, for a commit is one record of the journal. But they may be on other machines, which see
the directory through a network file system, where a journal with many writers is at the mercy of its locks; and a call
that is made again because its worker died must not find half of its rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from typing_extensions import override

from mgraph_store.errors import StoreError
from mgraph_store.handover import Handover, merged
from mgraph_store.index.index import Index
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.reader import Reader
from mgraph_store.rows.records import Record
from mgraph_store.store import GraphStore
from mgraph_store.tensors.objects import TensorStore
from mgraph_store.transaction import Transaction


class WorkerStore(GraphStore):
    """A graph that this process reads and writes tensors to, while another one writes the index."""

    def __init__(self, path: Path, *, lock_timeout: float | None = None) -> None:
        super().__init__(path, lock_timeout=lock_timeout)
        self._ended: list[Handover] = []

    @contextlib.contextmanager
    @override
    def transaction(self) -> Iterator[Transaction]:
        """Write tensors and collect rows, all or nothing; the rows wait for :meth:`hand_over`."""
        self.require_present_format()
        transaction = _Waiting(self.tensor_store, self.index, self.lock, self._ended)
        try:
            yield transaction
            transaction.commit()
        except BaseException:
            transaction.discard()
            raise

    def hand_over(self) -> Handover:
        """Return the rows of all transactions that ended since the last call, and forget them."""
        ended, self._ended[:] = list(self._ended), []
        return merged(ended)


class _Waiting(Transaction):
    """A transaction that sets its rows aside at its end."""

    def __init__(self, tensors: TensorStore, index: Index, lock: GraphLock, ended: list[Handover]) -> None:
        super().__init__(tensors, index, lock)
        self._ended = ended

    @override
    def require(self, check: Callable[[Reader], None]) -> None:
        """Refuse: a check cannot be handed over."""
        raise StoreError(
            "A worker's transaction only adds and updates rows; the process that commits them must do this."
        )

    @override
    def remove(self, record: type[Record], column: str, values: Sequence[str]) -> None:
        """Refuse: a worker cannot remove anything."""
        raise StoreError(
            "A worker's transaction only adds and updates rows; the process that commits them must do this."
        )

    @override
    def commit(self) -> None:
        """Set the rows aside; they are checked against the index only when they are taken over."""
        self._check_open()
        added = tuple(record for records in self._added.values() for record in records)
        if not added and not self._updated:
            self.discard()
            return
        updated, since = tuple(self._updated), tuple(self._since)
        ended = Handover(added, updated, since, tuple(self._expected), tuple(self._keys), tuple(self._marks))
        self._ended.append(ended)
        self._open = False
