"""Checkpoint graphs on disk: rows in one DuckDB index, numbers in Zarr arrays.

The nouns, each one row of a table (:mod:`mgraph_store.rows.records`):

- **space**: what makes points comparable: layout, architecture, data, evaluation loss;
- **node**: one point of a space, *stored* as tensors, *derived* as a weighted sum of other nodes, or *partial*:
  a sum of which some columns are stored instead (:mod:`mgraph_store.rows.columns`);
- **connection**: a method's result between two or more modes, with its members;
- **sweep**, **evaluation**, **edge**, **summary**, **measure**: what was measured, where, and what was derived from it;
- **note**: what a person wrote about a node or a connection: a tag, or a key with a value;
- **run**: what produced all that.

:class:`GraphStore` opens a graph; ``with store.reading() as reader`` reads rows and ``with store.transaction() as tx``
writes tensors and rows, all or nothing. From the bottom up: *rows* (what they are), *tensors* (objects of arrays, and
sums of them), the *index* (DuckDB, its journal and lock), then transactions and the store; *upkeep* (check, repair,
removal) and *exchange* (bundles) use all of these. Layouts, records, identifiers and errors import neither DuckDB nor
Zarr, so code that only trains needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mgraph_store import errors
from mgraph_store.rows import columns
from mgraph_store.rows.ids import new_id, validate_name
from mgraph_store.rows.layout import Layout, TensorSpec
from mgraph_store.rows.records import (
    Connection,
    Edge,
    Evaluation,
    Measure,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Note,
    Record,
    Run,
    Series,
    Space,
    Summary,
    Sweep,
)

if TYPE_CHECKING:
    from mgraph_store.index.reader import Reader
    from mgraph_store.index.sql import Answer
    from mgraph_store.rows.schema import FORMAT_VERSION, describe
    from mgraph_store.store import GraphStore
    from mgraph_store.tensors.digests import digest, digest_groups
    from mgraph_store.tensors.kernel import KERNEL_VERSION, combine
    from mgraph_store.transaction import TensorRef, Transaction
    from mgraph_store.upkeep.check import assert_consistent, garbage, problems

_LAZY = {
    "Answer": "index.sql",
    "FORMAT_VERSION": "rows.schema",
    "KERNEL_VERSION": "tensors.kernel",
    "GraphStore": "store",
    "Reader": "index.reader",
    "TensorRef": "transaction",
    "Transaction": "transaction",
    "assert_consistent": "upkeep.check",
    "combine": "tensors.kernel",
    "describe": "rows.schema",
    "digest": "tensors.digests",
    "digest_groups": "tensors.digests",
    "garbage": "upkeep.check",
    "problems": "upkeep.check",
}

__all__ = [
    "FORMAT_VERSION",
    "KERNEL_VERSION",
    "Answer",
    "Connection",
    "Edge",
    "Evaluation",
    "GraphStore",
    "Layout",
    "Measure",
    "Member",
    "Node",
    "NodeBuffers",
    "NodeTerm",
    "Note",
    "Reader",
    "Record",
    "Run",
    "Series",
    "Space",
    "Summary",
    "Sweep",
    "TensorRef",
    "TensorSpec",
    "Transaction",
    "assert_consistent",
    "columns",
    "combine",
    "describe",
    "digest",
    "digest_groups",
    "errors",
    "garbage",
    "new_id",
    "problems",
    "validate_name",
]


def __getattr__(name: str) -> Any:
    """Import what needs DuckDB or Zarr on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
