"""The journal: the record of a commit *is* the commit; the index is made from the records.

A transaction is committed when its record is at the end of the journal, and on the disk. Nothing else is waited for:
the index follows when there is time (:mod:`mgraph_store.index.following`), in one DuckDB transaction that also sets
``meta.commits`` to the number of the last record it has. So the index may be behind the journal, but is never ahead of
it: whoever brings it up to date flushes the journal first. A record that was not whole when its writer was stopped
never was a commit, and the next one takes its place.

``journal/count`` only saves looking. Its first slot says where the journal ended when it was last looked at, its second
how far the index had come. Neither is waited for: whole records that follow count as well, and without the slots all
records are read. But they are written after the record is on the disk, so if they say more than there is, something was
lost that had been committed, and not merely never finished.

What is here for one directory, under the graph's lock, another log has to give too (one on object storage, for many
machines): :meth:`Journal.count`, the last commit; :meth:`Journal.append`, which adds the next one, durable on return,
or nothing (where there is no lock: only if nobody else has taken that number, else read :meth:`Journal.since` and
verify again); :meth:`Journal.since`, the records after a commit, in order and without gaps; :meth:`Journal.flush`,
after which what was found is on the disk. Of a :class:`Count`, only the number means something to others.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mgraph_store.errors import CorruptError, OutcomeUnknownError
from mgraph_store.folder import Folder
from mgraph_store.index.journalrecord import (
    CHECKSUM_BYTES,
    Entry,
    Prepared,
    checksum_of,
    packed,
    read_number,
    read_record,
    record,
)

if TYPE_CHECKING:
    from mgraph_store.sharedlog import Writing

COUNTER = "count"
_PAGE = 4096  # bytes from one slot to the other, so that no torn write reaches both
_SLOT = struct.Struct("<8sQQQ")  # magic, number, generation, length; then the checksum
_MAGIC_SLOT, _MAGIC_FORMER = b"mgcount2", b"mgcount1"
_END, _APPLIED = 0, 1  # slots
_BUFFER = 1 << 20
_FILE = re.compile(r"[0-9a-f]{16}\.log")


class Count(NamedTuple):
    """A commit: its number, and where its record ends in which journal file."""

    number: int
    generation: int
    length: int

    @property
    def file(self) -> str:
        """Name of the journal file."""
        return f"{self.generation:016x}.log"


_Slots = tuple[Count | None, Count | None, Count | None]
"""Where the journal ended, how far the index had come, and what a former counter says."""


class Journal:
    """The journal file below one directory, and the slots. Writers hold the exclusive lock."""

    def __init__(self, directory: Folder | Path) -> None:
        self._folder = Folder.at(directory)

    @property
    def graph(self) -> Path:
        """The graph's path, for messages."""
        return self._folder.path.parent

    def count(self) -> Count | None:
        """Find the last commit; None if there is no journal.

        If the journal is shorter than it was, that is what it was: see :meth:`reaches`.
        """
        return self._last(self._slots())

    def _last(self, slots: _Slots) -> Count | None:
        end, _, former = slots
        if end is None and former is None:
            found = [
                self._followed(Count(-1, int(name[:16], 16), 0)) for name in self._folder.entries() if _is_log(name)
            ]
            # A draft is never ahead of the journal that it was to replace.
            return max((c for c in found if c.number >= 0), key=lambda c: c.number, default=None)
        return former if end is None else self._followed(end)

    def standing(self) -> tuple[Count | None, Count | None]:
        """Find the last commit, as :meth:`count` does, and how far the index had come, as :meth:`applied`, with one
        look."""
        slots = self._slots()
        return self._last(slots), slots[1]

    def is_ahead(self) -> bool:
        """Return whether there may be more commits than the index had when it was last brought up to date."""
        end, applied, former = self._slots()
        return former is None if end is None else self._followed(end) != applied

    def is_former(self) -> bool:
        """Return whether it has the counter of format 1: then records are commits only if the index has them."""
        end, _, former = self._slots()
        return end is None and former is not None

    def applied(self) -> Count | None:
        """Read how far the index had come when it was last brought up to date; None if that is not known."""
        return self._slots()[1]

    def note_applied(self, count: Count) -> None:
        """Write how far the index has come, if the disk lets us; nobody relies on it."""
        with contextlib.suppress(OSError):
            if self._slots()[0] is None:
                self.flush(count)
                self._note(count, _END)
            self._note(count, _APPLIED)

    def reaches(self, count: Count) -> bool:
        """Return whether the journal file exists and goes as far as it should."""
        try:
            return self._folder.size(count.file) >= count.length
        except OSError:
            return False

    def flush(self, count: Count) -> None:
        """Wait until the records up to this one are on the disk, whoever wrote them."""
        self._folder.flush(count.file)

    def begin(self, number: int, documents: Iterable[dict[str, Any]]) -> Count:
        """Start a new journal with records of everything, in as many parts as given; durable on return.

        The old one counts until the slots are written, and is then deleted.
        """
        return self.adopt(self.draft(number, documents))

    def draft(self, number: int, documents: Iterable[dict[str, Any]]) -> Count:
        """Write a journal that does not count yet (see :meth:`adopt`); durable on return.

        Raises FileNotFoundError if another one is adopted meanwhile, which deletes this one.
        """
        with self._folder.opened(create=True):
            self._folder.above().flush()
        count = Count(number, secrets.randbits(64), 0)
        length = 0
        try:
            for document in documents:
                length += self._write(
                    count.file, record(number, packed(document)), length, new=length == 0, flush=False
                )
        except BaseException:
            self._folder.unlink(count.file)
            raise
        self._folder.flush(count.file)
        self._folder.flush()  # the file must have its name before a slot refers to it
        return count._replace(length=length)

    def follow(self, draft: Count, since: Count, now: Count) -> Count:
        """Append to a draft, made at ``since``, the records that the current journal received up to ``now``."""
        if now == since:
            return draft
        with self._folder.reader(now.file) as file:
            file.seek(since.length)
            data = file.read(now.length - since.length)
        self._write(draft.file, data, draft.length)
        return draft._replace(number=now.number, length=draft.length + len(data))

    def adopt(self, draft: Count) -> Count:
        """Make a draft the journal from now on, under the exclusive lock, and delete the others."""
        self._note(draft, _END)
        self._note(draft, _APPLIED, flush=True)  # neither may still name a file about to be deleted
        self._folder.flush()
        for name in self._folder.entries():
            if _is_log(name) and name != draft.file:
                self._folder.unlink(name)
        return draft

    @contextlib.contextmanager
    def kept(self, count: Count) -> Iterator[None]:
        """Keep what is in a journal file on the disk for a block, though another one be adopted: it takes a disk a
        while to free a long file."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(self._folder.reader(count.file))
            yield

    def forget(self, draft: Count) -> None:
        """Delete a draft that will not be adopted."""
        self._folder.unlink(draft.file)

    def append(self, at: Count, document: dict[str, Any] | Prepared) -> Count:
        """Commit: write the record that follows ``at``; durable on return.

        Raises
        ------
        OSError
            If the disk is full or refuses; then nothing was committed.
        OutcomeUnknownError
            If the disk does not even let us take back what was written.
        """
        prepared = document if isinstance(document, Prepared) else Prepared(packed(document))
        data = prepared.record(at.number + 1)
        try:
            self._write(at.file, data, at.length)
        except BaseException as error:
            self._take_back(at, error)
            raise
        done = at._replace(number=at.number + 1, length=at.length + len(data))
        self._note_end(done)
        return done

    def pull(self) -> None:
        """Take over what others have committed elsewhere; nothing for a graph that is not shared."""

    def announce_format(self) -> None:
        """Say elsewhere that the graph has the present format from now on, so that older versions leave it alone."""

    def is_behind(self) -> bool:
        """Return whether others have committed elsewhere what is not here."""
        return False

    def begin_writing(self) -> str | None:
        """Say elsewhere that tensors are being written, before the first; return a mark to be taken away at the end."""
        return None

    def end_writing(self, marks: Iterable[str]) -> None:
        """Take away marks of :meth:`begin_writing`."""

    def writing(self) -> Writing | None:
        """Find out who is writing tensors elsewhere; None for a graph that is not shared."""
        return None

    @property
    def is_shared(self) -> bool:
        """Whether commits are made elsewhere, too."""
        return False

    def _note_end(self, count: Count) -> None:
        with contextlib.suppress(OSError):
            self._note(count, _END)

    def _take_back(self, at: Count, reason: BaseException) -> None:
        try:
            self._write(at.file, b"", at.length)
        except FileNotFoundError:
            pass  # there never was a place to write to
        except OSError as error:
            raise OutcomeUnknownError(
                f"{self._folder.path / at.file} could neither be written ({reason}) nor set back ({error}): whether "
                "the last commit was stored is seen when the disk works again (mgraph log, mgraph ls)."
            ) from reason

    def entries(self, count: Count, *, contents: bool = True) -> Iterator[Entry]:
        """Read the records that count, in order; without ``contents``, only their checksums are read.

        The first one always has its contents, because it states the format of the journal.

        Raises
        ------
        CorruptError
            At the first record that is missing or damaged.
        """
        path = self._folder.path / count.file
        try:
            with self._folder.reader(count.file) as raw, io.BufferedReader(raw, _BUFFER) as file:  # type: ignore[type-var]
                yield from self._entries(path, file, count, contents)
        except OSError as error:
            raise CorruptError(f"The journal {path} cannot be read ({error.strerror}).") from None

    def since(self, before: Count | int, now: Count) -> list[Entry]:
        """Read the records after a commit, or after what :meth:`count` once said, up to ``now``.

        Raises
        ------
        CorruptError
            If one is missing or damaged, or the journal was begun anew in between.
        """
        path, found = self._folder.path / now.file, []
        number = before if isinstance(before, int) else before.number
        try:
            with self._folder.reader(now.file) as raw, io.BufferedReader(raw, _BUFFER) as file:  # type: ignore[type-var]
                if isinstance(before, int):
                    place = self._place_after(file, number, now)
                else:
                    place = before.length if before.generation == now.generation else now.length
                file.seek(place)
                while place < now.length:
                    entry, length = read_record(file, now.length - place, contents=True)
                    if entry is None:
                        break
                    found.append(entry)
                    place += length
        except OSError as error:
            raise CorruptError(f"The journal {path} cannot be read ({error.strerror}).") from None
        if [e.number for e in found] != list(range(number + 1, now.number + 1)):
            raise CorruptError(f"The journal {path} lacks commits after {number}.")
        return found

    def _place_after(self, file: BinaryIO, number: int, now: Count) -> int:
        """Find where the records after a commit begin; the end if there are none."""
        noted = self.applied()
        if noted is not None and (noted.generation, noted.number) == (now.generation, number):
            return noted.length
        place = 0
        while place < now.length:  # from one to the next; what they contain is not looked at
            file.seek(place)
            begun = read_number(file)
            if begun is None or (place == 0 and begun[0] > number):  # the first has all rows, not a change
                break
            if begun[0] > number:
                return place
            place += begun[1]
        return now.length

    def _entries(self, path: Path, file: BinaryIO, count: Count, contents: bool) -> Iterator[Entry]:
        place, previous, base = 0, None, True  # at its beginning a file may have several records of one commit
        while place < count.length:
            entry, length = read_record(file, count.length - place, contents or previous is None)
            follows = entry is not None and (
                previous is None or entry.number == previous + 1 or (base and entry.number == previous)
            )
            if entry is None or not follows:
                last = "nothing before" if previous is None else f"commit {previous} is the last one before"
                raise CorruptError(f"The journal {path} is damaged at byte {place}; {last}.")
            yield entry
            base = base and previous in (None, entry.number)
            place, previous = place + length, entry.number
        if previous != count.number:
            raise CorruptError(f"The journal {path} ends with commit {previous} instead of {count.number}.")

    def _followed(self, count: Count) -> Count:
        """Add the whole records that follow; their writers, or the power, were gone before the slots said so."""
        with contextlib.suppress(OSError):
            size = self._folder.size(count.file)
            if size > count.length:
                with self._folder.reader(count.file) as raw, io.BufferedReader(raw, _BUFFER) as file:  # type: ignore[type-var]
                    file.seek(count.length)
                    base = count.number < 0
                    while True:
                        entry, length = read_record(file, size - count.length, contents=False)
                        if entry is None:
                            break
                        follows = entry.number == count.number + 1
                        if not (follows or (base and (count.number < 0 or entry.number == count.number))):
                            break
                        base = base and not (follows and count.number >= 0)
                        count = count._replace(number=entry.number, length=count.length + length)
        return count

    def _slots(self) -> _Slots:
        """Read where the journal ended, and how far the index had come; or what a former counter says."""
        try:
            data = self._folder.read(COUNTER)
        except OSError:
            return None, None, None
        slots = [_slot(data[:_PAGE]), _slot(data[_PAGE:])]
        end, applied = (count if magic == _MAGIC_SLOT else None for magic, count in slots)
        former = [count for magic, count in slots if magic == _MAGIC_FORMER and count is not None]
        return end, applied, max(former, key=lambda c: c.number, default=None)

    def _note(self, count: Count, slot: int, *, flush: bool = False) -> None:
        data = _SLOT.pack(_MAGIC_SLOT, count.number, count.generation, count.length)
        self._write(COUNTER, data + checksum_of(data), slot * _PAGE, cut=False, new=True, flush=flush)

    def _write(
        self, name: str, data: bytes, place: int, *, cut: bool = True, new: bool = False, flush: bool = True
    ) -> int:
        descriptor = self._folder.open(name, os.O_WRONLY | (os.O_CREAT if new else 0))
        try:
            view = memoryview(data)
            written = 0
            while written < len(view):
                written += os.pwrite(descriptor, view[written:], place + written)
            if cut:
                os.ftruncate(descriptor, place + len(data))
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return len(data)


def _slot(data: bytes) -> tuple[bytes, Count | None]:
    body, checksum = data[: _SLOT.size], data[_SLOT.size : _SLOT.size + CHECKSUM_BYTES]
    if len(body) < _SLOT.size or checksum_of(body) != checksum:
        return b"", None
    magic, number, generation, length = _SLOT.unpack(body)
    return magic, Count(number, generation, length)


def _is_log(name: str) -> bool:
    return _FILE.fullmatch(name) is not None
