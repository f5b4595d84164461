"""Connecting modes: run a method, store its control points as nodes and the connection over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from mgraph.alone import alone
from mgraph.errors import InputError, LayoutMismatchError, NonFiniteError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.families import Family
from mgraph.jobs.connections import ConnectJob
from mgraph.methods.base import Method, Outcome, Start
from mgraph.methods.own import require_free, storable, trust_here, typed_here
from mgraph.methods.registry import METHODS
from mgraph.operations.sweeps import check_sweep
from mgraph.progress import ProgressCallback, silent
from mgraph.session.code import METHOD_CODE, warn_of_other_code
from mgraph.session.constants import Groups, check_constants
from mgraph.session.members import BUFFERS_FROM, ends_of, label, member_rows, rows_of, still_there
from mgraph.session.points import buffers_of, evaluate_splits, load_buffers, policy_name
from mgraph.session.policies import augments_behind, policy_after
from mgraph.session.runs import RunLog
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, Part, check_name_is_free, require_finite, store_partial, store_point
from mgraph.session.workspace import Workspace
from mgraph.train.parallel import joined
from mgraph_store import Connection, Layout, Node, Run, Series, Space, Transaction, new_id

_BATCH_BYTES = 64 << 20  # most bytes of points written at once


@alone
def connect(
    session: Session, job: ConnectJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> Connection:
    """Run the method of a job on its ends and store the result; everything is checked before the run starts.

    It is not swept here, whatever the job says. If an interrupted run of this job is ``resumed``, the method continues
    where that run was saved.

    The ends of the connection ``init``, if there is one, must be among the job's. Under torchrun, all processes train
    together and the first one stores. Raises InputError for a wrong number of ends, the same node twice, ends of
    different spaces (naming the first differing tensor, unless only the tasks differ and ``same_layout`` says to use
    the first end's), buffers that differ, or settings that do not suit the network; NonFiniteError when training
    diverges.
    """
    method, name = job.method, job.name
    family = method.family(len(job.ends))
    with session.store.reading() as reader:
        ends = [still_there(reader, Node, end, resumed) for end in job.ends]
        init = None if job.init is None else still_there(reader, Connection, job.init, resumed)
        buffers_from = None if job.buffers_from is None else still_there(reader, Node, job.buffers_from, resumed)
        check_name_is_free(session, name)
        end_name = f"{name}-end" if name is not None and len(ends) == 1 else None
        check_name_is_free(session, end_name)
        check_buffers_from(ends, buffers_from)
        space = common_space(session, ends, same_layout=job.same_layout)
        groups = [buffers_of(session.store, reader, end) for end in ends]
        augments = augments_behind(reader, ends)
    with joined(session.device) as workers:
        workspace = session.workspace(space)
        load_constants(session, workspace, ends, buffers_from, groups)
        warn_of_other_code(session.store, workspace, ends)
        policy = policy_after(workspace, augments)
        origin = _origin(session, method, family, ends, init)
        origin = replace(origin, start=replace(origin.start, augment=policy.augment))
        family = origin.family
        storable(family, session.store.path)  # refuse what no graph can describe before anything is computed
        method.check(workspace.flat, workspace.task, family)
        method.check_start(workspace.flat, workspace.task, origin.start)
        if job.sweep is not None:  # check now, not after training
            check_sweep(workspace, job.sweep)
        chosen: dict[str, Any] = asdict(method)
        if buffers_from is not None:
            chosen[BUFFERS_FROM] = buffers_from.id
        if init is not None:
            chosen["init"] = init.id
        own = None if METHODS.get(method.name) is type(method) else _own(method)
        code = {} if own is None else {METHOD_CODE: own}
        settings = chosen | code | {"method": method.name, "ends": [n.id for n in ends], "processes": workers.size}
        seed = getattr(method, "seed", None)
        with session.run(workspace, "connect", settings, seed, job=job, resumed=resumed) as run:
            outcome = method.run(workspace.flat, workspace.task, family, origin.start, progress, run.checkpointer)
            family = outcome.family or family
            described = storable(family, session.store.path)
            if own is not None:
                trust_here(method, session.store.path)
            if not all(np.isfinite(row).all() for row in outcome.control_points):
                raise NonFiniteError(f"The {method.name} ended with a NaN or infinite control point; nothing stored.")
            connection = Connection(
                id=new_id("k"),
                kind=method.name,
                space_id=space.id,
                family=json.dumps(described.describe()),
                settings=json.dumps(chosen, sort_keys=True),
                run_id=run.id,
                name=name,
                reason="; ".join([_how_it_ended(method, outcome), *origin.notes, *outcome.notes]),
            )
            if workers.rank == 0:
                with session.store.transaction() as tx:
                    tx.add(connection)
                    controls = _store_controls(tx, session, workspace, run, method, family, origin, outcome)
                    if outcome.found_end:
                        found = _End(method, outcome, family.ends[-1], ends[0], policy)
                        ends = [*ends, _store_end(tx, workspace, run, found, end_name)]
                    rows = zip([*family.ends, *family.free], [*ends, *controls], strict=True)
                    tx.add(*member_rows(connection.id, family, {row: node.id for row, node in rows}))
                    tx.add(*[Series(connection.id, run.id, **asdict(series)) for series in outcome.series])
                    run.complete(tx, update=outcome.update, reason=outcome.stopped)
    return connection


def _own(method: Method) -> str | None:
    """Return the name of the user's own method, if its class can be named; raise InputError for a built-in's name."""
    require_free(type(method), tuple(METHODS))
    return typed_here(method)


def _how_it_ended(method: Method, outcome: Outcome) -> str:
    return f"{method.name} {'finished' if outcome.stopped is None else 'stopped by its budget'}"


@dataclass(frozen=True)
class _Origin:
    """Where the control points of a connection between ``ends`` start: as linear combinations of stored nodes."""

    ends: Sequence[Node]
    family: Family
    nodes: Sequence[Node]
    start: Start
    notes: tuple[str, ...] = ()


def _origin(session: Session, method: Method, family: Family, ends: Sequence[Node], init: Connection | None) -> _Origin:
    store = session.store
    if init is None:
        return _Origin(ends, family, ends, Start.between(family, [session.points.read(node) for node in ends]))
    if not family.free:
        raise InputError(
            f"A {family.name} has no control points besides its ends, so it cannot start from another connection."
        )
    with store.reading() as reader:
        theirs, nodes = [node.id for node in ends_of(reader, init)], rows_of(reader, init)
    for end in ends:
        if end.id not in theirs:
            raise InputError(
                f"{label(end)} is not an end of {label(init)}; a connection can only start from one that joins its "
                "ends."
            )
    source, places = session.family_of(init), [theirs.index(end.id) for end in ends]
    family, matrix, on_it = method.starting_from(family, source, places)
    start = Start(matrix, [session.points.read(node) for node in nodes])
    changed = () if on_it else (f"started at the least-squares fit to {label(init)}",)
    return _Origin(ends, family, nodes, start, changed)


def check_buffers_from(ends: Sequence[Node], buffers_from: Node | None) -> None:
    """Raise InputError unless the buffers are those of an end."""
    if buffers_from is not None and buffers_from.id not in {n.id for n in ends}:
        raise InputError(f"Buffers can only be those of an end; {label(buffers_from)} is not one.")


def load_constants(
    session: Session,
    workspace: Workspace,
    ends: Sequence[Node],
    buffers_from: Node | None,
    groups: Sequence[Groups] | None = None,
) -> None:
    """Load the data and the buffers, so that errors there count as bad input, not as a failed run.

    ``groups`` are the buffers of the ends, if they have been read already; whose to use is one of the ends.
    """
    if groups is None:
        with session.store.reading() as reader:
            groups = [buffers_of(session.store, reader, node) for node in ends]
    if workspace.layout.buffers:
        check_constants(session, workspace, ends, groups, buffers_from)
        load_buffers(workspace, groups[0 if buffers_from is None else [n.id for n in ends].index(buffers_from.id)])
    workspace.task  # noqa: B018


def _store_controls(
    tx: Transaction,
    session: Session,
    workspace: Workspace,
    run: RunLog,
    method: Method,
    family: Family,
    origin: _Origin,
    outcome: Outcome,
) -> list[Node]:
    """Store the free control points, and of each only the layers that could move or that differ from the ends'.

    The session keeps them for the sweep that follows.
    """
    layout, points = workspace.layout, outcome.control_points
    given = [(node.id, points[row]) for node, row in zip(origin.ends, family.ends, strict=False)]

    def part(k: int) -> Part:
        if outcome.trained is None:
            return Part.unlike(layout, points[k], given)
        terms = zip(origin.nodes, origin.start.matrix[k].tolist(), strict=True)
        return Part(points[k], layout.columns(outcome.trained), [(node.id, c) for node, c in terms if c != 0])

    nodes: list[Node] = []
    per_batch = max(1, _BATCH_BYTES // (4 * layout.size))  # the points may not fit in memory together
    for start in range(0, len(family.free), per_batch):
        parts = [part(k) for k in family.free[start : start + per_batch]]
        stored = store_partial(tx, workspace, run.id, method.node_kind, parts)
        if outcome.trained is None:  # otherwise the store recomputes their other layers, which may round differently
            for node, one in zip(stored, parts, strict=True):
                session.points.keep(node.id, one.point)
        nodes += stored
    return nodes


@dataclass(frozen=True)
class _End:
    """The end that a method found: the control point ``row`` of its outcome, reached from the node ``source``."""

    method: Method
    outcome: Outcome
    row: int
    source: Node
    policy: BatchNormPolicy


def _store_end(tx: Transaction, workspace: Workspace, run: RunLog, end: _End, name: str | None) -> Node:
    """Store an end that was found as a mode, with its own numbers and BatchNorm statistics."""
    parameters, policy = end.outcome.control_points[end.row], end.policy
    workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(np.array(parameters))))
    recompute_statistics(workspace.flat, workspace.task.train, policy)
    results = evaluate_splits(workspace)
    require_finite(results, "The end of the path")
    text = policy_name(workspace, policy)
    info = {"origin": end.method.name, "from": end.source.id, "batchnorm": text}
    point = MeasuredPoint(parameters, results, text, text)
    return store_point(tx, workspace, run.id, "mode", point, info=info, name=name)


def common_space(
    session: Session, ends: Sequence[Node], *, same_layout: bool, kinds: Sequence[str] = ("mode", "merged")
) -> Space:
    """Return the space in which to connect ends, the first one's; InputError for ends that cannot be connected."""
    seen: set[str] = set()
    for node in ends:
        if node.id in seen:
            raise InputError(f"{label(node)} is given twice; the ends of a connection must be different nodes.")
        seen.add(node.id)
        if node.kind not in kinds:
            raise InputError(f"{label(node)} is a {node.kind}; only modes and merged nodes can be connected.")
    with session.store.reading() as reader:
        spaces = [reader.get(Space, id=node.space_id) for node in ends]
    first = spaces[0]
    for node, space in zip(ends, spaces, strict=True):
        if space.id == first.id:
            continue
        difference = Layout.from_json(first.layout).first_difference(Layout.from_json(space.layout))
        if difference:
            raise LayoutMismatchError(
                f"{label(ends[0])} (space {first.name}) and {label(node)} (space {space.name}) have different "
                f"networks: {difference}; only nodes of one space can be connected."
            )
        if not same_layout:
            tasks = [f"{s.arch} on {s.data} by {s.loss}" for s in (first, space)]
            raise InputError(
                f"{label(ends[0])} and {label(node)} have the same tensors but different tasks: "
                f"{' against '.join(tasks)}; add --same-layout to connect them on the first one's task."
            )
    return first
