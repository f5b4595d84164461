"""The user code behind numbers: what a space and a run have recorded, and whether it is still the same code.

Code is known by role: ``arch``, ``data``, ``loss`` (of evaluation), ``training loss``, ``augmentation`` and ``method``.
A space records the hashes that it was made with, a run those that it ran (``versions["code"]``), by role rather than by
name, so that code may move.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from mgraph.errors import InputError, MGraphWarning
from mgraph.factories import FactorySource, names_code
from mgraph.trust import Consent
from mgraph_store import Connection, Node, Run, Space

if TYPE_CHECKING:
    from mgraph.session.workspace import Workspace
    from mgraph_store import GraphStore

CODE = "code"  # key in a run's versions, and in the differences when it was resumed
_OF_SPACE = ("arch", "data", "loss")
METHOD_CODE = "method_code"
OF_RUN = {"training loss": "loss", "augmentation": "augment", "method": METHOD_CODE}
"""Code that belongs to a run alone: its role, and the setting of the run that names it."""


class OtherCodeWarning(MGraphWarning):
    """The code of a network, its data or its loss is not the code that earlier numbers were made with."""


class Pinned(Consent):
    """Asks another consent, records which code ran in which role, and refuses a second version of it."""

    def __init__(self, consent: Consent, role: str, ran: dict[str, str]) -> None:
        self._consent, self._role, self._ran = consent, role, ran

    @property
    @override
    def writes(self) -> bool:
        return self._consent.writes

    @override
    def ask(self, spec: str, hash: str, files: Mapping[str, str]) -> None:
        """Raise UntrustedError as the other does, and InputError for code that changed since this graph was opened."""
        self._consent.ask(spec, hash, files)
        if self._ran.setdefault(self._role, hash) != hash:
            raise InputError(f"The code of {spec} changed while this graph was open; open it again to run the new one.")


def recorded(space: Space) -> dict[str, str]:
    """Return the hashes of the code that a space was made with, by role."""
    return {role: hash for role in _OF_SPACE if (hash := recorded_hash(space, getattr(space, role))) is not None}


def recorded_hash(space: Space, spec: str) -> str | None:
    """Return the hash that a space recorded for one of its specs; None if it names no code, or none is recorded."""
    factories = json.loads(space.factories)
    entry = factories.get(spec) if isinstance(factories, dict) else None
    found = entry.get("hash") if isinstance(entry, dict) else None
    return found if isinstance(found, str) and names_code(spec) else None


def made_with(space: Space, loss: FactorySource) -> bool:
    """Return whether a space was made with this code of its loss.

    Older spaces recorded only the hash of the named file, without a list of files; then that one counts.
    """
    was = recorded_hash(space, space.loss)
    if was is None:
        return False
    entry = json.loads(space.factories)[space.loss]
    return was == loss.hash or ("files" not in entry and was == loss.files["main"])


def code_of(run: Run | None, space: Space) -> dict[str, str]:
    """Return the hashes of the code that a run ended with, by role.

    An old run recorded none, so what its space was made with is used instead.
    """
    if run is None:
        return recorded(space)
    found: dict[str, str] = json.loads(run.versions).get(CODE, recorded(space))
    for resumption in json.loads(run.resumptions):
        found = found | resumption.get("other", {}).get(CODE, {})
    return found


def same_code(then: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Return whether two runs in one space were judged by the same code of its network, data and loss."""
    return all(then.get(role) == now.get(role) for role in _OF_SPACE)


def changes(then: Mapping[str, str], now: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Say what differs: "the code of ../net.py:net (now 0123abcd, then 4567cdef)", with commas between several."""
    return ", ".join(
        f"the code of {names.get(role, role)} (now {now.get(role, 'none')[:8]}, then {then.get(role, 'none')[:8]})"
        for role in sorted({*then, *now})
        if then.get(role) != now.get(role)
    )


def names_of(space: Space, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the specs behind the roles."""
    named = {role: str(getattr(space, role)) for role in _OF_SPACE}
    of_run = {role: (settings or {}).get(key) for role, key in OF_RUN.items()}
    return named | {role: name for role, name in of_run.items() if isinstance(name, str)}


def of_space(code: Mapping[str, str]) -> dict[str, str]:
    """Leave out what belongs only to one run."""
    return {role: hash for role, hash in code.items() if role in _OF_SPACE}


def warn_of_other_code(store: GraphStore, workspace: Workspace, things: Sequence[Node | Connection]) -> None:
    """Load a workspace; warn, naming both versions, if its code is not what these things were made with."""
    workspace.flat  # noqa: B018  (then it is known what it runs)
    now, space = workspace.code, workspace.space
    if not now and not recorded(space):
        return
    found: dict[str, list[str]] = {}
    made_by = sorted({thing.run_id for thing in things if thing.run_id is not None})
    with store.reading() as reader:
        runs = {run.id: run for run in reader.all(Run, id=made_by)} if made_by else {}
    for thing in things:
        then = of_space(code_of(runs.get(thing.run_id or ""), space))
        if not same_code(then, now):
            found.setdefault(changes(then, now, names_of(space)), []).append(thing.name or thing.id)
    for what, who in found.items():
        were = "was" if len(set(who)) == 1 else "were"
        warnings.warn(
            f"{what[0].upper()}{what[1:]} is not the one that {', '.join(dict.fromkeys(who))} {were} made with: what "
            f"is computed now does not compare with the numbers of then.",
            OtherCodeWarning,
            stacklevel=4,
        )
