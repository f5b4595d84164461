"""What people write about nodes and connections: tags, and notes of a key and a value (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mgraph.errors import InputError
from mgraph_store import Connection, GraphStore, Node, Note, Reader, new_id

Subject = Node | Connection

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_LONGEST = 10_000


def labels_of(reader: Reader, subject: Subject) -> dict[str, Any]:
    """Return the ``tags`` of a node or connection, and its ``notes`` by key."""
    found = sorted(reader.all(Note, **_about(subject)), key=lambda n: n.key)
    return {
        "tags": [n.key for n in found if n.value is None],
        "notes": {n.key: n.value for n in found if n.value is not None},
    }


def set_labels(
    store: GraphStore, subject: Subject, *, notes: Mapping[str, str | None], remove: Sequence[str] = ()
) -> dict[str, Any]:
    """Write notes (a value of None: a tag), replacing those with the same keys, and remove others; return all labels.

    Raises InputError for a malformed key, a value that is not a text of at most 10 000 characters, and a key to be
    removed that does not exist; then nothing is changed.
    """
    for key, value in notes.items():
        _check(key, value)
    twice = sorted(set(notes) & set(remove))
    if twice:
        raise InputError(f"{twice[0]} is both to be written and to be removed.")
    with store.reading() as reader:
        there = {n.key: n for n in reader.all(Note, **_about(subject))}
    for key in remove:
        if key not in there:
            has = f"it has {', '.join(sorted(there))}" if there else "it has none"
            raise InputError(f"{subject.name or subject.id} has no tag or note {key!r}; {has}.")
    # An existing tag keeps its time.
    new = {k: v for k, v in notes.items() if k not in there or there[k].value != v}
    gone = [there[key].id for key in (*new, *remove) if key in there]
    with store.transaction() as tx:
        tx.remove(Note, "id", gone)
        tx.add(*[Note(new_id("n"), key, value, **_about(subject)) for key, value in new.items()])
    with store.reading() as reader:
        return labels_of(reader, subject)


def _about(subject: Subject) -> dict[str, Any]:
    return {"node_id" if isinstance(subject, Node) else "connection_id": subject.id}


def _check(key: str, value: str | None) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InputError(
            f"{key!r} is not a tag or key: a letter, then at most 63 letters, digits and any of . _ - are expected."
        )
    if value is not None and (not isinstance(value, str) or len(value) > _LONGEST):
        raise InputError(f"The note {key} is a text of at most {_LONGEST} characters.")
