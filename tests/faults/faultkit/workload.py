"""Random operations on a graph, each announced in a log before it begins and acknowledged when it is done."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mgraph_store import (
    Connection,
    Edge,
    Evaluation,
    GraphStore,
    Layout,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Note,
    Run,
    Series,
    Space,
    Summary,
    Sweep,
    TensorSpec,
    columns,
    combine,
    digest,
    new_id,
)
from mgraph_store.errors import MGraphError
from mgraph_store.exchange.arrival import unpack as unpack_bundle
from mgraph_store.exchange.bundle import pack
from mgraph_store.index import snapshot
from mgraph_store.index.changes import Changes
from mgraph_store.rows.blocks import Gathering, Number, gathered
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import GridTerm, PointGrid
from mgraph_store.transaction import Transaction
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.removal import plan_removal

LAYOUT = Layout(
    (
        TensorSpec("weight", (40, 5), "float32", "parameter"),
        TensorSpec("mean", (5,), "float32", "statistic"),
        TensorSpec("count", (), "int64", "statistic"),
    )
)
SIZE = LAYOUT.size
MOST = 30  # modes and merged nodes; beyond that, rm is played more often

Floats = np.ndarray[Any, Any]


def make_graph(path: Path) -> GraphStore:
    """Make a graph with one space of small networks with statistics."""
    store = GraphStore.create(path)
    space = Space(new_id("a"), "s", "mlp", "digits", "loss", LAYOUT.to_json(), LAYOUT.fingerprint, "0" * 32)
    with store.transaction() as tx:
        tx.add(space)
    return store


@contextlib.contextmanager
def no_limit() -> Iterator[None]:
    """Let files grow again for a while: what is not a part of the graph must not fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass
class Work:
    """One worker on a graph: random, but seeded."""

    store: GraphStore
    rng: np.random.Generator
    log: int
    name: str = "w"
    done: int = 0
    _announced: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path, seed: int, log: Path, name: str = "w") -> Work:
        """Open the graph and the log."""
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return cls(GraphStore.open(path), np.random.default_rng(seed), descriptor, name)

    def play(self, operation: str | None = None) -> None:
        """Play one operation, by default a random one."""
        if operation is None:
            names = list(OPERATIONS)
            weights = np.array([WEIGHTS.get(name, 1.0) for name in names])
            if len(self.modes()) > MOST:
                weights[names.index("rm")] *= 10
            operation = str(self.rng.choice(names, p=weights / weights.sum()))
        self._announced = {}
        try:
            OPERATIONS[operation](self)
        except MGraphError as error:
            if not self._announced:  # it got nowhere
                self.say({"what": operation})
            self.say({"failed": f"{type(error).__name__}: {error}"})
            return
        if self._announced:
            self.say({"done": True})
        self.done += 1

    def announce(
        self,
        what: str,
        add: list[Any] = (),
        gone: list[Any] = (),
        values: dict[str, Floats | str] | None = None,
        **more: Any,
    ) -> None:
        """Say what is about to be changed: records that come and go, and the numbers of new nodes."""
        self._announced = {
            "what": what,
            "add": _document(add),
            "gone": _document(gone),
            "values": {k: v if isinstance(v, str) else digest(v) for k, v in (values or {}).items()},
            **more,
        }
        self.say(self._announced)

    def say(self, entry: dict[str, Any]) -> None:
        """Append a line to the log; it survives the process."""
        with no_limit():
            os.write(self.log, json.dumps(entry).encode() + b"\n")

    def modes(self) -> list[Node]:
        """List the nodes that connections can end in."""
        with self.store.reading() as reader:
            return reader.all(Node, kind=["mode", "merged"])

    def vector(self) -> Floats:
        """Draw parameters."""
        return self.rng.standard_normal(SIZE).astype(np.float32)

    def space(self) -> Space:
        """Return the only space."""
        with self.store.reading() as reader:
            return reader.find_space()


def add(work: Work) -> None:
    """Add one to three modes with buffers."""
    space, count = work.space(), int(work.rng.integers(1, 4))
    run = Run(new_id("r"), "train", "{}", seed=1, status="complete")
    with work.store.transaction() as tx:
        rows = [work.vector() for _ in range(count)]
        refs = tx.write_parameters(rows, codec=str(work.rng.choice(["none", "blosc"])))
        nodes = [_node(new_id("m"), "mode", space, ref, run, name=_name(work, i)) for i, ref in enumerate(refs)]
        ref = tx.write_buffers({"float32": work.rng.standard_normal(5).astype("f4"), "int64": np.array([work.done])})
        buffers = NodeBuffers(nodes[0].id, "own", ref.key, ref.digest, ref.nbytes)
        records = [run, *nodes, buffers]
        tx.add(*records)
        work.announce("add", records, values={n.id: row for n, row in zip(nodes, rows, strict=True)})


def connect(work: Work) -> None:
    """Connect two modes by a path with a full and a partial control point."""
    modes = work.modes()
    if len(modes) < 2:
        return add(work)
    a, b = (modes[i] for i in work.rng.choice(len(modes), 2, replace=False))
    space, run = work.space(), Run(new_id("r"), "connect", "{}", status="complete")
    ends = {n.id: work.store.read_parameters(n) for n in (a, b)}
    ranges = ((3, 20), (50, 60))
    with work.store.transaction() as tx:
        whole, own = work.vector(), work.vector()
        (ref,) = tx.write_parameters([whole])
        (partial_ref,) = tx.write_parameters([columns.take(own, ranges)])
        control = _node(new_id("c"), "control", space, ref, run)
        partial = replace(
            _node(new_id("c"), "control", space, partial_ref, run), kernel=1, columns=columns.to_json(ranges)
        )
        connection = Connection(new_id("k"), "curve", space.id, "{}", "{}", run.id, name=_name(work, 0))
        records: list[Any] = [run, control, partial, connection]
        records += [NodeTerm(partial.id, i, n.id, 0.5) for i, n in enumerate((a, b))]
        records += [Member(connection.id, n.id, "end", i, 3 * i) for i, n in enumerate((a, b))]
        records += [Member(connection.id, n.id, "control", i, i + 1) for i, n in enumerate((control, partial))]
        records += [Series(connection.id, run.id, "train_loss", "", (0.0, 1.0), (2.0, float("nan")))]
        tx.add(*records)
        value = combine([0.5, 0.5], list(ends.values()))
        for start, stop in ranges:
            value[start:stop] = own[start:stop]
        work.announce("connect", records, values={control.id: whole, partial.id: value})
    return None


def sweep(work: Work) -> None:
    """Sweep a connection: derived samples, on a grid or not, evaluations, an edge, a summary."""
    with work.store.reading() as reader:
        connections = reader.all(Connection)
        if not connections:
            members = []
        else:
            connection = connections[int(work.rng.integers(len(connections)))]
            members = reader.all(Member, connection_id=connection.id, where="role <> 'sample'")
            nodes = {n.id: n for n in reader.all(Node, id=[m.node_id for m in members])}
            place = len(reader.all(Member, connection_id=connection.id, role="sample"))
    if not members:
        return connect(work)
    points = [work.store.read_parameters(nodes[m.node_id]) for m in members]
    run = Run(new_id("r"), "sweep", "{}", status="complete")
    record = Sweep(new_id("w"), connection.id, run.id, (2, 3), "none", "fp32")
    records: list[Any] = [run, record]
    values = {}
    grid = PointGrid("q" + random_characters(12), (0.25, 0.75), (0.0, 0.5, 1.0))
    factors = [
        GridTerm(grid.id, k, m.node_id, work.rng.random(2).tolist(), work.rng.random(3).tolist())
        for k, m in enumerate(members)
    ]
    on_grid = Gathering()
    for i in range(5):
        node = Node(new_id("s"), "sample", connection.space_id, run.id, kernel=1)
        weights = [f.along_u[i // 3] * f.along_v[i % 3] for f in factors]
        values[node.id] = combine(weights, points)
        where = (grid.u[i // 3], grid.v[i % 3])
        records += [node, Member(connection.id, node.id, "sample", place + i, parameter=where)]
        records += [NodeTerm(node.id, k, m.node_id, w) for k, (m, w) in enumerate(zip(members, weights, strict=True))]
        records.append(
            Evaluation(node.id, record.id, run.id, "train", "all", "none", "fp32", "loss", float(i), None, 10)
        )
        number = Number(record.id, run.id, "train", "all", "none", "fp32", "loss", 10)
        on_grid.add(
            node.id,
            sample_of=connection.id,
            position=place + i,
            numbers=[(number, (float(i), None))],
            grid_id=grid.id,
            place=i,
        )
    ends = [m.node_id for m in members if m.role == "end"]
    records.append(
        Edge(connection.id, record.id, *ends, "train", "loss", 1.0, 0.5, 0.1, 2.0, 5, 10, "none", "fp32", list(values))
    )
    records.append(Summary(connection.id, record.id, run.id, "train", "loss", "max", float("inf")))
    stored = gathered(records)
    if work.rng.random() < 0.5:
        of_points = (Member, NodeTerm, Evaluation)
        rest = [r for r in records if not isinstance(r, of_points)]
        stored = [*rest, grid, *factors, *on_grid.records()]
    with work.store.transaction() as tx:
        tx.add(*stored)
        work.announce("sweep", records, values=values)
    return None


def merge(work: Work) -> None:
    """Store the mean of two modes, with its recipe."""
    modes = work.modes()
    if len(modes) < 2:
        return add(work)
    sources = [modes[i] for i in work.rng.choice(len(modes), 2, replace=False)]
    value = combine([0.5, 0.5], [work.store.read_parameters(n) for n in sources])
    run = Run(new_id("r"), "merge", "{}", status="complete")
    with work.store.transaction() as tx:
        (ref,) = tx.write_parameters([value])
        node = _node(new_id("g"), "merged", work.space(), ref, run, name=_name(work, 0))
        records = [run, node, *(NodeTerm(node.id, i, n.id, 0.5) for i, n in enumerate(sources))]
        records.append(Note(new_id("n"), "recipe", "mean", node_id=node.id))
        tx.add(*records)
        work.announce("merge", records, values={node.id: value})
    return None


def rename(work: Work) -> None:
    """Give a mode another name."""
    modes = work.modes()
    if not modes:
        return add(work)
    old = modes[int(work.rng.integers(len(modes)))]
    new = replace(old, name=_name(work, 7))
    with work.store.transaction() as tx:
        tx.update(new)
        work.announce("rename", [new], [old])
    return None


def rm(work: Work) -> None:
    """Remove a connection or a node, and what depends on it; now and then as from a large index."""
    snapshot.LARGE = 0 if work.rng.random() < 0.5 else 1 << 20
    with work.store.reading() as reader:
        things = [*reader.all(Connection), *reader.all(Node, kind=["mode", "merged"])]
        if not things:
            return
        plan = plan_removal(reader, [things[int(work.rng.integers(len(things)))]], cascade=True)
    work.announce("rm", ids=[g.record.id for g in plan.goes], forget=plan.forget)
    plan.apply(work.store)
    return


def gc(work: Work) -> None:
    """Collect all garbage, however young: nobody else is at work."""
    work.announce("gc")
    plan_collection(work.store, 0).apply(work.store)


def unpack(work: Work) -> None:
    """Take up a bundle of modes from another graph."""
    commit = Transaction.commit

    def announced(tx: Transaction) -> None:
        # Only now are the rows known, and nothing of them is visible yet.
        records = [r for added in tx._added.values() for r in added]
        work.announce("unpack", records, values={r.id: str(r.digest) for r in records if isinstance(r, Node)})
        commit(tx)

    with tempfile.TemporaryDirectory() as directory:
        bundle = Path(directory) / "bundle.zip"
        with no_limit():
            other = make_graph(Path(directory) / "other.mgraph")
            maker = Work(other, work.rng, os.open(os.devnull, os.O_WRONLY), f"u{work.name}")
            add(maker)
            pack(other, [n.id for n in maker.modes()], bundle)
            os.close(maker.log)
        Transaction.commit = announced  # type: ignore[method-assign]
        try:
            unpack_bundle(work.store, bundle)
        finally:
            Transaction.commit = commit  # type: ignore[method-assign]


OPERATIONS: dict[str, Callable[[Work], None]] = {
    "add": add,
    "connect": connect,
    "sweep": sweep,
    "merge": merge,
    "rename": rename,
    "rm": rm,
    "gc": gc,
    "unpack": unpack,
}
WEIGHTS = {"add": 2.0, "connect": 2.0, "sweep": 2.0}


def _node(identifier: str, kind: str, space: Space, ref: Any, run: Run, name: str | None = None) -> Node:
    return Node(identifier, kind, space.id, run.id, name, ref.key, ref.row, ref.digest, ref.nbytes)


def _name(work: Work, i: int) -> str | None:
    return f"{work.name}{work.done}-{i}-{new_id('m')[1:7]}" if work.rng.random() < 0.5 else None


def _document(records: list[Any]) -> dict[str, Any]:
    by_kind: dict[type, list[Any]] = {}
    for record in records:
        by_kind.setdefault(type(record), []).append(record)
    added = Changes.of(by_kind, ()).document().get("add", {})
    return {table: part["rows"] for table, part in added.items()}
