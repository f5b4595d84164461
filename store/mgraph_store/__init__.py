"""Checkpoint graphs on disk: rows in one DuckDB index, numbers in Zarr arrays.

The nouns, each one row of a table (:mod:`mgraph_store.records`):

- **space**: what makes points comparable: layout, architecture, data, evaluation loss;
- **node**: one point of a space, *stored* as tensors, *derived* as a weighted sum of other nodes, or *partial*:
  a sum of which some columns are stored instead (:mod:`mgraph_store.columns`);
- **connection**: a method's result between two or more modes, with its members;
- **sweep**, **evaluation**, **edge**, **summary**, **measure**: what was measured, where, and what follows from it;
- **note**: what a person wrote about a node or a connection: a tag, or a key with a value;
- **run**: what produced all that.

:class:`GraphStore` opens a graph; ``with store.reading() as reader`` reads rows and
``with store.transaction() as tx`` writes tensors and rows, all or nothing. Layouts, records, identifiers and
errors import neither DuckDB nor Zarr, so that code which only trains needs neither of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mgraph_store import columns, errors
from mgraph_store.ids import new_id, validate_name
from mgraph_store.layout import Layout, TensorSpec
from mgraph_store.records import (
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
    from mgraph_store.check import assert_consistent, garbage, problems
    from mgraph_store.handover import Handover, WorkerStore
    from mgraph_store.kernel import KERNEL_VERSION, combine
    from mgraph_store.reader import Reader
    from mgraph_store.schema import FORMAT_VERSION, describe
    from mgraph_store.sql import Answer
    from mgraph_store.store import GraphStore
    from mgraph_store.tensors import digest, digest_groups
    from mgraph_store.transaction import TensorRef, Transaction

_LAZY = {
    "Answer": "sql",
    "FORMAT_VERSION": "schema",
    "KERNEL_VERSION": "kernel",
    "GraphStore": "store",
    "Handover": "handover",
    "Reader": "reader",
    "TensorRef": "transaction",
    "Transaction": "transaction",
    "WorkerStore": "handover",
    "assert_consistent": "check",
    "combine": "kernel",
    "describe": "schema",
    "digest": "tensors",
    "digest_groups": "tensors",
    "garbage": "check",
    "problems": "check",
}

__all__ = [
    "FORMAT_VERSION",
    "KERNEL_VERSION",
    "Answer",
    "Connection",
    "Edge",
    "Evaluation",
    "GraphStore",
    "Handover",
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
    "WorkerStore",
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
    """Import on first use what needs DuckDB or Zarr (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
