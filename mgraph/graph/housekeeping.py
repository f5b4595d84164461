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
    """Packing and unpacking bundles; checking, repairing, collecting garbage, removing, renaming, measuring disk
    use."""

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
        """Add the contents of a bundle, all or nothing; what is already there is recognised, and taken names are
        changed.

        Raises InputError if the file is not a bundle, or if one of its ids is something else here; CorruptError if its
        tensors do not have the digests it states.
        """
        from mgraph.bookkeeping.bundles import unpack

        return unpack(self.session.store, Path(path), prefix=prefix)

    def check(self, *, deep: bool = False, repair: bool = False) -> CheckResult:
        """Check rows and tensors; see :func:`mgraph.check`, which also takes a graph that cannot be opened."""
        from mgraph.bookkeeping.upkeep import check

        return check(self.session.store.path, deep=deep, repair=repair)

    def gc(self, *, older_than: float = 24.0, dry_run: bool = False, claim: bool = False) -> UpkeepPlan:
        """Delete what nothing refers to and is at least ``older_than`` hours old; returns what was, or would be,
        removed.

        Tensors at a URL stay while another copy of the graph's directory uses them, too; ``claim`` says that none does
        any more, and such a copy can write and delete nothing there from then on. Of a graph that machines share, what
        is newer than the oldest open transaction stays; ``claim`` says that none is open any more.
        """
        from mgraph.bookkeeping.upkeep import claim_tensors, plan_collection

        if claim:
            claim_tensors(self.session.store)
        return _carried_out(plan_collection(self.session.store, older_than=older_than), dry_run)

    def remove(
        self, *things: Point | Connected | Space | str, cascade: bool = False, dry_run: bool = False
    ) -> UpkeepPlan:
        """Remove nodes, connections, sweeps or spaces with what belongs to them; returns what was, or would be,
        removed.

        Raises StillNeededError, naming it, if something else depends on them; ``cascade`` removes that too.
        """
        from mgraph.bookkeeping.upkeep import plan_removal

        return _carried_out(
            plan_removal(self.session.store, [_record(thing) for thing in things], cascade=cascade), dry_run
        )

    def rename(self, thing: Point | Connected | Space | str, name: str) -> Point | Connected | Space:
        """Rename a node, connection or space, and return it. NameTakenError if the name is in use."""
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
        """Say where code or data are now: ``g.relocate("net-data", arch="new/net.py:net")``; returns what changed.

        ``g.relocate(paths=("old/folder", "new/folder"))`` does so everywhere, including your own families. Specs are
        rewritten only if the code there has the hash, or the data have the fingerprint, that the space recorded;
        otherwise raises InputError, naming both. Naming code trusts it; code in a named folder is trusted only if it
        was before.
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
        """Copy the whole graph to a new directory, while others keep using it: ``g.copy("backup.mgraph")``.

        The copy is the graph as of one commit and shares nothing with it; tensors at a URL are copied into its
        directory. Saved states of interrupted runs are not copied. Returns its ``path``, how many tensor ``objects``
        and bytes it has, and the ids of ``unfinished`` runs. Raises NameTakenError if there is something at the path,
        and leaves nothing behind if it fails.
        """
        from mgraph.bookkeeping.upkeep import copy

        return copy(self.session.store, Path(path))

    def pull(self) -> None:
        """Take over what other machines have committed to a shared graph since it was opened or last changed:
        ``g.pull()``.

        Each commit does so by itself. Raises StoreError if the place where the graph is shared cannot be reached. Does
        nothing for a graph that is not shared.
        """
        self.session.store.pull()

    def usage(self) -> dict[str, Any]:
        """Return where the bytes are, by kind and by connection, and what recipes and sharing save."""
        from mgraph.bookkeeping.upkeep import usage

        return usage(self.session.store)


def _record(thing: Point | Connected | Space | str) -> Node | Connection | Space | str:
    return thing.record if isinstance(thing, Point | Connected) else thing


def _carried_out(plan: UpkeepPlan, dry_run: bool) -> UpkeepPlan:
    if not dry_run:
        plan.apply()
    return plan
