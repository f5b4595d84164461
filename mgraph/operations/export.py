"""What of a node is exported: its tensors as plain PyTorch loads them, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from mgraph.alone import alone
from mgraph.data.splits import ArraySplit
from mgraph.errors import InputError
from mgraph.fields import Shapes
from mgraph.network.checkpoints import (
    extra_state,
    is_adapted,
    left_out,
    state_dict,
    write_adapter,
    write_directory,
    write_pt,
)
from mgraph.network.layout import dtype_name, named_tensors
from mgraph.network.tensorfile import stream_safetensors
from mgraph.session.members import label
from mgraph.session.points import buffers_of, load_node, module_buffers
from mgraph.session.runs import versions
from mgraph.session.session import Session, resolve_device
from mgraph.session.workspace import Workspace
from mgraph_store import Connection, Evaluation, Layout, Node, NodeTerm, Reader, Run, Space


@alone
def node_state(session: Session, node: Node) -> dict[str, torch.Tensor]:
    """Return a node's complete state_dict: parameters, constants, and BatchNorm statistics.

    A node without stored statistics (a sample, a control point) gets them recomputed by the default policy.
    """
    layout, buffers = _layout_and_buffers(session, node)
    return state_dict(layout, session.store.read_parameters(node), buffers) | _further(session, node)


@alone
def node_module(session: Session, node: Node, device: str = "cpu") -> nn.Module:
    """Return a network of the node's space with its state dict, in evaluation mode, of its own.

    Raises what building the network raises, and InputError for a device that there is not.
    """
    with session.store.reading() as reader:
        workspace = session.workspace(reader.get(Space, id=node.space_id))
    return new_module(workspace, node_state(session, node), device)


def new_module(workspace: Workspace, state: Mapping[str, Any], device: str) -> nn.Module:
    """Build a network of the bench's space anew, with these tensors, in evaluation mode on a device."""
    where = resolve_device(device)
    module = workspace.new_module(seed=0)
    with torch.no_grad():
        for name, tensor in named_tensors(module):
            tensor.copy_(state[name])
    return module.to(where).eval()


@alone
def write_node(session: Session, node: Node, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a node's weights as .safetensors, with metadata, or as a plain state_dict (.pt, .pth).

    Parameters are streamed to .safetensors chunk by chunk, so a node without BatchNorm statistics to recompute may be
    larger than memory.
    """
    if path.suffix == ".safetensors":
        layout, buffers = _layout_and_buffers(session, node)
        further = tensors_alone(_further(session, node))
        stream_safetensors(path, layout, session.store.computation(node).stream, buffers, metadata, further=further)
    else:
        write_pt(path, node_state(session, node))


@alone
def write_directory_of(session: Session, node: Node, path: Path, *, overwrite: bool) -> None:
    """Write a node as its network's library has it: an adapter for peft, or a network of transformers.

    InputError for any other network, and for an adapter that is not all of what the mode has learnt.
    """
    module = node_module(session, node)
    facts = json.dumps(node_facts(session, node), sort_keys=True)
    if is_adapted(module):
        with session.store.reading() as reader:
            workspace = session.workspace(reader.get(Space, id=node.space_id))
        missing = left_out(module, workspace.new_module(seed=0))
        if missing:
            raise InputError(
                f"{label(node)} has learnt {missing[0]}, which is not in its base, and an adapter of peft has no place "
                "for it: loaded by peft it would compute something else. Export weights (.safetensors, .pt) or a "
                "program (.pt2, .onnx) instead."
            )
        write_adapter(path, module, {"mgraph": facts}, overwrite=overwrite)
    elif type(module).__module__.startswith("transformers."):
        from mgraph.architectures.huggingface import quiet

        save: Any = module.save_pretrained
        with quiet():
            write_directory(path, "config.json", lambda place: save(str(place)), overwrite=overwrite)
    else:
        raise InputError(
            f"{path.name} must end in .safetensors, .pt, .pth, .pt2 or .onnx; directories are for networks of "
            "transformers and of peft."
        )


_STATES = "extra_state"  # key in a mode's info: what the space's network keeps besides tensors, by name


def further_states(module: nn.Module) -> dict[str, Any]:
    """Return the entry of a mode's info for states besides tensors (``get_extra_state``) of its network, if it has
    any."""
    names = sorted(extra_state(module))
    return {_STATES: names} if names else {}


def new_states(workspace: Workspace) -> dict[str, Any]:
    """Return the states besides tensors that a new network of the space has, by their names in a state dict."""
    return extra_state(workspace.new_module(seed=0)) if further_states(workspace.flat.module) else {}


def tensors_alone(states: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return states for a file that holds only tensors; InputError if one is not a tensor."""
    for name, value in states.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"The network keeps {name}, a {type(value).__name__}, which .safetensors cannot hold; export to .pt."
            )
    return states


def _further(session: Session, node: Node) -> dict[str, Any]:
    """Return the states besides tensors that belong to a node's state dict; the network is built only if there are
    any."""
    with session.store.reading() as reader:
        modes = reader.all(Node, kind="mode", space_id=node.space_id)
        space = reader.get(Space, id=node.space_id)
    if not any(json.loads(mode.info).get(_STATES) for mode in modes):
        return {}
    return extra_state(session.workspace(space).new_module(seed=0))


def _layout_and_buffers(session: Session, node: Node) -> tuple[Layout, dict[str, NDArray[Any]]]:
    with session.store.reading() as reader:
        layout = Layout.from_json(reader.get(Space, id=node.space_id).layout)
        buffers = buffers_of(session.store, reader, node)
    if layout.buffers and not buffers:  # making them takes the network
        workspace = load_node(session, node)
        buffers = module_buffers(workspace.flat, layout)
    return layout, buffers


def node_facts(session: Session, node: Node) -> dict[str, Any]:
    """Collect what a reader of the file needs: origin, parents, seeds, policy, numbers."""
    with session.store.reading() as reader:
        workspace = session.workspace(reader.get(Space, id=node.space_id))
        terms = reader.all(NodeTerm, node_id=node.id)
        parents = {n.id: n for n in reader.all(Node, id=[t.source_id for t in terms])} if terms else {}
        evaluations = _evaluations(reader, node)
        run = reader.all(Run, id=node.run_id)[0] if node.run_id else None
    return {
        "format": 1,
        "node": node.id,
        "name": node.name,
        "kind": node.kind,
        "selected_on": node.selected_on,
        "info": json.loads(node.info),
        "arch": workspace.space.arch,
        "data": data_facts(workspace),
        "digest": node.digest,
        "terms": [{"node": t.source_id, "name": parents[t.source_id].name, "c": t.coefficient} for t in terms],
        "seed": run.seed if run else None,
        "versions": versions(),
        "evaluations": {f"{e.split}_{e.metric}": e.value for e in evaluations},
        "metrics": [
            {
                "split": e.split,
                "metric": e.metric,
                "value": e.value,
                "standard_error": e.standard_error,
                "examples": e.count,
                "batchnorm": e.batchnorm,
            }
            for e in evaluations
        ],
    }


def _evaluations(reader: Reader, node: Node) -> list[Evaluation]:
    """Return a node's numbers on whole splits: its own, or else (a swept point) those of its newest sweep."""
    every = reader.all(Evaluation, node_id=node.id, subset="all")
    own = [e for e in every if e.sweep_id is None]
    return own or [e for e in every if e.sweep_id == every[-1].sweep_id]


def recipe(
    connection: Connection,
    parameter: Sequence[float],
    coefficients: Sequence[float],
    nodes: Sequence[Node],
    policy: str,
) -> dict[str, Any]:
    """Describe a point of a connection: its parameter, and its coefficients over stored nodes."""
    return {
        "format": 1,
        "connection": connection.id,
        "kind": connection.kind,
        "family": json.loads(connection.family),
        "parameter": list(parameter),
        "terms": [{"node": n.id, "name": label(n), "c": c} for n, c in zip(nodes, coefficients, strict=True) if c],
        "batchnorm": policy,
        "versions": versions(),
    }


def data_facts(workspace: Workspace) -> dict[str, Any]:
    """Describe the data, so that others can give the network the same inputs.

    These are ``(x * scale - mean) / std``, per channel, for inputs x with the given type and range.
    """
    test = workspace.task.test
    facts: dict[str, Any] = {"spec": workspace.space.data, "input_shape": _listed(test.input_shape)}
    facts |= {"fingerprint": workspace.space.data_hash, "valid_seed": workspace.task.valid_seed}
    facts |= {"examples": {name: len(split) for name, split in workspace.task.splits.items()}}
    facts |= {"mean": list(workspace.task.mean or (0.0,)), "std": list(workspace.task.std or (1.0,))}
    if isinstance(test, ArraySplit) and isinstance(x := test.inputs, torch.Tensor):
        kind = dtype_name(x.dtype)
        facts |= {"dtype": kind, "range": [x.min().item(), x.max().item()]}
        facts["scale"] = 1 / 255 if kind == "uint8" else 1.0
    return facts


def _listed(shapes: Shapes) -> Any:
    """Write shapes as JSON has them."""
    return (
        {name: list(shape) for name, shape in shapes.items()}
        if isinstance(shapes, dict)
        else [list(extent) if isinstance(extent, tuple) else extent for extent in shapes]
    )
