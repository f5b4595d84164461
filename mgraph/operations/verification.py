"""Checking, on a few examples before a mode is added, that what is stored is the function that was trained.

A network built from another seed is given the mode's tensors as they are stored; its outputs must be those of the
network that was trained. Anything that a network holds besides its tensors and changes in training shows here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.calling import call
from mgraph.errors import InputError
from mgraph.fields import copied
from mgraph.network.flat import FlatModel
from mgraph.network.probing.state import unstored_differences
from mgraph.network.probing.traces import all_close, blamed, largest_difference, tensors_in, traced
from mgraph.network.probing.untouched import untouched
from mgraph.operations.rescue import write_aside
from mgraph.session.constants import few_outputs
from mgraph.session.meeting import NetworkWarning, first_examples, tell
from mgraph.session.points import load_buffers
from mgraph.session.workspace import Workspace

OUTPUTS = "outputs."  # prefix in the arrays kept of an epoch


def check_network(workspace: Workspace) -> None:
    """Refuse, before training, a network that would be handled wrongly; InputError names the module at fault."""
    if not workspace.met:
        workspace.probe()
        workspace.met = True


def check_point(workspace: Workspace, parameters: NDArray[np.float32], buffers: Mapping[str, NDArray[Any]]) -> None:
    """Probe the network at a point from elsewhere, and report the findings; InputError as for the probe."""
    workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(np.array(parameters))))
    if buffers:
        load_buffers(workspace, buffers)
    tell(workspace.probe(workspace.flat), stacklevel=7)


def outputs_now(workspace: Workspace, flat: FlatModel) -> dict[str, NDArray[Any]]:
    """Return a network's outputs on a few examples as arrays to keep; it is left as it was."""
    with untouched(flat.module):
        found = tensors_in(few_outputs(workspace, flat))
    return {f"{OUTPUTS}{number:03}": t.float().cpu().numpy() for number, t in enumerate(found)}


def check_reproduced(
    workspace: Workspace,
    seed: int,
    parameters: NDArray[np.float32],
    buffers: Mapping[str, NDArray[Any]],
    outputs: Sequence[NDArray[Any]],
    saved_as: str,
) -> None:
    """Raise InputError unless a network built from another seed gives these outputs with these tensors.

    The tensors are then written to a file in the working directory, so that the training is not lost. If the other
    network cannot be built or run, a warning says that nothing could be checked.
    """
    before = [torch.from_numpy(np.array(array)) for array in outputs]
    try:
        other = workspace.new_network(seed + 1)
        other.theta.copy_(other.pack(torch.from_numpy(np.array(parameters))))
        load_buffers(workspace, buffers, other)
        again = [torch.from_numpy(array) for array in outputs_now(workspace, other).values()]
    except Exception as error:  # in the user's code: what was trained must be stored anyway
        why = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"It could not be checked whether what is stored is what was trained ({why}).", NetworkWarning, stacklevel=4
        )
        return
    if all_close(before, again):
        return
    file = write_aside(workspace.layout, f"{saved_as}-refused", parameters, buffers)
    raise InputError(
        f"The trained network is more than its tensors: a new network of {workspace.space.arch} that holds them "
        f"gives different outputs, by up to {largest_difference(before, again):.2g}"
        f"{_blame(workspace.flat, other, workspace)}. So it was not added; its tensors are in {file.name}. Keep in "
        f"parameters and persistent buffers all that the network "
        f"computes with and changes in training, and train again, or add that file with add-mode."
    )


def _blame(trained: FlatModel, other: FlatModel, workspace: Workspace) -> str:
    x, _ = first_examples(workspace.task, trained.device)
    names = unstored_differences(trained.module, other.module)
    traces = []
    for flat in (trained, other):
        with untouched(flat.module), torch.no_grad():
            flat.module.eval()
            traces.append(traced(flat.module, partial(call, flat.module, copied(flat.inputs(x)))))
    first = blamed(traces[0], traces[1])
    where = f"module {first}" if first else "the network's own forward"
    return f", first in {where}" + (f" ({', '.join(names[:3])})" if names else "")
