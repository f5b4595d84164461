"""The tensors of a space: ordered names, shapes, dtypes and roles, and views of them in flat arrays.

Roles: ``parameter`` (trainable: the coordinates of a point), ``frozen`` (a parameter that is not trained),
``statistic`` (BatchNorm's running mean, variance and counter), ``buffer`` (every other persistent buffer).
Parameters of one node are one flat float32 array; everything else is grouped by dtype into its *buffers*.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import CorruptError
from mgraph_store.rows import columns
from mgraph_store.rows.limits import LAYOUT_ELEMENTS, LAYOUT_TENSORS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROLES = ("parameter", "frozen", "statistic", "buffer")
_LARGEST = 1 << 48  # elements of a tensor


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a layout; ``dtype`` is that of the network, e.g. float32 or int64."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(math.prod(self.shape))


@dataclass(frozen=True)
class Layout:
    """Ordered tensors of a network, with tied ones once; ``aliases`` maps a tied name to the stored one."""

    tensors: tuple[TensorSpec, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> tuple[TensorSpec, ...]:
        """The trainable tensors, in canonical order."""
        return tuple(t for t in self.tensors if t.role == "parameter")

    @cached_property
    def buffers(self) -> tuple[TensorSpec, ...]:
        """Everything that is not a coordinate, in canonical order."""
        return tuple(t for t in self.tensors if t.role != "parameter")

    @cached_property
    def size(self) -> int:
        """D, the number of trainable scalars."""
        return sum(t.size for t in self.parameters)

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b-128 of names, shapes, dtypes, roles and aliases."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """Write the layout as canonical JSON."""
        document = {
            "tensors": [asdict(t) for t in self.tensors],
            "aliases": dict(sorted(self.aliases.items())),
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what :meth:`to_json` wrote; ``CorruptError`` if it is anything else."""
        try:
            document: dict[str, Any] = json.loads(text)
            found = document["tensors"]
            tensors = tuple(TensorSpec(t["name"], tuple(t["shape"]), t["dtype"], t["role"]) for t in found)
            layout = cls(tensors, dict(document["aliases"]))
            layout._check()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptError(f"The layout of a space cannot be read ({why}): restore it from a copy.") from None
        return layout

    def _check(self) -> None:
        names = {t.name for t in self.tensors}
        for t in self.tensors:
            sizes = [n for n in t.shape if type(n) is int and 0 <= n < _LARGEST]
            if len(sizes) != len(t.shape) or math.prod(sizes) >= _LARGEST:
                raise ValueError(f"{t.name!r} has shape {list(t.shape)}")
            if t.role not in ROLES or not isinstance(t.name, str) or not isinstance(t.dtype, str):
                raise ValueError(f"{t.name!r} has dtype {t.dtype!r} and role {t.role!r}")
        if len(self.tensors) > LAYOUT_TENSORS:
            raise ValueError(f"it has {len(self.tensors)} tensors, of at most {LAYOUT_TENSORS}")
        elements = sum(math.prod(t.shape) for t in self.tensors)
        if elements > LAYOUT_ELEMENTS:
            raise ValueError(f"its tensors have {elements} elements, of at most {LAYOUT_ELEMENTS}")
        if len(names) != len(self.tensors):
            raise ValueError("two tensors have the same name")
        if not all(isinstance(k, str) and v in names for k, v in self.aliases.items()):
            raise ValueError("an alias leads nowhere")

    def columns(self, names: Collection[str]) -> columns.Ranges:
        """Return the columns of these trainable tensors in an array of shape (D,); ``InputError`` if there are none."""
        ranges, offset = [], 0
        for t in self.parameters:
            if t.name in names:
                ranges.append((offset, offset + t.size))
            offset += t.size
        return columns.merge(ranges)

    def parameter_views(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Map each trainable name to its view of ``flat``, shape (D,)."""
        return _views(self.parameters, flat)

    def buffer_views(self, groups: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Map each buffer's name to its view of the flat array of its dtype group."""
        views: dict[str, NDArray[Any]] = {}
        for dtype, flat in groups.items():
            views |= _views([t for t in self.buffers if storage_dtype(t.dtype) == dtype], flat)
        return {t.name: views[t.name] for t in self.buffers}

    def pack_parameters(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Concatenate the trainable tensors into one float32 array of shape (D,)."""
        import numpy as np

        if not self.parameters:
            return np.empty(0, np.float32)
        return np.concatenate([np.asarray(tensors[t.name], np.float32).reshape(-1) for t in self.parameters])

    def pack_buffers(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Concatenate the other tensors, one array per stored dtype; empty groups are left out."""
        import numpy as np

        groups: dict[str, list[NDArray[Any]]] = {}
        for t in self.buffers:
            dtype = storage_dtype(t.dtype)
            groups.setdefault(dtype, []).append(np.asarray(tensors[t.name]).astype(dtype).reshape(-1))
        return {dtype: np.concatenate(parts) for dtype, parts in groups.items()}

    def first_difference(self, other: Layout) -> str | None:
        """Return where two layouts first differ, or None if they agree."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=False):
            if mine != theirs:
                return f"{_describe(mine)} against {_describe(theirs)}"
        longer = max(self.tensors, other.tensors, key=len)
        shorter = min(len(self.tensors), len(other.tensors))
        if len(longer) > shorter:
            return f"{_describe(longer[shorter])}, which only one of them has"
        if dict(self.aliases) != dict(other.aliases):
            return "tied tensors: " + ", ".join(sorted(set(self.aliases) ^ set(other.aliases)))
        return None


def storage_dtype(dtype: str) -> str:
    """Return the dtype in which a tensor is stored: floats as float32 (float64 stays), the rest as int64."""
    if dtype == "float64":
        return "float64"
    return "float32" if dtype.startswith(("float", "bfloat")) else "int64"


def _views(tensors: Any, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
    views, offset = {}, 0
    for t in tensors:
        views[t.name] = flat[offset : offset + t.size].reshape(t.shape)
        offset += t.size
    if offset != flat.shape[0]:
        raise ValueError(f"flat array has {flat.shape[0]} elements, the layout {offset}")
    return views


def _describe(t: TensorSpec) -> str:
    return f"{t.name} {list(t.shape)} {t.dtype} ({t.role})"
