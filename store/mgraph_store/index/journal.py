"""The journal: every commit a second time, in our own files beside the index, so that no loss there goes unnoticed.

DuckDB silently drops the tail of a damaged write-ahead log, and an index restored from an older copy looks like any
other. Therefore a commit writes three things, each on the disk before the next begins:

1. its *record* at the end of the journal: what it changes, with a checksum;
2. the DuckDB transaction, in which ``meta.commits`` becomes the number of the commit;
3. the *counter*: that number, and where the journal ends now.

An index that is behind the counter has lost commits, and the journal has their rows. An index that is ahead by
one was stopped between 2 and 3; its record is at the end of the journal, and the next writer counts it. A record
without a commit is overwritten by the next one. If index and journal do not fit each other in any other way, the
next writer starts a new journal with all rows of the index as its first record; likewise if the file is gone, or
shorter than the counter says.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from mgraph_store.errors import CorruptError
from mgraph_store.folder import Folder
from mgraph_store.rows.limits import UNPACKED_BYTES, UNPACKED_RATIO

COUNTER = "count"
_PAGE = 4096  # bytes between the two slots of the counter, so that no torn write reaches both
_SLOT = struct.Struct("<8sQQQ")  # magic, number, generation, length; then the checksum
_RECORD = struct.Struct("<8sQQ")  # magic, number, length; then the checksum, then the compressed JSON
_MAGIC_SLOT, _MAGIC_RECORD = b"mgcount1", b"mgcommit"
_CHECKSUM = 16
_BUFFER = 1 << 20
_FILE = re.compile(r"[0-9a-f]{16}\.log")


@dataclass(frozen=True)
class Count:
    """What the counter says: the number of commits, which journal file counts, and where it ends."""

    number: int
    generation: int
    length: int

    @property
    def file(self) -> str:
        """Name of the journal file."""
        return f"{self.generation:016x}.log"


@dataclass(frozen=True)
class Entry:
    """One record of the journal: the number of the commit and what it changed."""

    number: int
    document: dict[str, Any]


class Journal:
    """The counter and the journal file below one directory. Writers hold the exclusive lock."""

    def __init__(self, directory: Folder | Path) -> None:
        self._folder = Folder.at(directory)

    def count(self) -> Count | None:
        """Read the counter: the newer of its two slots; None if it is missing or neither can be read."""
        return max((c for c in self._slots() if c is not None), key=lambda c: c.number, default=None)

    def reaches(self, count: Count) -> bool:
        """Return whether the journal file exists and has the length that the counter says."""
        try:
            return self._folder.size(count.file) >= count.length
        except OSError:
            return False

    def begin(self, number: int, documents: Iterable[dict[str, Any]]) -> Count:
        """Start a new journal with records of everything, in as many parts as given; durable on return.

        The old one counts until the counter is written, and is then deleted.
        """
        return self.adopt(self.draft(number, documents))

    def draft(self, number: int, documents: Iterable[dict[str, Any]]) -> Count:
        """Write a journal that does not count yet (see :meth:`adopt`); durable on return.

        Raises FileNotFoundError if another one is adopted meanwhile, which deletes this one.
        """
        with self._folder.opened(create=True):
            pass
        count = Count(number, secrets.randbits(64), 0)
        length = 0
        try:
            for document in documents:
                length += self._write(
                    count.file, _record(number, packed(document)), length, new=length == 0, flush=False
                )
        except BaseException:
            self._folder.unlink(count.file)
            raise
        self._folder.flush(count.file)
        self._folder.flush()  # the file must have its name before the counter refers to it
        return replace(count, length=length)

    def follow(self, draft: Count, since: Count, now: Count) -> Count:
        """Append to a draft, made at ``since``, the records that the current journal received up to ``now``."""
        with self._folder.reader(now.file) as file:
            file.seek(since.length)
            data = file.read(now.length - since.length)
        self._write(draft.file, data, draft.length)
        return replace(draft, number=now.number, length=draft.length + len(data))

    def adopt(self, draft: Count) -> Count:
        """Make a draft the journal from now on, under the exclusive lock, and delete the others."""
        for slot in (0, 1):  # both, one after another, so that neither still names a file about to be deleted
            self._seal(draft, slot)
        self._folder.flush()
        self._folder.above().flush()
        for name in self._folder.entries():
            if _FILE.fullmatch(name) and name != draft.file:
                self._folder.unlink(name)
        return draft

    def forget(self, draft: Count) -> None:
        """Delete a draft that will not be adopted."""
        self._folder.unlink(draft.file)

    def prepare(self, count: Count, document: dict[str, Any] | bytes) -> Count:
        """Write the record of the next commit after those that count, or what :func:`packed` made of it; durable on
        return.

        Raises
        ------
        OSError
            If the disk is full or refuses.
        """
        data = _record(count.number + 1, packed(document) if isinstance(document, dict) else document)
        self._write(count.file, data, count.length)
        return replace(count, number=count.number + 1, length=count.length + len(data))

    def prepared(self, count: Count) -> Count | None:
        """Find the record after those that count, if it is complete: that of a commit that was not counted."""
        with contextlib.suppress(OSError), self._folder.reader(count.file) as file:
            file.seek(count.length)
            rest = file.read()
            entry, length = _next(io.BytesIO(rest), len(rest), contents=True)
            if entry is not None and entry.number == count.number + 1:
                return replace(count, number=entry.number, length=count.length + length)
        return None

    def seal(self, count: Count) -> None:
        """Write the counter, over the older of its slots; durable on return."""
        first, second = (-1 if c is None else c.number for c in self._slots())
        self._seal(count, 0 if first <= second else 1)

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

    def since(self, before: Count, now: Count) -> list[Entry]:
        """Read the records between two states of the counter, of one journal file.

        Raises
        ------
        CorruptError
            If one is missing or damaged, or the journal was begun anew in between.
        """
        path, found, place = self._folder.path / now.file, [], before.length
        try:
            with self._folder.reader(now.file) as file:
                file.seek(place)
                while before.generation == now.generation and place < now.length:
                    entry, length = _next(file, now.length - place, contents=True)
                    if entry is None:
                        break
                    found.append(entry)
                    place += length
        except OSError as error:
            raise CorruptError(f"The journal {path} cannot be read ({error.strerror}).") from None
        if [e.number for e in found] != list(range(before.number + 1, now.number + 1)):
            raise CorruptError(f"The journal {path} lacks commits after {before.number}.")
        return found

    def _entries(self, path: Path, file: BinaryIO, count: Count, contents: bool) -> Iterator[Entry]:
        place, previous, base = 0, None, True  # at its beginning a file may have several records of one commit
        while place < count.length:
            entry, length = _next(file, count.length - place, contents or previous is None)
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

    def _slots(self) -> tuple[Count | None, Count | None]:
        try:
            data = self._folder.read(COUNTER)
        except OSError:
            return None, None
        return _slot(data[:_PAGE]), _slot(data[_PAGE:])

    def _seal(self, count: Count, slot: int) -> None:
        data = _SLOT.pack(_MAGIC_SLOT, count.number, count.generation, count.length)
        self._write(COUNTER, (data + _checksum(data)).ljust(_PAGE, b"\0"), slot * _PAGE, cut=False, new=True)

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


def record_size(number: int, document: dict[str, Any]) -> int:
    """Return how many bytes the record of a commit takes."""
    return len(_record(number, packed(document)))


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM).digest()


def _slot(data: bytes) -> Count | None:
    body, checksum = data[: _SLOT.size], data[_SLOT.size : _SLOT.size + _CHECKSUM]
    if len(body) < _SLOT.size or _checksum(body) != checksum:
        return None
    _, number, generation, length = _SLOT.unpack(body)
    return Count(number, generation, length)


def packed(document: dict[str, Any]) -> bytes:
    """Write a document as it is in a record: compressed JSON."""
    return zlib.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), 1)


def _record(number: int, payload: bytes) -> bytes:
    header = _RECORD.pack(_MAGIC_RECORD, number, len(payload))
    return header + _checksum(header + payload) + payload


def _next(file: BinaryIO, left: int, contents: bool) -> tuple[Entry | None, int]:
    """Read the record that begins here and return its length; None if what is left holds no complete one."""
    header = file.read(_RECORD.size)
    checksum = file.read(_CHECKSUM)
    if len(header) + len(checksum) < _RECORD.size + _CHECKSUM:
        return None, 0
    magic, number, length = _RECORD.unpack(header)
    if magic != _MAGIC_RECORD or _RECORD.size + _CHECKSUM + length > left:
        return None, 0
    payload = file.read(length)
    if len(payload) != length or _checksum(header + payload) != checksum:
        return None, 0
    document = _unpacked(payload) if contents else {}
    return None if document is None else Entry(number, document), _RECORD.size + _CHECKSUM + length


def _unpacked(payload: bytes) -> dict[str, Any] | None:
    # A checksum proves nothing about the author. Data that unpack to far more than rows would are not read.
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(payload, max(UNPACKED_BYTES, UNPACKED_RATIO * len(payload)))
        document = json.loads(text) if unpacking.eof else None
    except (zlib.error, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
