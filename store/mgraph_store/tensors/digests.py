"""Digests: what identifies the content of tensors, wherever they are stored.

A digest names its algorithm: ``sha256-`` followed by 64 hexadecimal digits. Processors with instructions for SHA-256
compute it in half the time of BLAKE2b. Digests without a name, 32 digits of BLAKE2b, are from graphs and bundles of
format 1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATTERN = re.compile(r"sha256-[0-9a-f]{64}|[0-9a-f]{32}")
"""The form of a digest."""

_PREFIX = "sha256-"


def digest(array: NDArray[Any]) -> str:
    """SHA-256 over dtype, shape and the bytes in C order, little-endian; ``sha256-`` and 64 hexadecimal digits."""
    return _of_array(array, _PREFIX)


def digest_groups(groups: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over the digests of several arrays, in the order of their names, in the same form as for one."""
    return _of_groups(groups, _PREFIX)


def digest_of_digests(digests: Mapping[str, str]) -> str:
    """SHA-256 over the digests of several arrays, by name: what :func:`digest_groups` returns for the arrays."""
    return _of_digests(digests, _PREFIX)


def same_algorithm(one: str, other: str) -> bool:
    """Return whether two digests are by the same algorithm, so that the same arrays have equal ones."""
    return _prefix(one) == _prefix(other)


def has_digest(array: NDArray[Any], expected: str | None) -> bool:
    """Return whether this is the digest of an array, by the algorithm that it names."""
    return expected is not None and _of_array(array, _prefix(expected)) == expected


def have_digest(groups: Mapping[str, NDArray[Any]], expected: str) -> bool:
    """Return whether this is the digest of several arrays, by the algorithm that it names."""
    return _of_groups(groups, _prefix(expected)) == expected


def _prefix(expected: str) -> str:
    return _PREFIX if expected.startswith(_PREFIX) else ""


_ALGORITHMS: Mapping[str, Callable[[bytes], Any]] = {
    _PREFIX: hashlib.sha256,
    "": partial(hashlib.blake2b, digest_size=16),
}


def _of_array(array: NDArray[Any], prefix: str) -> str:
    canonical = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    state = _ALGORITHMS[prefix](f"{array.dtype.name} {list(array.shape)}\n".encode())
    state.update(canonical.reshape(-1).view(np.uint8).data)
    return prefix + str(state.hexdigest())


def _of_groups(groups: Mapping[str, NDArray[Any]], prefix: str) -> str:
    return _of_digests({name: _of_array(array, prefix) for name, array in groups.items()}, prefix)


def _of_digests(digests: Mapping[str, str], prefix: str) -> str:
    text = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return prefix + str(_ALGORITHMS[prefix](text.encode()).hexdigest())
