"""Keep a graph sound and small: check and repair, collect garbage, remove, rename, measure disk use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from mgraph.errors import CorruptError, InputError, NotFoundError
from mgraph.notebook import InNotebook
from mgraph_store import Connection, GraphStore, Node, Space, Sweep, validate_name

if TYPE_CHECKING:
    from mgraph_store.upkeep.collect import Collection
    from mgraph_store.upkeep.problems import Problem
    from mgraph_store.upkeep.removal import Removal

Row = dict[str, Any]
Thing = Node | Connection | Space | str


@dataclass(frozen=True)
class CheckResult(InNotebook):
    """What a check found and what a repair has done; ``problems`` are those that remain."""

    problems: tuple[Problem, ...]
    repaired: tuple[str, ...] = ()
    deep: bool = False

    @override
    def _shown(self) -> dict[str, Any]:
        return {"ok": self.ok, "repaired": self.repaired, "problems": self.rows()}

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def rows(self) -> list[Row]:
        """List the problems as rows: problem, subject, outcome (repairable, remake, lost), remedy."""
        return [
            {"problem": p.what, "subject": p.subject, "outcome": p.outcome, "remedy": p.remedy} for p in self.problems
        ]


def check(path: str | Path, *, deep: bool = False, repair: bool = False) -> CheckResult:
    """Check a graph directory, even one that can no longer be opened: ``mgraph.check("digits.mgraph", deep=True)``.

    ``deep`` reads every row and every tensor and compares them with the journal and with their digests; ``repair`` also
    does so, and repairs what can be proven. Raises NotFoundError if there is no graph, FormatError if it is one of
    another version.
    """
    from mgraph_store.upkeep.check import examine
    from mgraph_store.upkeep.repair import repair as mend

    store = GraphStore(Path(path).absolute())
    try:
        GraphStore.open(path)  # a newer format is refused
    except NotFoundError:
        raise
    except CorruptError:
        if not store.path.is_dir():
            raise
    done = mend(store) if repair else []
    return CheckResult(tuple(examine(store, deep or repair)), tuple(done), deep or repair)


def upgrade(path: str | Path) -> dict[str, Any]:
    """Upgrade a graph of an older format permanently to the current one: ``mgraph.upgrade("digits.mgraph")``.

    All or nothing; an older mgraph cannot open it afterwards. If machines share it, that is so on all of them, and each
    has to upgrade its own directory. Returns its ``path``, the format that it had (``before``) and the one that it has.
    Raises NotFoundError if there is no graph, FormatError if no way leads to the current format, StoreError if the
    place where it is shared cannot be reached, CorruptError if it is damaged: check and repair it with the mgraph that
    wrote it.
    """
    from mgraph_store import FORMAT_VERSION

    store = GraphStore.open(path)
    return {"path": str(store.path), "before": store.upgrade(), "format": FORMAT_VERSION}


@dataclass(frozen=True)
class UpkeepPlan(InNotebook):
    """What would be done, as ``rows``, until :meth:`apply` does it."""

    rows: tuple[Row, ...]
    nbytes: int
    notes: tuple[str, ...]
    apply: Callable[[], None]

    @override
    def _shown(self) -> dict[str, Any]:
        return {"nbytes": self.nbytes, "notes": self.notes, "rows": self.rows}


def plan_removal(store: GraphStore, things: Sequence[Thing], *, cascade: bool) -> UpkeepPlan:
    """Plan to remove nodes, connections, sweeps or spaces; StillNeededError if something depends on them."""
    from mgraph_store.index.snapshot import looked_at
    from mgraph_store.upkeep.removal import plan_removal

    if not things:
        raise InputError("Name at least one node, connection, sweep or space to remove.")
    with looked_at(store.index, store.lock) as shot:
        targets = [_target(shot.reader, thing) for thing in things]
        removal = plan_removal(shot.reader, targets, cascade=cascade, graph=store.folder.root)
    rows = [
        {"kind": g.kind, "name": getattr(g.record, "name", None), "id": g.record.id, "why": g.why} for g in removal.goes
    ]
    return UpkeepPlan(
        tuple(rows),
        sum(store.tensor_store.sizes(removal.free).values()),
        _removal_notes(removal),
        lambda: removal.apply(store),
    )


def plan_collection(store: GraphStore, *, older_than: float) -> UpkeepPlan:
    """Plan to delete garbage that is at least ``older_than`` hours old."""
    from mgraph_store.upkeep.collect import plan_collection

    if not older_than >= 0:
        raise InputError(f"The minimum age must be a number of hours ≥ 0, not {older_than}.")
    found: Collection = plan_collection(store, older_than * 3600)
    rows = [{"kind": i.kind, "name": i.name, "nbytes": i.nbytes, "why": i.why} for i in found.items]
    stay = "1 more is" if found.young == 1 else f"{found.young} more are"
    young = f"{stay} younger than {older_than:g} h, and left alone."
    notes = tuple(note for note in (young if found.young else None, found.shared, found.writing) if note)
    return UpkeepPlan(tuple(rows), found.nbytes, notes, lambda: found.apply(store))


def claim_tensors(store: GraphStore) -> None:
    """Declare that no other directory still uses the tensors at this graph's URL; InputError if it has none there."""
    from mgraph_store.tensors.remote import RemoteTensorStore

    if (writing := store.index.journal.writing()) is not None:
        store.index.journal.end_writing(writing.marks)
    if isinstance(store.tensor_store, RemoteTensorStore):
        store.tensor_store.take_over()
    elif writing is None:
        raise InputError(f"The tensors of {store.path} are in its own directory: nobody else can claim them.")


def rename(store: GraphStore, thing: Thing, name: str) -> Node | Connection | Space:
    """Rename a node, connection or space; NameTakenError if the name is in use."""
    validate_name(name)
    with store.reading() as reader:
        record = _target(reader, thing)
    if isinstance(record, Sweep):
        raise InputError(f"{record.id} is a sweep, and sweeps have no names.")
    renamed = replace(record, name=name)
    with store.transaction() as tx:
        tx.expect(record)
        tx.update(renamed)
    return renamed


def copy(store: GraphStore, path: Path) -> dict[str, Any]:
    """Copy a whole graph; return its path and size, and which runs in progress it has without their states."""
    from mgraph_store.upkeep.copying import copy

    copied = copy(store, path)
    return {
        "path": str(path),
        "objects": copied.objects,
        "nbytes": copied.nbytes,
        "unfinished": list(copied.unfinished),
    }


def usage(store: GraphStore) -> dict[str, Any]:
    """Return where the bytes are: nodes by kind and by connection, buffers, garbage, index and journal.

    ``whole`` is what the nodes would take as one file each, ``disk`` what they take, ``saved`` the difference, thanks
    to recipes, partial nodes, shared objects and compression.
    """
    from mgraph_store.upkeep.usage import Share, measure

    found = measure(store)

    def row(share: Share) -> Row:
        disk = round(share.disk)
        return {
            "nodes": share.nodes,
            "stored": share.stored,
            "whole": share.whole,
            "disk": disk,
            "saved": share.whole - disk,
        }

    return {
        "kinds": [{"kind": kind, **row(share)} for kind, share in sorted(found.kinds.items())],
        "connections": [
            {"connection": found.names.get(c) or c, "id": c, **row(share)}
            for c, share in sorted(found.connections.items(), key=lambda item: -item[1].disk)
        ],
        "buffers": round(found.buffers.disk),
        "garbage": found.garbage,
        "files": found.files,
        "total": round(sum(s.disk for s in found.kinds.values()) + found.buffers.disk)
        + found.garbage
        + sum(found.files.values()),
    }


def _target(reader: Any, thing: Thing) -> Node | Connection | Sweep | Space:
    if isinstance(thing, Node | Connection | Space):
        return thing
    try:
        found: Node | Connection = reader.find(thing)
        return found
    except NotFoundError as error:
        sweeps: list[Sweep] = reader.all(Sweep, id=thing)
        try:
            space: Space = reader.find_space(thing)
        except NotFoundError:
            if sweeps:
                return sweeps[0]
            raise error from None
        return space


def _removal_notes(removal: Removal) -> tuple[str, ...]:
    notes = []
    forgetful = len(removal.forget)
    if forgetful:
        one = "1 merged node keeps its tensors, but loses the record of what it was made of."
        several = f"{forgetful} merged nodes keep their tensors, but lose the record of what they were made of."
        notes.append(one if forgetful == 1 else several)
    if removal.abandoned:
        notes.append(f"These can then no longer be resumed: {', '.join(removal.abandoned)}.")
    return tuple(notes)
