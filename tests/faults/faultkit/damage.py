"""Damage to files: one flipped bit, a cut, a file that is gone."""

from __future__ import annotations

import random
from pathlib import Path


def flip_bit(file: Path, draw: random.Random) -> str:
    """Flip one random bit of a file; where."""
    data = bytearray(file.read_bytes())
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {place} of {len(data)} in {file.name}"


def cut(file: Path, draw: random.Random) -> str:
    """Cut a file somewhere."""
    data = file.read_bytes()
    length = draw.randrange(len(data))
    file.write_bytes(data[:length])
    return f"{file.name} cut to {length} of {len(data)} bytes"


def remove(file: Path, draw: random.Random) -> str:
    """Delete a file."""
    file.unlink()
    return f"{file.name} removed"
