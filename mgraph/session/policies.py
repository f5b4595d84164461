"""The BatchNorm policy for a point: from images augmented as the modes that it is made of were trained.

Its statistics are from augmented images if one and the same augmentation, of built-in parts, trained all these modes:
the ends of the connection on which it lies, the ingredients of a soup, or the node itself. Otherwise (imported
checkpoints, different augmentations or none, functions of the user's own) they are from the images as they are. How a
path was trained between its ends does not matter, so that all paths between the same modes are judged alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mgraph.evaluate.batchnorm import BatchNormPolicy, applicable
from mgraph.families import CompositePath
from mgraph.jobs.modes import ALIGNED
from mgraph.train.augments import canonical
from mgraph_store import Connection, Member, Node, NodeTerm, Reader

if TYPE_CHECKING:
    from mgraph.session.session import Session
    from mgraph.session.workspace import Workspace

_COPIES = (ALIGNED, "archive")  # origins of nodes that are another node in other numbers


def policy_for(
    session: Session, workspace: Workspace, things: Sequence[Node | Connection], examples: int | None = None
) -> BatchNormPolicy:
    """Return the policy for a point made of nodes, or lying on connections, in a workspace.

    A network without running statistics gets the plain one, which has nothing to do. Raises InputError for fewer than 2
    ``examples``.
    """
    if not workspace.flat.statistics:
        return workspace.policy(examples)
    with session.store.reading() as reader:
        return policy_after(workspace, augments_behind(reader, things), examples)


def policy_after(workspace: Workspace, found: frozenset[str], examples: int | None = None) -> BatchNormPolicy:
    """Return the policy, as :func:`policy_for` does, after training with what :func:`augments_behind` has found."""
    shared = _shared(found) if workspace.flat.statistics else ""
    return workspace.policy(examples, shared) if shared else workspace.policy(examples)


def why_plain(workspace: Workspace, found: frozenset[str]) -> str | None:
    """Say why statistics are from the images as they are, though some mode saw them augmented; None otherwise."""
    if not workspace.flat.statistics or _shared(found) or not any(found):
        return None
    if len(found) == 1:
        why = f"they were augmented by {next(iter(found))}, a function of your own"
    else:
        named = [text or "none known" for text in sorted(found)]
        why = f"the modes have no augmentation in common ({', '.join(named)})"
    return f"BatchNorm statistics are from unaugmented images, not as in training: {why}."


def augments_behind(reader: Reader, things: Iterable[Node | Connection]) -> frozenset[str]:
    """Return the augmentations with which the modes behind these were trained, in their canonical spelling.

    It is empty text for a mode trained without one, and for one of which that is not known.
    """
    found: set[str] = set()
    seen: set[str] = set()
    todo = list(things)
    while todo:
        thing = todo.pop()
        if thing.id in seen:
            continue
        seen.add(thing.id)
        sources = _made_of(reader, thing)
        if sources:
            todo += sources
        elif isinstance(thing, Node):
            found.add(_trained_with(thing))
        else:
            found.add("")
    return frozenset(found)


def _shared(found: frozenset[str]) -> str:
    return applicable(next(iter(found)) or None) if len(found) == 1 else ""


def _trained_with(node: Node) -> str:
    info = json.loads(node.info)
    settings = info.get("settings") if info.get("origin") == "train" else None
    augment = settings.get("augment") if isinstance(settings, dict) else None
    return canonical(augment) if isinstance(augment, str) and augment else ""


def _made_of(reader: Reader, thing: Node | Connection) -> Sequence[Node | Connection]:
    """Return what a node or connection is made of; nothing for a mode that was trained or imported.

    Also nothing if it is no longer there.
    """
    if isinstance(thing, Connection):
        return _rows(reader, thing)
    info = json.loads(thing.info)
    if info.get("origin") in _COPIES:
        return reader.all(Node, id=str(info.get("of")))
    if isinstance(info.get("from"), str):  # an end that a method found, beginning at another
        return reader.all(Node, id=info["from"])
    if thing.kind == "mode":
        return []
    if thing.kind == "merged":
        terms = [term.source_id for term in reader.all(NodeTerm, node_id=thing.id)]
        there = reader.all(Node, id=terms) if terms else []
        return there if len(there) == len(set(terms)) else []
    places = [member.connection_id for member in reader.all(Member, node_id=thing.id)]
    on = reader.all(Connection, id=places) if places else []
    return [connection for connection in on if connection.run_id == thing.run_id] or on


def _rows(reader: Reader, connection: Connection) -> list[Node | Connection]:
    """Return the modes of a connection, its control points that another one made, and the pieces of a path."""
    members = reader.all(Member, connection_id=connection.id, role=["end", "control"])
    nodes = reader.all(Node, id=[member.node_id for member in members]) if members else []
    others: list[Node | Connection] = [
        node for node in nodes if node.kind in ("mode", "merged") or node.run_id != connection.run_id
    ]
    if connection.kind != CompositePath.name:
        return others
    pieces = [piece["connection"] for piece in json.loads(connection.settings)["of"]]
    return [*others, *reader.all(Connection, id=pieces)]
