"""A graph whose commits are in a log that several machines share (:mod:`mgraph_store.sharedlog`).

Every machine has a directory with a journal and an index of its own. Its journal is a copy of the log: commit N is the
log's record N + 1, since the first record only says that there is a graph. A commit is the record in the log. So
before it verifies what it is about to commit, a machine takes over what others have committed; and if another one is
first after all, it does so again, and verifies once more (:class:`OvertakenError`).

``shared.json`` in the graph's directory says where log and tensors are. A copy of the directory is one more machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from mgraph_store.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    NameTakenError,
    NotFoundError,
    OutcomeUnknownError,
    StoreError,
)
from mgraph_store.folder import Folder
from mgraph_store.index.changes import Changes
from mgraph_store.index.journal import Count, Journal
from mgraph_store.index.journalrecord import Prepared, packed, record, unpacked
from mgraph_store.index.migrations import FOLLOWED
from mgraph_store.index.sharedplace import SHARED, SharedPlace
from mgraph_store.rows import schema
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import GridTerm, PointGrid
from mgraph_store.rows.schema import TABLE_OF
from mgraph_store.sharedlog import START, LogRecord, Position, SharedLog, Writing

_POSITION = "position"
_GRIDS = frozenset({TABLE_OF[PointGrid], TABLE_OF[GridTerm]})
_GRIDS_BEGIN = Changes({TABLE_OF[PointGrid]: []}).document()
"""The record from which on a graph that was made in an older format has format 4: it adds no grids, but says that
others may. A machine of format 2 or 3 does not know that table, so it can take over neither this nor anything after it;
and it cannot commit what it would have to number before."""

_GROUP = 16  # records that are taken over with one flush
SNAPSHOT_EVERY = 500
"""Commits after which the whole index is put into the log."""


class OvertakenError(ConflictError):
    """Another machine has committed first: what was verified must be verified again."""


@dataclass(frozen=True)
class Birth:
    """The first record of a log: the id of the graph, what an empty index has, and the claim on the tensors."""

    id: str
    meta: dict[str, Any]
    claim: str | None

    def put(self, log: SharedLog) -> Position:
        """Begin a log; NameTakenError if it has been begun."""
        position = log.append(packed(asdict(self)), START)
        if position is None:
            raise NameTakenError(f"There is a shared graph at {log.name} already: join it with `mgraph join`.")
        return position

    @classmethod
    def read(cls, log: SharedLog) -> Birth:
        """Read it; NotFoundError if there is none, FormatError if this version cannot follow its format."""
        first = next(log.since(), None)
        if first is None:
            raise NotFoundError(f"There is no shared graph at {log.name}: make one with `mgraph init --shared`.")
        document = unpacked(first.payload)
        made = cls(str(document.get("id")), document.get("meta", {}), document.get("claim")) if document else None
        if made is None or not isinstance(made.meta, dict) or not isinstance(made.meta.get("format_version"), int):
            raise CorruptError(f"The shared log at {log.name} does not begin as one of a graph.")
        if made.format > schema.FORMAT_VERSION:
            raise FormatError(
                f"The shared graph at {log.name} has format {made.format}, but this mgraph has "
                f"{schema.FORMAT_VERSION}: install a newer mgraph."
            )
        if made.format < FOLLOWED:
            raise FormatError(f"The shared graph at {log.name} has format {made.format}, in which none was ever made.")
        return made

    @property
    def format(self) -> int:
        """The format in which the graph was made; from some record on, it may have a later one."""
        return int(self.meta["format_version"])


class SharedJournal(Journal):
    """The journal of one machine of several; its commits are those of the log."""

    def __init__(self, directory: Folder, place: SharedPlace) -> None:
        super().__init__(directory)
        self._place = place

    @cached_property
    def _log(self) -> SharedLog:
        """The log, after it was seen to be that of this graph: nothing is written where it is another one, or none."""
        if not self._place.is_remote and not Path(self._place.log).is_dir():
            raise StoreError(f"There is no directory {self._place.log}, where graph {self.graph} is shared: mount it.")
        log = SharedLog.at(self._place.log)
        try:
            found = Birth.read(log).id
        except NotFoundError:
            raise CorruptError(f"The shared log at {log.name} has no records: it was emptied.") from None
        if found != self._place.id:
            raise CorruptError(
                f"Graph {self.graph} is not the one that is shared at {log.name}: restore {SHARED} from a copy of the "
                "graph, or join that one in another directory."
            )
        return log

    @property
    @override
    def is_shared(self) -> bool:
        return True

    @override
    def append(self, at: Count, document: dict[str, Any] | Prepared) -> Count:
        """Commit into the log, and then here; OvertakenError if somebody else has committed after ``at``."""
        data = document if isinstance(document, Prepared) else Prepared(packed(document))
        after = self._position(at)
        try:
            position = self._log.append(data.payload, after)
        except StoreError as error:
            raise OutcomeUnknownError(
                f"{error} Whether the last commit was stored is seen later (mgraph ls)."
            ) from error
        if position is None:
            raise OvertakenError("Another machine has committed meanwhile: look again and repeat.")
        try:
            done = super().append(at, data)
        except OSError as error:
            raise OutcomeUnknownError(
                f"The commit is in the shared log, but not yet in {self.graph} ({error.strerror or error}): it comes "
                "when the disk works again."
            ) from error
        self._remember(position)
        return done

    @override
    def is_behind(self) -> bool:
        count = self.count()
        return count is not None and next(self._log.since(self._position(count)), None) is not None

    @override
    def pull(self) -> None:
        count = self.count()
        if count is None:
            return
        for group in _grouped(self._log.since(self._position(count)), _GROUP):
            for r in group:
                if unpacked(r.payload) is None:
                    raise CorruptError(
                        f"Record {r.position.number} of the shared log at {self._log.name} is no commit."
                    )
            data = b"".join(record(r.position.number - 1, r.payload) for r in group)
            try:
                self._write(count.file, data, count.length)
            except OSError as error:
                raise StoreError(
                    f"What other machines have committed cannot be written into {self.graph} "
                    f"({error.strerror or error}): free some disk space, or see what is wrong with the disk."
                ) from error
            count = Count(group[-1].position.number - 1, count.generation, count.length + len(data))
            self._note_end(count)
            self._remember(group[-1].position)

    @override
    def announce_format(self) -> None:
        count = self.count()
        while count is not None and not have_grids(entry.document for entry in self.entries(count)):
            with contextlib.suppress(OvertakenError):
                self.append(count, _GRIDS_BEGIN)
            self.pull()
            count = self.count()

    def delete_log(self) -> None:
        """Delete the log, for a graph that was just made when something then went wrong."""
        self._log.delete()

    @override
    def begin_writing(self) -> str:
        return self._log.begin_writing()

    @override
    def end_writing(self, marks: Iterable[str]) -> None:
        self._log.end_writing(marks)

    @override
    def writing(self) -> Writing:
        return self._log.writing()

    def _position(self, count: Count) -> Position:
        """Return where in the log a commit of ours is."""
        try:
            number, identity = json.loads(self._folder.read(_POSITION))
            if number == count.number + 1:
                return Position(number, bytes.fromhex(identity))
        except (OSError, ValueError, TypeError):
            pass  # it is not written durably, so ask
        return self._log.position(count.number + 1)

    def _remember(self, position: Position) -> None:
        temporary = f".{_POSITION}.{random_characters(8)}"
        with contextlib.suppress(OSError):  # the disk is full: then the log is asked
            try:
                self._folder.write(temporary, json.dumps([position.number, position.id.hex()]).encode())
                self._folder.rename(temporary, self._folder, _POSITION)
            finally:
                self._folder.unlink(temporary)

    def put_snapshot(self, number: int, document: dict[str, Any]) -> None:
        """Put a description of the whole index as of a commit into the log, which spares new machines the records."""
        self._log.put_snapshot(packed(document), self._log.position(number + 1))


def have_grids(documents: Iterable[dict[str, Any]]) -> bool:
    """Return whether one of these records of a graph that was made in an older format is of format 4."""
    return any(not _GRIDS.isdisjoint(document.get("add", ())) for document in documents)


def newest_snapshot(log: SharedLog) -> tuple[int, dict[str, Any]] | None:
    """Read the newest snapshot: the number of its commit, and the whole index; None if there is none to be used.

    One that is of an older format is not.
    """
    found = log.snapshot()
    document = None if found is None else unpacked(found[1])
    usable = document is not None and document.get("meta", {}).get("format_version") == schema.FORMAT_VERSION
    return (found[0].number - 1, document) if found is not None and document is not None and usable else None


def _grouped(records: Iterator[LogRecord], size: int) -> Iterator[list[LogRecord]]:
    while group := list(itertools.islice(records, size)):
        yield group
