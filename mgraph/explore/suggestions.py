"""What to do next, in words: a suggestion with its reason and the command to do it manually (no torch)."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import MGraphError
from mgraph.explore.suggest import IMPROVE, JOIN, Proposal, Terrain
from mgraph.jobs.connections import ConnectJob
from mgraph.methods.own import typed_here
from mgraph.operations.resume import interrupted_runs
from mgraph.query.sweepdata import COMPLETE
from mgraph.session.members import ends_of, label
from mgraph.settings import format_value
from mgraph_store import Connection, GraphStore, Node, Sweep

if TYPE_CHECKING:
    from mgraph.methods.base import Method

RESUME, SWEEP = "resume", "sweep"


@dataclass(frozen=True)
class Suggestion:
    """What to do next, and why. ``step`` is resume, sweep, join, improve or fill; ``ends`` are ids, ``names`` their
    names.

    ``subject`` is what is unfinished: the run to resume, or the connection to sweep. ``command`` does it manually.
    """

    step: str
    ends: tuple[str, ...]
    names: tuple[str, ...]
    reason: str
    command: str
    subject: str | None = None

    @property
    def is_new(self) -> bool:
        """Whether it makes a new connection."""
        return self.subject is None

    def row(self) -> dict[str, Any]:
        """Return it as a row for tables and programs."""
        row = {"step": self.step, "ends": list(self.names), "ids": list(self.ends), "subject": self.subject}
        return row | {"reason": self.reason, "command": self.command}


def to_connect(step: Proposal, terrain: Terrain, nodes: Sequence[Node], method: Method, measure: str) -> Suggestion:
    """Put a step on the terrain of some nodes into words; ``measure`` is what their levels are, 'train loss'."""
    names = [label(node) for node in nodes]
    pair = [names[i] for i in step.pair]
    return Suggestion(
        step=step.why,
        ends=tuple(nodes[i].id for i in step.pair),
        names=tuple(pair),
        reason=_reason(step, terrain, names, method.name, measure),
        command=connect_command(pair, method),
    )


def _reason(step: Proposal, terrain: Terrain, names: Sequence[str], method: str, measure: str) -> str:
    low, high = (names[i] for i in step.pair)
    levels = ["unknown" if np.isnan(v) else f"{v:.3g}" for v in terrain.levels[list(step.pair)]]
    both = f"{low} ({measure} {levels[0]}) and {high} ({levels[1]})"
    if step.why == JOIN:
        at = "" if terrain.limit is None else f" at {terrain.quantity} <= {terrain.limit:g}"
        which = "the lowest mode and the lowest of another component"
        if not step.lowest:
            which = "the lowest modes of different components that were not tried"
        return f"{both} are {which}; there are {step.components} components{at}."
    if step.why == IMPROVE and step.worst is not None:
        worst = "-".join(names[i] for i in step.worst)
        return (
            f"{worst} is the worst edge of the spanning tree, {terrain.quantity} {step.value:.3g}; {low} and {high} "
            "are the lowest untried pair across its cut."
        )
    return f"{both} are the lowest pair that --{method} has not connected."


def connect_command(names: Sequence[str], method: Method) -> str:
    """Write the command that connects by a method with these settings."""
    own = typed_here(method)
    words = ["mgraph", "connect", *names, *([f"--{method.name}"] if own is None else ["--method", own])]
    for info in type(method).infos():
        value = getattr(method, info.name)
        if value != info.default:
            text = repr(value) if isinstance(value, float) else format_value(value) or info.nothing
            words += ["-s", f"{info.name}={text}"]
    return shlex.join(words)


def interrupted(store: GraphStore, nodes: Mapping[str, Node]) -> Iterator[Suggestion]:
    """Suggest resuming connections of these nodes (by id) that were interrupted, oldest first."""
    for standing in interrupted_runs(store):
        run = standing.run
        if run.command != ConnectJob.kind or standing.status != "interrupted":
            continue
        try:
            document = standing.document()
            ends, method = document["ends"], document["method"]["name"]
            known = all(end in nodes for end in ends)
        except (MGraphError, KeyError, TypeError):  # resume will say what is wrong with it
            continue
        if not known:
            continue
        names = tuple(label(nodes[end]) for end in ends)
        yield Suggestion(
            step=RESUME,
            ends=tuple(ends),
            names=names,
            reason=f"Connecting {' and '.join(names)} by {method} was interrupted ({standing.at or 'nothing saved'}).",
            command=f"mgraph resume {run.id}",
            subject=run.id,
        )


def unswept(
    store: GraphStore, space_id: str, nodes: Mapping[str, Node], aside: Collection[str] = ()
) -> Iterator[Suggestion]:
    """Suggest sweeping connections of these nodes (by id) that have no complete sweep, oldest first, unless a run in
    ``aside`` made them."""
    with store.reading() as reader:
        sweeps = reader.all(Sweep)
        swept = {s.connection_id for s in sweeps if s.status == COMPLETE}
        made = reader.all(Connection, space_id=space_id, status=COMPLETE)
        waiting = [c for c in made if c.id not in swept and c.run_id not in aside]
        ends = {c.id: ends_of(reader, c) for c in waiting}
    begun = {s.connection_id for s in sweeps}
    for c in waiting:
        if any(node.id not in nodes for node in ends[c.id]):
            continue
        what = "was swept in part, and the numbers are kept" if c.id in begun else "was never swept"
        yield Suggestion(
            step=SWEEP,
            ends=tuple(node.id for node in ends[c.id]),
            names=tuple(map(label, ends[c.id])),
            reason=f"The {c.kind} {label(c)} {what}; until it is swept, it makes no edge.",
            command=f"mgraph sweep {label(c)}",
            subject=c.id,
        )
