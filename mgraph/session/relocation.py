"""Tell a graph that code or data have moved: a space's specs are rewritten if the new place holds the same thing.

Code is the same if its hash is the one that the space recorded, data if their fingerprint is. Only the place may
change, not the function or its parameters. Runs refer to spaces by id, so an interrupted one can still be resumed.
Connections along a user's own family are updated in the same way, by an old and a new path.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from mgraph import trust
from mgraph.builtin import BASE, ROOT
from mgraph.errors import InputError, NotFoundError
from mgraph.factories import FactorySource, locate, names_code, path_in, source_of, with_path
from mgraph.families.own import own_families
from mgraph.query.sweepdata import family_of
from mgraph.specs import Spec
from mgraph_store import Connection, GraphStore, Space

if TYPE_CHECKING:
    from mgraph.data.task import Task
    from mgraph.session.workspace import Workspace

ROLES = ("arch", "data", "loss")
_NAMED = "named"  # key in factories: the loss's name when the data's fingerprint was taken

P = ParamSpec("P")
R = TypeVar("R")


def relocate(
    store: GraphStore, space: Space, *, arch: str | None = None, data: str | None = None, loss: str | None = None
) -> Space:
    """Rewrite the specs of one space, typed in the current directory, and return it; naming code trusts it.

    Raises InputError, naming both hashes, if the code or data there are not what the space recorded, or if a spec names
    another function or parameter; NotFoundError if there is nothing.
    """
    given = {role: text for role, text in zip(ROLES, (arch, data, loss), strict=True) if text is not None}
    if not given:
        raise InputError("Say what has moved: --arch, --data or --loss with the new spec, or OLD and NEW paths.")
    moves = [_move(store, space, role, Spec.parse(text)) for role, text in given.items()]
    return _commit(store, [moves], lambda _: True)[0]


def relocate_paths(store: GraphStore, old: str, new: str, *, allow: bool = False) -> list[Space | Connection]:
    """Rewrite every spec that names ``old``, or something in it, to ``new``; return the spaces and connections changed.

    ``old`` may be a file or folder that no longer exists, as typed in the current directory or as written in a spec,
    relative to the graph. Code is trusted if it was before, if ``new`` names its file, or with ``allow``. Raises what
    :func:`relocate` does, and NotFoundError, listing the paths there are, if no space names ``old``.
    """
    here = Path.cwd()
    wanted = {locate(old, here), locate(old, store.path)}
    target = locate(new, here)
    with store.reading() as reader:
        spaces = reader.all(Space)
    moves, known = [], set()

    def moved_to(path: str) -> str | None:
        lies = locate(path, store.path)
        known.add(path)
        within = next((place for place in wanted if lies == place or lies.is_relative_to(place)), None)
        if within is None:
            return None
        moved = target / lies.relative_to(within)
        return str(moved) if Path(path).is_absolute() else os.path.relpath(moved, here)

    for space in spaces:
        own = []
        for role, spec in _specs(space):
            path = path_of(spec)
            if path is not None and (text := moved_to(path)) is not None:
                own.append(_move(store, space, role, _with_path(spec, text)))
        if own:
            moves.append(own)
    families = _family_moves(store, moved_to)
    if not moves and not families:
        there = f"they name {', '.join(sorted(known))}" if known else "they name no paths"
        raise NotFoundError(f"No space of {store.path} names {old} or anything in it; {there}.")

    def trusted(move: _Move | _FamilyMove) -> bool:
        named = locate(path_of(move.spec) or "", store.path) == target
        then = "" if move.source is None else move.source.hash
        return allow or named or trust.is_trusted(store.path, move.was, then)

    return [*_commit(store, moves, trusted, families), *dict.fromkeys(move.after for move in families)]


def path_of(spec: Spec) -> str | None:
    """Return the file or folder that a spec names, as written there; None if it names none."""
    if spec.is_factory:
        file, _, _ = spec.name.rpartition(":")
        return file if file.endswith(".py") or "/" in file else None
    if (path := path_in(spec)) is not None:
        return path
    root = spec.params.get(ROOT)
    return root if isinstance(root, str) else None


def is_same_data(task: Task, space: Space) -> bool:
    """Return whether these are the data that a space was made with."""
    # The loss's name is part of the fingerprint, and a user's own loss is named by its path.
    named = _recorded(space, space.loss).get(_NAMED)
    return (task if named is None else replace(task, loss_name=named)).matches(space.data_hash)


def other_data(space: Space, task: Task, again: Callable[[], Task]) -> InputError:
    """Make the error for data that are not those of the space: random ones, if they differ when loaded again."""
    what = f"The data {space.data!r} are not those that space {space.name} was made with"
    for split in task.splits.values():
        getattr(split, "require_steady", lambda: None)()
    if Spec.parse(space.data).is_factory and not again().matches(task.fingerprint):
        return InputError(
            f"{what}, and differed again when {space.data} was called a second time: random numbers in it must be "
            f"seeded there, so that every command has the same data."
        )
    return InputError(f"{what} (their content or normalisation changed); restore them or add a new space.")


def tells_if_moved(method: Callable[Concatenate[Workspace, P], R]) -> Callable[Concatenate[Workspace, P], R]:
    """Make a method of a workspace say, if something is not found, how to tell the space that it has moved."""

    @wraps(method)
    def called(workspace: Workspace, /, *args: P.args, **options: P.kwargs) -> R:
        try:
            return method(workspace, *args, **options)
        except NotFoundError as error:
            advice = _advice(workspace.space, workspace.path)
            if advice is None or advice in str(error):
                raise
            raise NotFoundError(f"{error} {advice}") from error

    return called


def _advice(space: Space, base: Path) -> str | None:
    words = []
    for role, spec in _specs(space):
        path = path_of(spec)
        if path is not None and not locate(path, base).exists():
            new = "NEW" if ROOT in spec.params else f"NEW/{Path(path).name}"
            words += [f"--{role}", str(_with_path(spec, new))]
        elif spec.is_factory and path is None:
            words += [f"--{role}", str(Spec(f"NEW.{spec.name}", spec.params))]
    if not words:
        return None
    return f"If it is somewhere else now, say where: {shlex.join(['mgraph', 'relocate', space.name, *words])}"


@dataclass(frozen=True)
class _Move:
    """A spec of a space that gets another place; ``source`` is where its code is, None for built-in data."""

    space: Space
    role: str
    was: str
    spec: Spec
    entry: Mapping[str, Any] | None
    source: FactorySource | None


@dataclass(frozen=True)
class _FamilyMove:
    """A connection whose family's class gets another place; ``after`` has all of its families moved."""

    before: Connection
    after: Connection
    was: str
    spec: Spec
    source: FactorySource


def _family_moves(store: GraphStore, moved_to: Callable[[str], str | None]) -> list[_FamilyMove]:
    """Find the user's own families that have moved; InputError if the code there differs."""
    with store.reading() as reader:
        connections = reader.all(Connection)
    found = []
    for connection in connections:
        places: dict[str, tuple[Spec, FactorySource]] = {}
        for own in own_families(family_of(connection)):
            spec = Spec.parse(own.code)
            path = path_of(spec)
            text = None if path is None else moved_to(path)
            if text is None:
                continue
            new, source = source_of(_with_path(spec, text), typed_in=Path.cwd(), base=store.path)
            assert source is not None
            if source.hash != own.known["hash"]:
                raise InputError(
                    f"{new.name} is not the code of {connection.name or connection.id}: its hash is {source.hash}, the "
                    f"connection recorded {own.known['hash']}. Nothing was changed; put the same code there."
                )
            places[own.code] = new, source
        if places:
            told = json.dumps(_renamed(json.loads(connection.family), {k: str(s) for k, (s, _) in places.items()}))
            after = replace(connection, family=told)
            found += [_FamilyMove(connection, after, was, new, source) for was, (new, source) in places.items()]
    return found


def _renamed(described: Any, names: Mapping[str, str]) -> Any:
    """Replace names of families in a description, wherever they occur."""
    if isinstance(described, list):
        return [_renamed(part, names) for part in described]
    if not isinstance(described, dict):
        return described
    return {
        key: names.get(value, value) if key == "family" and isinstance(value, str) else _renamed(value, names)
        for key, value in described.items()
    }


def _move(store: GraphStore, space: Space, role: str, typed: Spec) -> _Move:
    """Check that what a spec now names is what the space recorded in this role."""
    was = getattr(space, role)
    if role == "arch" and path_in(Spec.parse(was)) is not None:
        return _network_move(store, space, Spec.parse(was), typed)
    if role != "data" and not names_code(was):
        whose = "comes with its data" if role == "loss" else "is built in"
        raise InputError(f"The {role} of space {space.name}, {was}, {whose}; there is nothing to relocate.")
    before = Spec.parse(was)
    kinds = [(s.is_factory, None if s.is_factory else s.prefix) for s in (before, typed)]
    if kinds[0] != kinds[1]:
        raise InputError(f"{typed} is of another kind than {was}; relocate changes only where code or data are.")
    spec, source = source_of(typed, typed_in=Path.cwd(), base=store.path)
    if source is None:
        _require_same_data(store, space, spec)
        return _Move(space, role, was, spec, None, None)
    functions = [(s.name.rpartition(":")[2], dict(s.params)) for s in (before, spec)]
    if functions[0] != functions[1]:
        raise InputError(f"{spec} names another function or parameter than {was}; relocate changes only the place.")
    entry = _recorded(space, was)
    # Graphs made when a hash covered only the named file recorded that one.
    if entry.get("hash") not in (source.hash, source.files.get("main")):
        raise InputError(
            f"{spec.name} is not the code of space {space.name}: its hash is {source.hash}, the space recorded "
            f"{entry.get('hash')}. Nothing was changed; put the same code there, or add a new space."
        )
    moved = {**entry, "kind": source.kind, "path": source.path}
    if role == "loss":
        moved[_NAMED] = entry.get(_NAMED, was)
    return _Move(space, role, was, spec, moved, source)


def _network_move(store: GraphStore, space: Space, before: Spec, typed: Spec) -> _Move:
    """Change the directory from which a built-in network is made; its content is checked at every build."""
    spec, _ = source_of(typed, typed_in=Path.cwd(), base=store.path)
    path = path_in(spec)
    params = [{key: value for key, value in s.params.items() if key != BASE} for s in (before, spec)]
    if spec.prefix != before.prefix or path is None or params[0] != params[1]:
        raise InputError(f"{typed} is another network than {before}; relocate changes only the place.")
    if not locate(path, store.path).exists():
        raise NotFoundError(f"{locate(path, store.path)} does not exist; check the path.")
    entry = _recorded(space, str(before))
    return _Move(space, "arch", str(before), spec, {**entry, "path": path} if entry else None, None)


def _require_same_data(store: GraphStore, space: Space, spec: Spec) -> None:
    from mgraph.data.loading import load_task

    task = replace(load_task(spec, base=store.path), notes=())
    own = _recorded(space, space.loss)
    if own:  # its code is not run for this; only its name counts
        task = replace(task, loss_name=own.get(_NAMED, space.loss))
    if not task.matches(space.data_hash):
        raise InputError(
            f"{spec} holds other data than space {space.name} was made with: their fingerprint is {task.fingerprint}, "
            f"the space recorded {space.data_hash}. Nothing was changed."
        )


def _commit(
    store: GraphStore,
    moves: Sequence[Sequence[_Move]],
    trusted: Callable[[_Move | _FamilyMove], bool],
    families: Sequence[_FamilyMove] = (),
) -> list[Space]:
    """Store the new specs of all spaces and connections at once, then trust the code."""
    changed = []
    with store.transaction() as tx:
        for own in moves:
            space = own[0].space
            factories = _factories(space)
            new: dict[str, Any] = {move.role: str(move.spec) for move in own}
            kept = {getattr(space, role) for role in ROLES if role not in new}
            for move in own:
                if move.was not in kept:
                    factories.pop(move.was, None)
            factories |= {str(move.spec): move.entry for move in own if move.entry is not None}
            after = replace(space, **new, factories=json.dumps(factories, sort_keys=True))
            tx.expect(space)
            tx.update(after)
            changed.append(after)
        for before, moved in {move.before.id: (move.before, move.after) for move in families}.values():
            tx.expect(before)
            tx.update(moved)
    told: list[_Move | _FamilyMove] = [*(move for own in moves for move in own), *families]
    for one in told:
        if one.source is not None and trusted(one):
            trust.trust(store.path, str(one.spec), one.source.hash, one.source.files)
    return changed


def _specs(space: Space) -> list[tuple[str, Spec]]:
    """Return the specs of a space by role; a loss that comes with the data may have a name that is not a spec."""
    found = [(role, Spec.parse(getattr(space, role))) for role in ROLES if role != "loss"]
    return found + ([("loss", Spec.parse(space.loss))] if names_code(space.loss) else [])


def _factories(space: Space) -> dict[str, Any]:
    found = json.loads(space.factories)
    return found if isinstance(found, dict) else {}


def _recorded(space: Space, spec: str) -> dict[str, Any]:
    found = _factories(space).get(spec)
    return found if isinstance(found, dict) else {}


def _with_path(spec: Spec, path: str) -> Spec:
    """Replace the path in a spec."""
    if spec.is_factory:
        named = path if path.endswith(".py") or "/" in path else f"./{path}"
        return Spec(f"{named}:{spec.name.rpartition(':')[2]}", spec.params)
    if path_in(spec) is not None:
        return with_path(spec, path)
    return Spec(spec.name, {**spec.params, ROOT: path})
