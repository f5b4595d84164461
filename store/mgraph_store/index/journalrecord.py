"""A record of the journal in bytes: number, length, checksum, and what the commit changed, as compressed JSON."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from mgraph_store.rows.limits import UNPACKED_BYTES, UNPACKED_RATIO

CHECKSUM_BYTES = 16

_HEADER = struct.Struct("<8sQQ")  # magic, number, length
_MAGIC = b"mgcommit"


class Entry(NamedTuple):
    """One record of the journal: the number of the commit and what it changed."""

    number: int
    document: dict[str, Any]


@dataclass
class Prepared:
    """What :func:`packed` made of a document, and its record, which takes a while to make if it is long."""

    payload: bytes
    _made: tuple[int, bytes] = (-1, b"")

    def record(self, number: int) -> bytes:
        """Return the record for a commit's number; only if that is another one than before, it is made."""
        if self._made[0] != number:
            self._made = number, record(number, self.payload)
        return self._made[1]


def record_size(number: int, document: dict[str, Any]) -> int:
    """Return how many bytes the record of a commit takes."""
    return len(record(number, packed(document)))


def packed(document: dict[str, Any]) -> bytes:
    """Write a document as it is in a record: compressed JSON."""
    return zlib.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), 1)


def record(number: int, payload: bytes) -> bytes:
    """Make the record of a commit from what :func:`packed` returned."""
    header = _HEADER.pack(_MAGIC, number, len(payload))
    return header + checksum_of(header + payload) + payload


def read_record(file: BinaryIO, left: int, contents: bool) -> tuple[Entry | None, int]:
    """Read the record that begins here and return its length; None if what is left holds no complete one."""
    header = file.read(_HEADER.size)
    checksum = file.read(CHECKSUM_BYTES)
    if len(header) + len(checksum) < _HEADER.size + CHECKSUM_BYTES:
        return None, 0
    magic, number, length = _HEADER.unpack(header)
    if magic != _MAGIC or _HEADER.size + CHECKSUM_BYTES + length > left:
        return None, 0
    payload = file.read(length)
    if len(payload) != length or checksum_of(header + payload) != checksum:
        return None, 0
    document = unpacked(payload) if contents else {}
    return None if document is None else Entry(number, document), _HEADER.size + CHECKSUM_BYTES + length


def read_number(file: BinaryIO) -> tuple[int, int] | None:
    """Read only the number of the record that begins here, and return it with the record's length; None if there is
    none."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, number, length = _HEADER.unpack(header)
    return (number, _HEADER.size + CHECKSUM_BYTES + length) if magic == _MAGIC else None


def unpacked(payload: bytes) -> dict[str, Any] | None:
    """Read what :func:`packed` wrote; None if it is something else."""
    # A checksum proves nothing about the author. Data that unpack to far more than rows would are not read.
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(payload, max(UNPACKED_BYTES, UNPACKED_RATIO * len(payload)))
        document = json.loads(text) if unpacking.eof else None
    except (zlib.error, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def checksum_of(data: bytes) -> bytes:
    """Return the checksum of some bytes of a journal."""
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()
