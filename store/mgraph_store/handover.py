"""What a worker hands over: rows that are not yet committed, and the keys of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgraph_store.rows.records import Record


@dataclass(frozen=True)
class Handover:
    """Rows of ended transactions, ready to be committed, and the keys of the tensors written for them.

    If a later transaction updated a row, only its last version is here: in ``added`` if it is new, otherwise in
    ``updated``. ``expected`` are rows of the index as the first of them found it.
    """

    added: tuple[Record, ...] = ()
    updated: tuple[Record, ...] = ()
    expected: tuple[Record, ...] = ()
    keys: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated)


def merged(parts: Sequence[Handover]) -> Handover:
    """Join handovers, in order, into one whose rows are final."""
    added: dict[str, Record] = {}  # by id, or by number if there is none
    updated: dict[str, Record] = {}
    expected: dict[str, Record] = {}
    for part in parts:
        added |= {_id_of(record) or str(len(added) + i): record for i, record in enumerate(part.added)}
        expected |= {i: r for r in part.expected if (i := _id_of(r)) not in added.keys() | updated.keys()}
        for record in part.updated:
            (added if _id_of(record) in added else updated)[_id_of(record)] = record
    keys = tuple(key for part in parts for key in part.keys)
    return Handover(tuple(added.values()), tuple(updated.values()), tuple(expected.values()), keys)


def _id_of(record: Record) -> str:
    return getattr(record, "id", "")
