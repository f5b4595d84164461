"""A log that several machines share: numbered records at a URL or in a directory, each put only if its number is free.

A record carries a random id and the id of the record before it. Whoever comes second at a number finds the record of
the first there, takes it in, and tries the next number, so the log is the same for everybody, and each number has
exactly one owner. No clock is read.

- At a URL, a record is an object put with ``If-None-Match`` (:meth:`ObjectStorage.put_new`). An answer that was lost
  looks like a conflict: then the record is read back, and its id tells whose it is.
- In a directory, a record is written and flushed under a temporary name, linked to its own, which fails if that is
  taken, and the directory is flushed. A file system without hard links is refused.

The chain of ids tells a log that was emptied, replaced or restored from an older copy: then no record follows, or the
one that does follows another one than ours. A snapshot is what its maker made of the records up to one of them, so that
a new machine need not read them all. Records of a log in use are never deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.rows.ids import random_characters

if TYPE_CHECKING:
    from mgraph_store.objectstorage import ObjectStorage

_HEADER = struct.Struct("<8sQ16s16sQ")  # magic, number, id, id of the one before, length; then checksum, then payload
_RECORD, _SNAPSHOT = b"mglogrec", b"mglogsna"
_CHECKSUM = 16
_WRITING = "writing"
_SHOWN = 200  # characters of what a mark says
_WIDTH = 16  # records that are read at the same time
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Position:
    """A record's number, from 1 on, and its id; :data:`START` before the first."""

    number: int
    id: bytes


START = Position(0, bytes(16))


@dataclass(frozen=True)
class LogRecord:
    """A record: where it is, the id of the one before it, and what it carries."""

    position: Position
    before: bytes
    payload: bytes


@dataclass(frozen=True)
class Writing:
    """What :meth:`SharedLog.writing` finds: the time at the place, when the oldest of the marks was put, all marks, and
    who put the oldest, if there is one. Times are in seconds since 1970."""

    now: float
    oldest: float
    marks: tuple[str, ...]
    who: str | None

    def age(self, written: float) -> float:
        """Return the age in seconds of a tensor object, or -1 if it may belong to somebody who is still writing."""
        return -1.0 if written >= self.oldest else self.now - written


class Place(Protocol):
    """Where a log is. Names are relative, with ``/``."""

    def read(self, name: str) -> bytes:
        """Read what is there; ``FileNotFoundError`` if there is nothing."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Put it, whole and durable, if there is nothing of this name; return whether it is now ours."""

    def put(self, name: str, data: bytes) -> None:
        """Put it, over what is there; nobody relies on it after a power cut."""

    def delete(self, name: str) -> None:
        """Delete it, if it is there."""

    def written_in(self, folder: str) -> dict[str, float]:
        """Map the names in a folder to when each was written, in seconds since 1970 by the clock of the place."""

    def settle(self, folder: str) -> None:
        """Make sure that what was read there survives a power cut."""


class SharedLog:
    """The log at a place; safe to use from threads and processes."""

    name: str
    """Where it is."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self.name = place, name

    @classmethod
    def at(cls, place: str | Path) -> SharedLog:
        """Open the log at a URL (``s3://bucket/path``), or in a directory, which must exist; it may be empty.

        Raises
        ------
        InputError
            If there is no such directory, or the URL is of an unknown kind.
        """
        if isinstance(place, str) and "://" in place:
            from mgraph_store.objectstorage import ObjectStorage

            return cls(_AtURL(ObjectStorage(place)), place)
        if not Path(place).is_dir():
            raise InputError(f"There is no directory {place} for a shared log: make it first.")
        return cls(_InDirectory(Path(place)), str(place))

    def append(self, payload: bytes, after: Position) -> Position | None:
        """Put the record after ``after``, durably; return its position, or None if that number belongs to another one.

        ``after`` is the last record that :meth:`since` gave. After None, read on with it, see whether what is to be
        written still holds, and try again.

        Raises
        ------
        StoreError
            If the place cannot be reached or written, in which case the record may be there or not, or does not
            support exclusive creation.
        """
        position = Position(after.number + 1, secrets.token_bytes(16))
        data = _packed(_RECORD, position, after.id, payload)
        return position if self._place.put_new(_name("records", position.number), data) else None

    def since(self, after: Position = START) -> Iterator[LogRecord]:
        """Read the records after one, in order, up to the last one there is; at most sixteen are in memory.

        Raises
        ------
        CorruptError
            If a record is damaged or does not follow the one before, or ``after`` is not in this log.
        """
        last, width, ended = after, 1, False
        while not ended:
            found = self._records(last.number + 1, width)
            ended, width = len(found) < width, min(2 * width, _WIDTH)
            if found:
                self._place.settle("records")
            for record in found:
                if record.before != last.id:
                    raise self._other(last)
                last = record.position
                yield record
        if last == after != START:
            held = self._record(after.number)
            if held is None or held.position != after:
                raise self._other(after)

    def position(self, number: int) -> Position:
        """Return the position of a record; CorruptError if there is none."""
        held = self._record(number)
        if held is None:
            raise CorruptError(
                f"The shared log at {self.name} has no record {number}, which this machine has: it was emptied, or "
                "restored from an older copy."
            )
        return held.position

    def put_snapshot(self, payload: bytes, at: Position) -> bool:
        """Put what was made of the records up to ``at``; False if there is another snapshot of it. Errors as for
        :meth:`append`."""
        return self._place.put_new(
            _name("snapshots", at.number), _packed(_SNAPSHOT, at, secrets.token_bytes(16), payload)
        )

    def snapshot(self) -> tuple[Position, bytes] | None:
        """Read the newest snapshot that is whole and of a record of this log; None if there is none."""
        for name in sorted(self._place.written_in("snapshots"), reverse=True):
            with contextlib.suppress(FileNotFoundError, CorruptError, ValueError):
                made = _unpacked(_SNAPSHOT, self._place.read(f"snapshots/{name}"), int(name), self.name)
                held = self._record(made.position.number)
                if held is not None and held.position == made.position:
                    return made.position, made.payload
        return None

    def delete(self) -> None:
        """Delete the whole log, which must have just been made: whoever knows it finds it emptied."""
        for folder in ("snapshots", _WRITING, "records"):
            for name in self._place.written_in(folder):
                self._place.delete(f"{folder}/{name}")

    def begin_writing(self) -> str:
        """Put a mark, which says that tensors are being written whose rows will be committed; return it.

        It stays until :meth:`end_writing`, also if its process dies.
        """
        mark = random_characters(12)
        self._place.put(f"{_WRITING}/{mark}", f"process {os.getpid()} on {socket.gethostname()}".encode())
        return mark

    def end_writing(self, marks: Iterable[str]) -> None:
        """Take marks away."""
        for mark in marks:
            self._place.delete(f"{_WRITING}/{mark}")

    def writing(self) -> Writing:
        """Find out since when somebody has been writing, by the clock of the place."""
        own = self.begin_writing()
        try:
            marks = self._place.written_in(_WRITING)
            now = marks.pop(own)
        finally:
            self.end_writing([own])
        oldest = min(marks, key=lambda mark: marks[mark], default=None)
        if oldest is None:
            return Writing(now, now, tuple(marks), None)
        who = "somebody"
        with contextlib.suppress(FileNotFoundError):
            who = self._place.read(f"{_WRITING}/{oldest}").decode(errors="replace")[:_SHOWN]
        return Writing(now, marks[oldest], tuple(marks), who)

    def _records(self, first: int, count: int) -> list[LogRecord]:
        numbers = range(first, first + count)
        if count == 1:
            read = [self._record(first)]
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(count) as pool:
                read = list(pool.map(self._record, numbers))
        found = []
        for record in read:
            if record is None:  # one behind it may have been put while we read
                break
            found.append(record)
        return found

    def _record(self, number: int) -> LogRecord | None:
        try:
            data = self._place.read(_name("records", number))
        except FileNotFoundError:
            return None
        return _unpacked(_RECORD, data, number, self.name)

    def _other(self, last: Position) -> CorruptError:
        return CorruptError(
            f"The shared log at {self.name} does not continue record {last.number} as this machine knows it: it was "
            "emptied, or restored from an older copy."
        )


class _AtURL:
    """A place below a URL."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def read(self, name: str) -> bytes:
        return self._storage.read(name)

    def put_new(self, name: str, data: bytes) -> bool:
        return self._storage.put_new(name, data)

    def put(self, name: str, data: bytes) -> None:
        self._storage.put(name, data)

    def delete(self, name: str) -> None:
        self._storage.delete([name])

    def written_in(self, folder: str) -> dict[str, float]:
        return {found.name.rpartition("/")[2]: found.written for found in self._storage.find(folder)}

    def settle(self, folder: str) -> None:
        """Do nothing: what a service shows, it keeps."""


class _InDirectory:
    """A place in a directory that several machines may have mounted."""

    def __init__(self, path: Path) -> None:
        self._folder = Folder(path)

    def read(self, name: str) -> bytes:
        folder, _, own = name.rpartition("/")
        with self._translated("read"):
            return self._folder.sub(folder).read(own)

    def put_new(self, name: str, data: bytes) -> bool:
        place, _, own = name.rpartition("/")
        folder, temporary = self._folder.sub(place), f".{own}.{random_characters(12)}"
        with self._translated("write"), folder.opened(create=True) as descriptor:
            folder.write(temporary, data)
            folder.flush(temporary)
            try:
                os.link(temporary, own, src_dir_fd=descriptor, dst_dir_fd=descriptor, follow_symlinks=False)
                won = True
            except FileExistsError:  # on NFS also if the answer to our own link was lost
                won = folder.read(own) == data
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise StoreError(
                    f"The file system of {folder.path} has no hard links, which a shared log needs: choose another."
                ) from None
            finally:
                folder.unlink(temporary)
            folder.flush()
            self._folder.flush()
        return won

    def put(self, name: str, data: bytes) -> None:
        place, _, own = name.rpartition("/")
        with self._translated("write"), self._folder.sub(place).opened(create=True):
            self._folder.sub(place).write(own, data)

    def delete(self, name: str) -> None:
        place, _, own = name.rpartition("/")
        with self._translated("write"):
            self._folder.sub(place).unlink(own)

    def written_in(self, folder: str) -> dict[str, float]:
        found, place = {}, self._folder.sub(folder)
        with self._translated("read"):
            for name in place.entries():
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    if not name.startswith("."):
                        found[name] = place.status(name).st_mtime
        return found

    def settle(self, folder: str) -> None:
        # Its writer may have been stopped between the link and its own flush.
        with self._translated("read"):
            self._folder.sub(folder).flush()

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if what == "read":
                raise
            raise StoreError(f"Cannot {what} the shared log in {self._folder.path} ({error.strerror}).") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(f"Cannot {what} the shared log in {self._folder.path} ({reason}).") from error


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:012}"


def _packed(magic: bytes, position: Position, before: bytes, payload: bytes) -> bytes:
    header = _HEADER.pack(magic, position.number, position.id, before, len(payload))
    return header + _checksum(header + payload) + payload


def _unpacked(magic: bytes, data: bytes, number: int, place: str) -> LogRecord:
    header, checksum = data[: _HEADER.size], data[_HEADER.size : _HEADER.size + _CHECKSUM]
    payload = data[_HEADER.size + _CHECKSUM :]
    if len(header) == _HEADER.size and _checksum(header + payload) == checksum:
        found, own, identity, before, length = _HEADER.unpack(header)
        if (found, own, length) == (magic, number, len(payload)):
            return LogRecord(Position(own, identity), before, payload)
    raise CorruptError(f"Record {number} of the shared log at {place} is damaged: restore it from a copy.")


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM).digest()
