"""Parts of a graph for other graphs: packing and unpacking bundles (no torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgraph.errors import InputError, NameTakenError
from mgraph.factories import names_code
from mgraph.families.own import own_families
from mgraph.query.sweepdata import family_of
from mgraph_store import Connection, GraphStore, Node, Space

SUFFIX = ".mgraph.zip"


@dataclass(frozen=True)
class Arrived:
    """What a bundle added: rows of new nodes and connections, how much already existed, new names, and notes."""

    new: list[dict[str, Any]]
    present: list[str]
    renamed: dict[str, str]
    notes: list[str]


def pack(store: GraphStore, things: Sequence[Node | Connection], path: Path, *, overwrite: bool) -> dict[str, Any]:
    """Write nodes and connections with all that they need into one file; return a row describing its contents."""
    if not path.name.endswith(".zip"):
        raise InputError(f"{path.name} must end in .zip, best in {SUFFIX}.")
    from mgraph_store.exchange.bundle import pack

    packed = pack(store, [thing.id for thing in things], path, overwrite=overwrite)
    return {"output": str(path), "nbytes": packed.nbytes, **packed.counts}


def unpack(store: GraphStore, path: Path, *, prefix: str = "") -> Arrived:
    """Add the contents of a bundle to a graph, and describe them."""
    from mgraph_store.exchange.arrival import unpack

    done = unpack(store, path, prefix=prefix, check=_check)
    with store.reading() as reader:
        nodes = reader.all(Node, id=done.nodes) if done.nodes else []
        connections = reader.all(Connection, id=done.connections) if done.connections else []
        spaces = reader.all(Space, id=done.spaces) if done.spaces else []
    things: list[Node | Connection] = [*nodes, *connections]
    rows = [{"id": r.id, "kind": r.kind, "name": r.name} for r in things if _is_shown(r)]
    notes = [f"{old} is called {new} here, as the name was taken" for old, new in done.renamed.items() if not prefix]
    for space in spaces:
        notes.append(f"space {space.name} is new: {space.arch} on {space.data}")
        if any(names_code(text) for text in (space.arch, space.data, space.loss)):
            notes.append(
                f"space {space.name} names code that is not in the bundle and not trusted yet; "
                "bring the file, and say --trust once you have read it"
            )
    for connection in connections:
        notes += [
            f"{connection.name or connection.id} runs along {own.code}, code that is neither in the bundle nor trusted "
            "yet; bring the file, and say --trust once you have read it"
            for own in own_families(family_of(connection))
        ]
    return Arrived(rows, done.present, done.renamed, notes)


def create_from_bundle(path: Path, directory: Path) -> GraphStore:
    """Make a new graph from a bundle, or nothing at all."""
    if directory.exists():
        raise NameTakenError(f"{directory} already exists; choose another directory, or unpack into that graph.")
    store = GraphStore.create(directory)
    try:
        unpack(store, path)
    except BaseException:
        store.discard()
        raise
    return store


def _is_shown(record: Node | Connection) -> bool:
    return isinstance(record, Connection) or record.kind in ("mode", "merged")


def _check(connection: Connection) -> None:
    try:
        family_of(connection)
        settings = json.loads(connection.settings)
    except (InputError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"Connection {connection.id} of the bundle has an unknown family ({error}).") from None
    if not isinstance(settings, dict):
        raise InputError(f"Connection {connection.id} of the bundle has invalid settings.")
