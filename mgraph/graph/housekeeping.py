"""Sharing a graph, and keeping it sound and small: a part of :class:`mgraph.Graph` (no torch)."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError
from mgraph.graph.base import Opened
from mgraph.graph.handles import Connected, Point
from mgraph_store import Connection, Node, Space

if TYPE_CHECKING:
    from mgraph.bookkeeping.bundles import Arrived
    from mgraph.bookkeeping.upkeep import CheckResult, UpkeepPlan


class Housekeeping(Opened):
    """Bundles in and out; check and repair, collect garbage, remove, rename, see where the bytes are."""

    def pack(
        self, *things: Point | Connected | str, path: str | PathLike[str], overwrite: bool = False
    ) -> dict[str, Any]:
        """Write nodes and connections, with everything they need, to a file: ``g.pack("s", path="s.mgraph.zip")``.

        Returns what is in it: rows by table, and the size in bytes. Raises InputError if the file exists (unless
        ``overwrite``).
        """
        from mgraph.bookkeeping.bundles import pack

        found = [self.find(thing) if isinstance(thing, str) else thing for thing in things]
        return pack(self.session.store, [thing.record for thing in found], Path(path), overwrite=overwrite)

    def unpack(self, path: str | PathLike[str], *, prefix: str = "") -> Arrived:
        """Add what a bundle holds, all or nothing; what is there already is recognised, names that are taken change.

        Raises InputError if the file is not a bundle, or an id in it stands for something else here; CorruptError if
        its tensors are not those that it says.
        """
        from mgraph.bookkeeping.bundles import unpack

        return unpack(self.session.store, Path(path), prefix=prefix)

    def check(self, *, deep: bool = False, repair: bool = False) -> CheckResult:
        """Check rows and tensors; see :func:`mgraph.check`, which also takes a graph that cannot be opened."""
        from mgraph.bookkeeping.upkeep import check

        return check(self.session.store.path, deep=deep, repair=repair)

    def gc(self, *, older_than: float = 24.0, dry_run: bool = False) -> UpkeepPlan:
        """Delete what nothing refers to and is at least ``older_than`` hours old; returns what went, or would go."""
        from mgraph.bookkeeping.upkeep import plan_collection

        return _carried_out(plan_collection(self.session.store, older_than=older_than), dry_run)

    def remove(
        self, *things: Point | Connected | Space | str, cascade: bool = False, dry_run: bool = False
    ) -> UpkeepPlan:
        """Remove nodes, connections, sweeps or spaces with all that is theirs; returns what went, or would go.

        Raises StillNeededError, naming it, if something else depends on them; ``cascade`` takes that along.
        """
        from mgraph.bookkeeping.upkeep import plan_removal

        return _carried_out(
            plan_removal(self.session.store, [_record(thing) for thing in things], cascade=cascade), dry_run
        )

    def rename(self, thing: Point | Connected | Space | str, name: str) -> Point | Connected | Space:
        """Give a node, connection or space another name; returns it. NameTakenError if the name is in use."""
        from mgraph.bookkeeping.upkeep import rename

        record = rename(self.session.store, _record(thing), name)
        if isinstance(record, Space):
            return record
        return Connected(self.session, record) if isinstance(record, Connection) else Point(self.session, record)

    def relocate(
        self,
        space: Space | str | None = None,
        *,
        arch: str | None = None,
        data: str | None = None,
        loss: str | None = None,
        paths: tuple[str | PathLike[str], str | PathLike[str]] | None = None,
    ) -> list[Space | Connection]:
        """Say where code or data lie now: ``g.relocate("net-data", arch="new/net.py:net")``; returns what changed.

        Or everywhere, families of your own included, ``g.relocate(paths=("old/folder", "new/folder"))``. Specs
        are rewritten only if the code
        there has the hash, or the data have the fingerprint, that the space recorded: InputError, naming both,
        otherwise. Naming code trusts it; code found in a named folder, only if it was trusted before.
        """
        from mgraph.session.relocation import relocate, relocate_paths

        store = self.session.store
        if paths is not None:
            if space is not None or (arch, data, loss) != (None, None, None):
                raise InputError("Give either the new specs of a space, or an old and a new path.")
            old, new = map(str, paths)
            moved = relocate_paths(store, old, new, allow=self.session.trusts)
        else:
            found = space if isinstance(space, Space) else self.session.space(space)
            moved = [relocate(store, found, arch=arch, data=data, loss=loss)]
        for one in moved:
            if isinstance(one, Space):
                self.session.forget(one)
        return moved

    def copy(self, path: str | PathLike[str]) -> dict[str, Any]:
        """Copy the whole graph to a new directory, while others go on using it: ``g.copy("backup.mgraph")``.

        The copy is the graph as of one commit and shares nothing with it; tensors that lie at a URL are copied into
        its directory. Saved states of interrupted runs stay behind. Returns its ``path``, how many tensor ``objects``
        and bytes it has, and the ids of ``unfinished`` runs. Raises NameTakenError if there is something at the path,
        and leaves nothing behind if it fails.
        """
        from mgraph.bookkeeping.upkeep import copy

        return copy(self.session.store, Path(path))

    def usage(self) -> dict[str, Any]:
        """Tell where the bytes are, by kind and by connection, and what recipes and sharing save."""
        from mgraph.bookkeeping.upkeep import usage

        return usage(self.session.store)


def _record(thing: Point | Connected | Space | str) -> Node | Connection | Space | str:
    return thing.record if isinstance(thing, Point | Connected) else thing


def _carried_out(plan: UpkeepPlan, dry_run: bool) -> UpkeepPlan:
    if not dry_run:
        plan.apply()
    return plan
