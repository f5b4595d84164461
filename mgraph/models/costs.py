"""What models cost to train, in units of T, the training of one mode, as recorded by the runs of the graph (no torch).

A run's cost is the number of examples that it passed forward and backward, according to its settings. If these do not
say (bands that stop by themselves, walks, imported modes), its time is used, relative to that of the modes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from mgraph.errors import MGraphError
from mgraph.metric import LOSS
from mgraph.query.sweepdata import family_of
from mgraph.session.session import Session
from mgraph_store import Connection, Evaluation, Member, Node, NodeTerm, Reader, Run, Space

MEMORISED = 0.25
"""Modes look memorised if their train loss is below this fraction of their validation loss,"""

GAP = 0.2
"""or if the two lie apart by more than this fraction of what guessing costs, the logarithm of the number of classes."""

_DEPENDENT = ("init", "ema", "swa", "vertex")
_ALIGNED = "align"


@dataclass(frozen=True)
class Costs:
    """What was spent on some modes and connections, in T; None if part of it was not recorded."""

    modes: float | None
    connections: float | None

    @property
    def total(self) -> float | None:
        """The sum."""
        return None if self.modes is None or self.connections is None else self.modes + self.connections


@dataclass(frozen=True)
class Memory:
    """How well modes know the training data: their mean losses, None where these were not measured.

    ``guessing`` is the loss of somebody who guesses; None where the loss is no cross-entropy of class labels.
    """

    train: float | None
    valid: float | None
    guessing: float | None = None

    @property
    def memorised(self) -> bool | None:
        """Whether they look memorised; None if unknown."""
        if self.train is None or self.valid is None:
            return None
        apart = self.guessing is not None and self.valid - self.train > GAP * self.guessing
        return apart or self.train < MEMORISED * self.valid


def independent_modes(reader: Reader, space: Space) -> list[Node]:
    """Return the modes of a space that were trained or imported independently, oldest first.

    These exclude modes trained further from another one, averages of a training, and permuted copies; of the epochs of
    one training, only the last is included.
    """
    found: dict[str, Node] = {}
    seen: set[str | None] = set()
    for node in reader.all(Node, kind="mode", space_id=space.id):
        info = json.loads(node.info)
        if any(info.get(key) is not None for key in _DEPENDENT) or info.get("origin") == _ALIGNED:
            continue
        if node.digest in seen:
            continue
        seen.add(node.digest)
        found[info.get("trajectory") or node.run_id or node.id] = node  # a run's copies come before its end
    return list(found.values())


def costs_of(session: Session, space: Space, modes: Iterable[str], connections: Sequence[Connection]) -> Costs:
    """Return what modes, by their ids, and connections together cost to train, in T.

    T is the median over the space's independent modes.
    """
    with session.store.reading() as reader:
        of_space = independent_modes(reader, space)
        nodes = reader.all(Node, id=list(dict.fromkeys(modes))) if modes else []
        ids = {n.run_id for n in (*of_space, *nodes)} | {c.run_id for c in connections}
        runs = {run.id: run for run in reader.all(Run, id=[i for i in ids if i is not None])}
        examples = _training_examples(reader, space)
    unit = _Unit.of([run for n in of_space if (run := runs.get(n.run_id or "")) is not None], examples)
    of_runs = {node.run_id or node.id: runs.get(node.run_id or "") for node in nodes}  # several may be of one
    spent = [unit.of_mode(run) for run in of_runs.values()]
    joined = [unit.of_connection(session, c, runs.get(c.run_id or "")) for c in connections]
    return Costs(_sum(spent), _sum(joined))


def trained_for(reader: Reader, node: Node) -> tuple[frozenset[str], frozenset[str]]:
    """Return the ids of the modes and connections that had to be trained for a node; several for a merged one."""
    info = json.loads(node.info)
    if node.kind == "mode":
        return frozenset(_beginnings(reader, node)), frozenset()
    if not isinstance(info.get("connection"), str):
        terms = reader.all(NodeTerm, node_id=node.id) if node.kind == "merged" else []
        return frozenset(t.source_id for t in terms) or frozenset({node.id}), frozenset()
    members = reader.all(Member, connection_id=info["connection"], role="end")
    return frozenset(m.node_id for m in members), frozenset({info["connection"]})


def _beginnings(reader: Reader, node: Node) -> list[str]:
    """Return the ids of a mode and of those that it was trained on from, one after the other."""
    ids: list[str] = []
    found = [node]
    while found and found[0].id not in ids:
        ids.append(found[0].id)
        begun = json.loads(found[0].info).get("init")
        found = reader.all(Node, id=begun) if isinstance(begun, str) else []
    return ids


def memory_of(reader: Reader, modes: Iterable[str], classes: int | None) -> Memory:
    """Return the mean losses of modes, by their ids, on train and validation data, as stored with them.

    ``classes`` is the number of classes if the loss is a cross-entropy of labels.
    """
    ids = list(modes)
    rows = reader.all(Evaluation, node_id=ids, sweep_id=None, metric=LOSS.name, subset="all") if ids else []
    means = {}
    for split in ("train", "valid"):
        values = [row.value for row in rows if row.split == split]
        means[split] = statistics.fmean(values) if values else None
    return Memory(means["train"], means["valid"], None if classes is None else math.log(classes))


@dataclass(frozen=True)
class _Unit:
    """T in passes over the training data, with ``examples`` examples, and in seconds; None if no mode reveals it."""

    passes: float | None
    seconds: float | None
    examples: int | None

    @classmethod
    def of(cls, runs: Sequence[Run], examples: int | None) -> _Unit:
        passes = [p for run in runs if (p := _passes(run)) is not None]
        seconds = [s for run in runs if run.command == "train" and (s := _seconds(run)) is not None]
        return cls(
            statistics.median(passes) if passes else None, statistics.median(seconds) if seconds else None, examples
        )

    def of_mode(self, run: Run | None) -> float | None:
        passes = None if run is None else _passes(run)
        return passes / self.passes if passes is not None and self.passes else None

    def of_connection(self, session: Session, connection: Connection, run: Run | None) -> float | None:
        """Return the cost by the passes that its method states, else by its time relative to that of the modes."""
        method = session.method_of(connection)
        if method is not None:
            own = {f.name for f in fields(method)}
            settings = {k: v for k, v in json.loads(connection.settings).items() if k in own}
            try:
                examples = method.parse(settings).cost(family_of(connection), self.examples or 1)
            except MGraphError:
                examples = None
            if examples == 0.0:  # nothing was trained
                return 0.0
            if examples is not None and self.passes and self.examples:
                return examples / self.examples / self.passes
        if connection.kind == "plane":
            return 0.0  # nothing was trained
        if connection.kind == "composite":
            return None
        seconds = None if run is None else _seconds(run)
        return seconds / self.seconds if seconds is not None and self.seconds else None


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _passes(run: Run) -> float | None:
    """Return how many times a training passed over the training data: its epochs, doubled by sharpness-aware steps."""
    if run.command != "train":
        return None
    settings = json.loads(run.settings)
    epochs, each = settings.get("epochs"), 1.0 if settings.get("sam") is None else 2.0
    return each * epochs if isinstance(epochs, int | float) and epochs > 0 else None


def _training_examples(reader: Reader, space: Space) -> int | None:
    """Return the size of the training split, as recorded by the numbers of modes."""
    sql = """SELECT max(e.count) FROM evaluations e JOIN nodes n ON n.id = e.node_id
WHERE n.space_id = ? AND n.kind = 'mode' AND e.split = 'train' AND e.metric = 'loss' AND e.subset = 'all'"""
    found = reader.query(sql, [space.id])[1][0][0]
    return None if found is None else int(found)


def _seconds(run: Run) -> float | None:
    if run.ended is None or run.status != "complete" or run.resumptions != "[]":
        return None
    return (run.ended - run.started).total_seconds()
