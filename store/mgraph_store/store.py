"""One graph on disk: a directory with an index, tensors and two lock files."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import (
    CorruptError,
    InputError,
    LockTimeoutError,
    MGraphError,
    NameTakenError,
    NotFoundError,
    StoreError,
    UnseenCommitsWarning,
)
from mgraph_store.folder import PREDICTIONS, SET_ASIDE, STATES, TEMPORARY, Folder, put_in_place
from mgraph_store.index.changes import snapshot
from mgraph_store.index.commits import number_of
from mgraph_store.index.following import holding, reading
from mgraph_store.index.index import JOURNAL, Index, check_path
from mgraph_store.index.lock import LOCKS, GraphLock
from mgraph_store.index.reader import Reader
from mgraph_store.index.sharedplace import SHARED, SharedPlace
from mgraph_store.index.sql import LIMIT_MEMORY, LIMIT_ROWS, LIMIT_SECONDS, Answer, run_guarded
from mgraph_store.rows import schema
from mgraph_store.rows.ids import random_characters
from mgraph_store.tensors.claims import CONFIG, Place, directory_of, new_claim

# What only tensors need is imported where they are read or written: to list rows takes no NumPy.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mgraph_store.predictions import Predictions
    from mgraph_store.recipes import Computation
    from mgraph_store.remembered import Remembered
    from mgraph_store.rows.records import Node
    from mgraph_store.states import StateFiles
    from mgraph_store.tensors.objects import TensorStore
    from mgraph_store.transaction import Transaction

INDEX = "index.duckdb"
_LARGEST_SNAPSHOT = 64 << 20  # bytes of the index
TENSORS = "tensors.zarr"
"""Directory in which a repair puts what it replaces."""


class GraphStore:
    """A graph directory. It holds no connection and no lock between calls, and is safe to fork and to use from threads.
    (A process that was forked after something at a URL was used is told that it cannot do so.)

    Make one with :meth:`create` or :meth:`open`.
    """

    path: Path

    def __init__(self, path: Path, *, lock_timeout: float | None = None) -> None:
        self.path = path
        self.folder = Folder(path)
        self._check_entries()
        self._place, self._shared = Place.read(self.folder), SharedPlace.read(self.folder)
        if self._place is not None:  # what a stranger's graph names is refused before anything is done
            from mgraph_store.objectstorage import check_url

            check_url(self._place.url)
        self.index = Index(self.folder, INDEX)
        self.lock = GraphLock(self.folder, lock_timeout)

    @cached_property
    def remembered(self) -> Remembered:
        """What reading numbers has looked up since the last commit."""
        from mgraph_store.remembered import Remembered

        return Remembered(self.index.journal)

    @cached_property
    def tensor_store(self) -> TensorStore:
        """The tensor objects: in the directory, at a URL, or where the graph is shared."""
        from mgraph_store.tensors.objects import TensorStore
        from mgraph_store.tensors.remote import RemoteTensorStore

        tensors, temporary, shared = self.folder.sub(TENSORS), self.folder.sub(TEMPORARY), self._shared
        if self._place is not None:
            return RemoteTensorStore(self._place, tensors, temporary, is_shared=shared is not None)
        if shared is not None:
            above = Folder(Path(shared.tensors).parent)
            return TensorStore(above.sub(Path(shared.tensors).name), above.sub(TEMPORARY))
        return TensorStore(tensors, temporary)

    def _check_entries(self) -> None:
        # A graph with a link in it is to be refused by the first operation, not by the one that meets the link.
        if not self.path.is_dir():
            return
        for name in (JOURNAL, TEMPORARY, STATES, TENSORS, SET_ASIDE, PREDICTIONS):
            self.folder.check_folder(name)
        for name in (INDEX, f"{INDEX}.wal", *LOCKS, CONFIG, SHARED):
            self.folder.check_file(name, own=name not in (CONFIG, SHARED))

    @classmethod
    def create(cls, path: str | Path, *, tensors: str | None = None, lock_timeout: float | None = None) -> GraphStore:
        """Make an empty graph in a new directory, whole or not at all; its tensors may be at a URL instead.

        Raises
        ------
        NameTakenError
            If the path exists, or there is something at the URL.
        InputError
            If its parent does not exist or cannot be written, DuckDB does not accept the path, or the URL is of an
            unknown kind.
        StoreError
            If the URL cannot be reached or written.
        """
        path = Path(path).absolute()
        check_path(path)
        url = None
        if tensors is not None:
            from mgraph_store.objectstorage import check_url

            url = check_url(tensors)
        if path.exists() or path.is_symlink():
            raise NameTakenError(f"{path} exists already: choose another path for the new graph.")
        if url is None:
            cls.make(path, None)
            return cls(path, lock_timeout=lock_timeout)
        from mgraph_store.tensors.remote import RemoteTensorStore

        graph = Folder(path)
        place = Place(url, new_claim())
        remote = RemoteTensorStore(place, graph.sub(TENSORS), graph.sub(TEMPORARY))
        remote.claim()
        try:
            cls.make(path, place)
        except BaseException:
            remote.release()
            raise
        return cls(path, lock_timeout=lock_timeout)

    def pull(self) -> None:
        """Take over what other machines have committed, if the graph is shared.

        Raises
        ------
        CorruptError
            If the shared log does not continue what this machine has.
        LockTimeoutError, StoreError
            If the graph cannot be locked, or the log cannot be reached.
        """
        if self.index.journal.is_behind():  # so that most readers need no lock for it
            with self.lock.exclusive():
                self.index.journal.pull()

    @staticmethod
    def make(
        path: Path,
        place: Place | None,
        shared: SharedPlace | None = None,
        create: Callable[[Index], None] = lambda index: index.create(),
    ) -> None:
        """Make a graph's directory, whole or not at all; tensors elsewhere, and a shared log, are there already."""
        from mgraph_store.tensors.objects import ROOT_GROUP

        building = path.parent / f".{path.name}.{random_characters(8)}"
        try:
            building.mkdir()
            (building / TEMPORARY).mkdir()
            new = Folder(building)  # which keeps its inode when it is renamed
            if shared is not None:
                shared.write(new)
            if place is not None:
                place._replace(directory=directory_of(new)).write(new)
            elif shared is None:
                (building / TENSORS).mkdir()
                (building / TENSORS / "zarr.json").write_bytes(ROOT_GROUP)
            for name in LOCKS:
                (building / name).touch()
            with GraphLock(building).exclusive():
                pass  # detect a file system without locks before anything is made
            create(Index(building / INDEX))
            Folder(path.parent).flush_tree(building.name)
            put_in_place(building, path)
        except OSError as error:
            if os.path.lexists(path):
                raise NameTakenError(f"{path} exists already: choose another path for the new graph.") from None
            reason = error.strerror or str(error)
            raise InputError(f"Cannot create a graph at {path} ({reason}): choose a writable place.") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    @classmethod
    def open(cls, path: str | Path, *, lock_timeout: float | None = None) -> GraphStore:
        """Open a graph and check its format.

        Raises
        ------
        NotFoundError
            If there is no graph at that path.
        InputError
            If DuckDB does not accept the path.
        FormatError, CorruptError
            If this version cannot read it, or it is damaged or has lost commits. One of an older format is read as it
            is, and written after :meth:`upgrade` only.
        LockTimeoutError
            If somebody writes for longer than ``lock_timeout`` seconds.
        """
        path = Path(path).absolute()
        if not path.is_dir():
            raise NotFoundError(f"There is no graph at {path}: make one with `mgraph init`.")
        if not _is_there(path / INDEX):
            if _is_there(path / TENSORS):
                raise CorruptError(f"Graph {path} has lost its {INDEX}: `mgraph check` says what can be done.")
            raise NotFoundError(f"{path} is not a graph, because it has no {INDEX}: make one with `mgraph init`.")
        check_path(path)
        store = cls(path, lock_timeout=lock_timeout)
        store._look_elsewhere()
        store._check()
        return store

    def _look_elsewhere(self) -> None:
        try:
            self.pull()
        except (CorruptError, LockTimeoutError):
            raise
        except StoreError as error:
            warnings.warn(
                f"The shared log of graph {self.path} cannot be read, so what other machines have committed since it "
                f"was last opened is not seen: {error}",
                UnseenCommitsWarning,
                stacklevel=3,
            )

    def upgrade(self) -> int:
        """Upgrade the graph permanently to the current format, all or nothing; return the format that it had.

        If other machines share it, their directories stay as they are, and must be upgraded before they write, too.

        Raises
        ------
        CorruptError, FormatError
            If it is damaged or has lost commits, or no way leads from its format to the current one.
        LockTimeoutError, StoreError
            If others have it open for too long, or it cannot be written.
        """
        with self.lock.exclusive():
            found = self.index.migrate(self.lock.timeout)
        if found < schema.FORMAT_VERSION:
            self._put_snapshot_if_due(every=1)  # which spares new machines all records of the older format
        return found

    def require_present_format(self) -> None:
        """Raise OldFormatError if the graph has an older format, in which it can only be read."""
        if self.index.found not in (None, schema.FORMAT_VERSION):  # when last looked at
            with self.lock.shared():
                self.index.require_present(self.index.format(self.lock.timeout))

    def _check(self) -> None:
        with reading(self.index, self.lock) as connection:
            self.index.check_tables(connection)

    @contextlib.contextmanager
    def reading(self, *, behind: bool = False) -> Iterator[Reader]:
        """Read rows through one short-lived connection; writers wait meanwhile, so do not compute inside.

        All commits are there, except if a check reads an index that is ``behind`` the journal.

        Raises
        ------
        LockTimeoutError
            If somebody writes for too long.
        CorruptError, FormatError
            If the index cannot be read, or has lost commits.
        """
        if not behind:
            with reading(self.index, self.lock) as connection:
                yield Reader(connection)
            return
        self.index.prepare()
        with (
            self.lock.shared(),
            self.index.connect(read_only=True, patience=self.lock.timeout, behind=True) as connection,
        ):
            yield Reader(connection)

    def query_guarded(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        *,
        max_seconds: float = LIMIT_SECONDS,
        limit_rows: int = LIMIT_ROWS,
        limit_memory: int = LIMIT_MEMORY,
    ) -> Answer:
        """Run one SQL statement from a user, which may only read, within limits of time (s), rows, and memory (bytes).

        It can neither write nor reach files, extensions, settings or Python; see :mod:`mgraph_store.index.sql`. Writers
        wait until it is done. Times are in UTC without a zone.

        Raises
        ------
        InputError
            If the SQL is wrong or does more than read, or passes a limit.
        LockTimeoutError, StoreError
            If the index cannot be locked or read.
        """

        def place(copied: bool) -> contextlib.AbstractContextManager[Path]:
            return contextlib.nullcontext(self.index.place_to_read(self.lock.timeout, copied=copied))

        with holding(self.index, self.lock, place) as index:
            return run_guarded(
                index,
                sql,
                parameters,
                max_seconds=max_seconds,
                limit_rows=limit_rows,
                limit_memory=limit_memory,
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write tensors and rows, all or nothing: any exception inside, including Ctrl-C, leaves no trace.

        Raises
        ------
        OldFormatError
            At once, if the graph has an older format.
        MGraphError
            On leaving, whatever :meth:`Transaction.commit` raises.
        """
        from mgraph_store.transaction import Transaction

        self.require_present_format()
        transaction = Transaction(self.tensor_store, self.index, self.lock)
        try:
            yield transaction
            transaction.commit()
        except BaseException:
            transaction.discard()
            raise
        self._put_snapshot_if_due()

    def _put_snapshot_if_due(self, every: int | None = None) -> None:
        if self._shared is None:
            return
        from mgraph_store.index.shared import SNAPSHOT_EVERY, SharedJournal

        journal = self.index.journal
        if not isinstance(journal, SharedJournal) or self.index.path.stat().st_size > _LARGEST_SNAPSHOT:
            return
        count = journal.count()
        if count is not None and count.number % (every or SNAPSHOT_EVERY) == 0:
            with contextlib.suppress(MGraphError), self.reading() as reader:  # the commit is done; another one tries
                journal.put_snapshot(number_of(reader.connection), snapshot(reader.connection))

    def states(self, run_id: str) -> StateFiles:
        """Return the saved states of a run; there may be none."""
        from mgraph_store.states import StateFiles

        return StateFiles(self.folder, run_id)

    def predictions(self, secret: bytes) -> Predictions:
        """Return what models of the graph predicted, as far as it is cached and signed with this secret."""
        from mgraph_store.predictions import Predictions

        return Predictions(self.folder, secret)

    def read_parameters(self, node: Node | str) -> NDArray[np.float32]:
        """Read a node's parameters, shape (D,), as a new array; those of derived and partial nodes are computed chunk
        by chunk, with only a few chunks in memory in addition.

        The memory of a large array that is no longer used (at most 128 MiB) is kept for the next one, as new memory
        takes as long as the reading.

        Raises
        ------
        NotFoundError
            If there is no such node (a text is looked up by :meth:`Reader.find`).
        CorruptError
            If tensors are missing or damaged, or a recipe is incomplete.
        FormatError
            If a recipe needs another version of the summation kernel.
        """
        from mgraph_store import values

        return values.read_parameters(self, node)

    def computation(self, node: Node | str) -> Computation:
        """Open a node's parameters without reading them, to stream or read parts; errors as
        :meth:`read_parameters`.

        For nodes larger than memory: ``store.computation("m").stream(lambda offset, values: …)``.
        """
        from mgraph_store import values

        return values.computation(self, node)

    def combination(self, coefficients: Sequence[float], nodes: Sequence[Node | str]) -> Computation:
        """Open Σ c_k P_k of stored and partial nodes as :meth:`computation` opens a derived node, with the same bits.

        Raises
        ------
        InputError
            If coefficients and nodes do not match, or a node is derived or in another space.
        NotFoundError, CorruptError, FormatError
            As :meth:`read_parameters`.
        """
        from mgraph_store import values

        return values.combination(self, coefficients, nodes)

    def parameter_blocks(self, nodes: Sequence[Node]) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        """Yield (offset, one array of each node) along the parameters of several nodes, side by side.

        Only a block of each is in memory. Errors as :meth:`read_parameters`, and

        Raises
        ------
        InputError
            If the nodes have different numbers of parameters.
        """
        from mgraph_store import values

        return values.parameter_blocks(self, nodes)

    def read_buffers(self, node: Node | str, policy: str = "own") -> dict[str, NDArray[Any]]:
        """Read a node's buffers under a policy: dtype name → flat array, empty if the layout has none.

        Raises
        ------
        NotFoundError
            If buffers exist in the layout, but none are stored under that policy.
        CorruptError
            If tensors are missing or damaged.
        """
        from mgraph_store import values

        return values.read_buffers(self, node, policy)

    def tensors(self, node: Node | str, policy: str | None = None) -> Mapping[str, NDArray[Any]]:
        """Map names to tensors of a node, including tied names; nothing is read before it is accessed.

        If a node is larger than a chunk (4 MiB), a tensor is read, or computed, from the chunks that contain it, and
        only the most recent chunks are kept, so keep what you need again. With a ``policy``, the buffers are included;
        without, only the parameters.

        Raises
        ------
        NotFoundError, CorruptError, FormatError
            At once, if there is no such node or its recipe cannot be used; then as :meth:`read_parameters`, and for
            buffers as :meth:`read_buffers`.
        """
        from mgraph_store import values

        return values.tensors(self, node, policy)

    def discard(self) -> None:
        """Delete the whole graph, for one that was just made when something then went wrong."""
        if self._shared is not None:
            from mgraph_store.index.shared import SharedJournal

            assert isinstance(self.index.journal, SharedJournal)
            self.index.journal.delete_log()
        if self._place is not None:
            from mgraph_store.tensors.remote import RemoteTensorStore

            assert isinstance(self.tensor_store, RemoteTensorStore)
            self.tensor_store.release()
        shutil.rmtree(self.folder.root.where(), ignore_errors=True)


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)  # including a link that leads nowhere, which is then refused by name
