"""The journal: every commit a second time, in our own files beside the index, so that no loss there goes unnoticed.

DuckDB silently drops the tail of a damaged write-ahead log, and an index restored from an older copy looks like any
other. Therefore a commit writes three things, each on the disk before the next begins:

1. its *record* at the end of the journal: what it changes, with a checksum;
2. the DuckDB transaction, in which ``meta.commits`` becomes the number of the commit;
3. the *counter*: that number, and where the journal ends now.

An index that is behind the counter has lost commits, and the journal has their rows. An index that is ahead by one was
stopped between 2 and 3; its record is at the end of the journal, and the next writer counts it. A record without a
commit is overwritten by the next one. If index and journal disagree in any other way, or the file is gone or shorter
than the counter says, the next writer starts a new journal with all rows of the index as its first record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgraph_store.errors import CorruptError
from mgraph_store.folder import Folder
from mgraph_store.rows.limits import UNPACKED_BYTES, UNPACKED_RATIO

COUNTER = "count"
_PAGE = 4096  # bytes between the two slots of the counter, so that no torn write reaches both
_SLOT = struct.Struct("<8sQQQ")  # magic, number, generation, length; then the checksum
_RECORD = struct.Struct("<8sQQ")  # magic, number, length; then the checksum, then the compressed JSON
_MAGIC_SLOT, _MAGIC_RECORD = b"mgcount1", b"mgcommit"
_CHECKSUM = 16
_FILE = re.compile(r"[0-9a-f]{16}\.log")


@dataclass(frozen=True)
class Count:
    """What the counter says: how many commits there were, which journal file counts, and where it ends."""

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
        """Return whether the journal file is there and has the length that the counter says."""
        try:
            return self._folder.size(count.file) >= count.length
        except OSError:
            return False

    def begin(self, number: int, document: dict[str, Any]) -> Count:
        """Start a new journal with a record of everything; durable on return.

        The old one counts until the counter is written, and is then deleted.
        """
        with self._folder.opened(create=True):
            pass
        data = _packed(number, document)
        count = Count(number, secrets.randbits(64), len(data))
        self._write(count.file, data, 0, new=True)
        self._folder.flush()  # the file has its name before the counter says so
        for slot in (0, 1):  # both, one after the other, so that none names a file about to be deleted
            self._seal(count, slot)
        self._folder.flush()
        self._folder.above().flush()
        for name in self._folder.entries():
            if _FILE.fullmatch(name) and name != count.file:
                self._folder.unlink(name)
        return count

    def prepare(self, count: Count, document: dict[str, Any]) -> Count:
        """Write the record of the next commit after those that count; durable on return.

        Raises
        ------
        OSError
            If the disk is full or refuses.
        """
        data = _packed(count.number + 1, document)
        self._write(count.file, data, count.length)
        return replace(count, number=count.number + 1, length=count.length + len(data))

    def prepared(self, count: Count) -> Count | None:
        """Find the record after those that count, if it is whole: that of a commit that was not counted."""
        with contextlib.suppress(OSError), self._folder.reader(count.file) as file:
            file.seek(count.length)
            entry, length = _read(file.read(), 0)
            if entry is not None and entry.number == count.number + 1:
                return replace(count, number=entry.number, length=count.length + length)
        return None

    def seal(self, count: Count) -> None:
        """Write the counter, over the older of its slots; durable on return."""
        first, second = (-1 if c is None else c.number for c in self._slots())
        self._seal(count, 0 if first <= second else 1)

    def entries(self, count: Count) -> Iterator[Entry]:
        """Read the records that count, in order.

        Raises
        ------
        CorruptError
            At the first record that is missing or damaged.
        """
        path = self._folder.path / count.file
        try:
            data = self._folder.read(count.file)[: count.length]
        except OSError as error:
            raise CorruptError(f"The journal {path} cannot be read ({error.strerror}).") from None
        place, previous = 0, None
        while place < count.length:
            entry, length = _read(data, place)
            if entry is None or (previous is not None and entry.number != previous + 1):
                last = "nothing before" if previous is None else f"commit {previous} is the last one before"
                raise CorruptError(f"The journal {path} is damaged at byte {place}; {last}.")
            yield entry
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

    def _write(self, name: str, data: bytes, place: int, *, cut: bool = True, new: bool = False) -> None:
        descriptor = self._folder.open(name, os.O_WRONLY | (os.O_CREAT if new else 0))
        try:
            view = memoryview(data)
            written = 0
            while written < len(view):
                written += os.pwrite(descriptor, view[written:], place + written)
            if cut:
                os.ftruncate(descriptor, place + len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def record_size(number: int, document: dict[str, Any]) -> int:
    """Return how many bytes the record of a commit takes."""
    return len(_packed(number, document))


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM).digest()


def _slot(data: bytes) -> Count | None:
    body, checksum = data[: _SLOT.size], data[_SLOT.size : _SLOT.size + _CHECKSUM]
    if len(body) < _SLOT.size or _checksum(body) != checksum:
        return None
    _, number, generation, length = _SLOT.unpack(body)
    return Count(number, generation, length)


def _packed(number: int, document: dict[str, Any]) -> bytes:
    payload = zlib.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), 1)
    header = _RECORD.pack(_MAGIC_RECORD, number, len(payload))
    return header + _checksum(header + payload) + payload


def _read(data: bytes, place: int) -> tuple[Entry | None, int]:
    # The record at this place and its length; None if there is no whole one.
    start = place + _RECORD.size + _CHECKSUM
    if len(data) < start:
        return None, 0
    header = data[place : place + _RECORD.size]
    magic, number, length = _RECORD.unpack(header)
    payload = data[start : start + length]
    checksum = data[place + _RECORD.size : start]
    if magic != _MAGIC_RECORD or len(payload) != length or _checksum(header + payload) != checksum:
        return None, 0
    # A checksum proves nothing, since anybody can write one. What unpacks to far more than rows do is not read.
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(payload, max(UNPACKED_BYTES, UNPACKED_RATIO * length))
        document = json.loads(text) if unpacking.eof else None
    except (zlib.error, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return None, 0
    return Entry(number, document), start + length - place
