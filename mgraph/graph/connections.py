"""Connecting modes: run a method, store its control points as nodes and the connection over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mgraph.connect.base import Method
from mgraph.errors import InputError, LayoutMismatchError, NonFiniteError
from mgraph.graph.members import BUFFERS_FROM, label
from mgraph.graph.points import buffers_of, common_constants, load_buffers
from mgraph.graph.session import Session
from mgraph.graph.storing import check_name_is_free, store_parameters
from mgraph.progress import Report, silent
from mgraph_store import Connection, Layout, Member, Node, Space, new_id


def connect(
    session: Session,
    ends: Sequence[Node],
    method: Method,
    *,
    name: str | None = None,
    same_layout: bool = False,
    buffers_from: Node | None = None,
    report: Report = silent,
) -> Connection:
    """Run a method on its ends and store the result; everything is checked before the run starts.

    Raises InputError for a wrong number of ends, the same node twice, ends of different spaces (naming the
    first differing tensor, unless only the tasks differ and ``same_layout`` says to go on with the first
    end's), or buffers that differ; NonFiniteError when training diverges.
    """
    family = method.family(len(ends))
    check_name_is_free(session, name)
    if buffers_from is not None and buffers_from.id not in {n.id for n in ends}:
        raise InputError(f"Buffers can only be those of an end; {label(buffers_from)} is none.")
    space = _common_space(session, ends, same_layout=same_layout)
    bench = session.bench(space)
    store = session.store
    with store.reading() as reader:
        groups = [buffers_of(store, reader, node) for node in ends]
        chosen = buffers_of(store, reader, buffers_from) if buffers_from else groups[0]
    if bench.layout.buffers:
        if buffers_from is None:
            common_constants(bench.layout, groups, [label(n) for n in ends])
        load_buffers(bench, chosen)
    points = [np.array(store.read_parameters(node)) for node in ends]
    bench.task  # noqa: B018  (bad data are bad input, not a failed run)
    chosen_settings: dict[str, Any] = asdict(method)
    if buffers_from is not None:
        chosen_settings[BUFFERS_FROM] = buffers_from.id
    settings = chosen_settings | {"method": method.name, "ends": [n.id for n in ends]}
    with session.run(bench, "connect", settings, getattr(method, "seed", None)) as run:
        outcome = method.run(bench.flat, bench.task, points, report)
        P = outcome.control_points
        if not np.isfinite(P).all():
            raise NonFiniteError(f"The {method.name} ended with a NaN or infinite control point; nothing stored.")
        connection = Connection(
            id=new_id("k"),
            kind=method.name,
            space_id=space.id,
            family=json.dumps(family.describe()),
            settings=json.dumps(chosen_settings, sort_keys=True),
            run_id=run.id,
            name=name,
            reason=f"{method.name} finished",
        )
        with store.transaction() as tx:
            controls = store_parameters(tx, bench, run.id, "control", [P[k] for k in family.free])
            tx.add(connection)
            for position, (row, node) in enumerate(zip(family.ends, ends, strict=True)):
                tx.add(Member(connection.id, node.id, "end", position, row))
            for position, (row, node) in enumerate(zip(family.free, controls, strict=True)):
                tx.add(Member(connection.id, node.id, "control", position, row))
            run.complete(tx, update=outcome.update)
    return connection


def _common_space(session: Session, ends: Sequence[Node], *, same_layout: bool) -> Space:
    seen: set[str] = set()
    for node in ends:
        if node.id in seen:
            raise InputError(f"{label(node)} is given twice; the ends of a connection are different nodes.")
        seen.add(node.id)
        if node.kind not in ("mode", "merged"):
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
            raise InputError(
                f"{label(ends[0])} and {label(node)} have the same tensors but other tasks: {first.arch} on "
                f"{first.data} against {space.arch} on {space.data}; add --same-layout to connect them on the "
                f"first one's task."
            )
    return first
