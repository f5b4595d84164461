"""What a worker hands over: rows that are not yet committed, and the keys of their tensors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mgraph_store.rows.records import Named, Record


@dataclass(frozen=True)
class Handover:
    """Rows of ended transactions, ready to be committed, and the keys of the tensors written for them.

    If a later transaction updated a row, only its last version is here: in ``added`` if it is new, otherwise in
    ``updated``; ``since`` has what the worker knew of each of these before (:meth:`Transaction.update`). ``expected``
    are rows of the index as the first of them found it.
    """

    added: tuple[Record, ...] = ()
    updated: tuple[Named, ...] = ()
    since: tuple[Named | None, ...] = ()
    expected: tuple[Named, ...] = ()
    keys: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    """That these tensors are being written, in the log of a shared graph (:meth:`SharedLog.begin_writing`)."""

    def __bool__(self) -> bool:
        return bool(self.added or self.updated)


def merged(parts: Sequence[Handover]) -> Handover:
    """Join handovers, in order, into one whose rows are final."""
    added: dict[str, Record] = {}  # by id, or by a number if there is none
    updated: dict[str, Named] = {}
    since: dict[str, Named | None] = {}
    expected: dict[str, Named] = {}
    numbers = itertools.count()
    for part in parts:
        for record in part.added:
            added[_id_of(record) or str(next(numbers))] = record
        expected |= {r.id: r for r in part.expected if r.id not in added.keys() | updated.keys()}
        for changed, before in zip(part.updated, part.since, strict=True):
            if changed.id in added:
                added[changed.id] = changed
            else:
                updated[changed.id] = changed
                since.setdefault(changed.id, before)
    keys = tuple(dict.fromkeys(key for part in parts for key in part.keys))
    marks = tuple(mark for part in parts for mark in part.marks)
    return Handover(
        tuple(added.values()), tuple(updated.values()), tuple(since.values()), tuple(expected.values()), keys, marks
    )


def _id_of(record: Record) -> str:
    return getattr(record, "id", "")
