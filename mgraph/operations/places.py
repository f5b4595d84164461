"""Points of a connection that are not stored in the graph: computed from its control points whenever they are needed.

A sweep stores the points that it measures, as samples, and merging stores one permanently. For any other point, a
:class:`Place` says where it is, and nothing is written: looking along a path in a loop leaves no traces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mgraph.alone import alone
from mgraph.evaluate.batchnorm import recompute_statistics
from mgraph.families import Floats
from mgraph.network.checkpoints import state_dict, write_pt, write_safetensors
from mgraph.operations.export import data_facts, new_module, new_states, recipe, tensors_alone
from mgraph.operations.merging import prepare
from mgraph.query.sweepdata import parameter_key
from mgraph.session.members import rows_of
from mgraph.session.points import module_buffers, policy_name
from mgraph.session.policies import policy_for
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import Connection, Node, Reader
from mgraph_store.tensors.kernel import combine as combine_stored

_CLOSE = 1e-9  # far more than the parameters of the same point can differ


@dataclass(frozen=True)
class Place:
    """The position of a point of a connection: its parameter, and its coefficients over the connection's K nodes."""

    connection: Connection
    parameter: tuple[float, ...]
    coefficients: tuple[float, ...]


def find_place(session: Session, connection: Connection, parameter: float | Sequence[float]) -> Node | Place:
    """Return the node at a parameter (a swept point, an end or another control point) or, if there is none, the place.

    Raises InputError for a parameter that the connection's domain does not have.
    """
    family = session.family_of(connection)
    point = family.points(parameter)[0]
    coefficients = family.coefficients(point)[0]
    with session.store.reading() as reader:
        rows = rows_of(reader, connection)
        node = _sample_at(reader, connection, point) or _alone(rows, coefficients)
    return node or Place(connection, tuple(map(float, point)), tuple(map(float, coefficients)))


def _sample_at(reader: Reader, connection: Connection, point: Floats) -> Node | None:
    sql = """SELECT node_id, parameter FROM members WHERE connection_id = ? AND role = 'sample'
    AND abs(parameter[1] - ?) < ? ORDER BY position"""
    found = reader.query(sql, [connection.id, float(point[0]), _CLOSE])[1]
    there = [node_id for node_id, parameter in found if parameter_key(parameter) == parameter_key(point)]
    return reader.get(Node, id=there[0]) if there else None


def _alone(rows: Sequence[Node], coefficients: Floats) -> Node | None:
    """Return the control point that a single coefficient of 1 selects, if that is the case."""
    counting = np.flatnonzero(coefficients)
    return rows[counting[0]] if len(counting) == 1 and coefficients[counting[0]] == 1.0 else None


def load_place(session: Session, place: Place) -> tuple[Workspace, NDArray[np.float32]]:
    """Load a place into its workspace's network with recomputed statistics (default policy); return it with θ, (D,)."""
    ready = prepare(session, place.connection)
    flat, policy = ready.workspace.flat, policy_for(session, ready.workspace, [place.connection])
    theta = combine_stored(list(place.coefficients), ready.points)
    flat.theta.copy_(flat.pack(torch.from_numpy(np.array(theta))))
    recompute_statistics(flat, ready.workspace.task.train, policy)
    return ready.workspace, theta


@alone
def place_state(session: Session, place: Place) -> dict[str, torch.Tensor]:
    """Return a place's complete state dict: parameters, constants, and recomputed BatchNorm statistics."""
    return _state(*load_place(session, place))


@alone
def place_module(session: Session, place: Place, device: str = "cpu") -> nn.Module:
    """Return a new network at a place; see :func:`mgraph.operations.export.node_module`."""
    workspace, theta = load_place(session, place)
    return new_module(workspace, _state(workspace, theta), device)


def place_facts(session: Session, place: Place) -> dict[str, Any]:
    """Describe a place for those who have its file alone: its recipe over stored nodes, its network and its data."""
    workspace = load_place(session, place)[0]
    with session.store.reading() as reader:
        nodes = rows_of(reader, place.connection)
    policy = policy_name(workspace, policy_for(session, workspace, [place.connection]))
    facts = recipe(place.connection, place.parameter, place.coefficients, nodes, policy)
    return facts | {"arch": workspace.space.arch, "data": data_facts(workspace)}


@alone
def write_place(session: Session, place: Place, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a place's weights as .safetensors, with metadata, or as .pt, as a node's are written."""
    workspace, theta = load_place(session, place)
    state = _state(workspace, theta)
    if path.suffix != ".safetensors":
        write_pt(path, state)
        return
    tensors_alone({name: state[name] for name in new_states(workspace)})
    write_safetensors(path, state, metadata)


def _state(workspace: Workspace, theta: NDArray[np.float32]) -> dict[str, torch.Tensor]:
    """Return the state dict of the workspace's network as it is; its parameters are θ, shape (D,)."""
    buffers = module_buffers(workspace.flat, workspace.layout)
    return state_dict(workspace.layout, theta, buffers) | new_states(workspace)
