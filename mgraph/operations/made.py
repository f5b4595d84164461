"""The modes that a training produces: its end, copies, members, averages, vertices of a simplex."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import applicable, recompute_statistics
from mgraph.operations.verification import OUTPUTS, outputs_now
from mgraph.session.members import label
from mgraph.session.points import module_buffers
from mgraph.session.workspace import Workspace
from mgraph.train.mode import TrainedMode
from mgraph.train.plan import Plan
from mgraph.train.schedules import name_of
from mgraph.train.settings import TrainSettings
from mgraph.train.state import Arrays, Checkpointer
from mgraph_store import Node


@dataclass(frozen=True)
class Made:
    """A mode to be stored: its name, parameters (D,), and buffers by dtype.

    ``outputs`` are those of the trained network on a few examples; ``facts`` is what is recorded about this mode
    besides what it shares with the others of its run.
    """

    name: str | None
    parameters: NDArray[np.float32]
    buffers: Mapping[str, NDArray[Any]]
    outputs: Sequence[NDArray[Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def check_beginning(settings: TrainSettings, init: Node | None) -> None:
    """Raise InputError unless a training may start from this node, or from fresh weights (None)."""
    if settings.simplex is not None and init is not None:
        raise InputError("simplex trains its vertices from fresh weights, each of its own; leave --init out.")
    if settings.swa and init is None and name_of(settings.schedule) != "swa":
        raise InputError(
            f"Under the schedule {settings.schedule} swa averages weights from the first steps on, so it goes on from "
            "a trained mode: add --init NODE, or leave the schedule out."
        )
    if not settings.fge:
        return
    if init is None:
        raise InputError("fge goes on from a trained mode: add --init NODE. From fresh weights there is snapshot.")
    theirs = json.loads(init.info).get("settings")
    if isinstance(theirs, dict) and isinstance(theirs.get("optimizer"), str):
        now, then = (settings.optimizer, settings.optimizer_settings), (theirs["optimizer"], _pairs(theirs))
        if now != then:
            raise InputError(
                f"{label(init)} was trained by {_spelt(*then)}, and fge by {_spelt(*now)} would begin in another state "
                f"than it ended in: add --optimizer {_spelt(*then)}, or train it on by the other one first "
                f"(train --init {label(init)})."
            )


def _pairs(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, settings.get("optimizer_settings") or ()))


def _spelt(optimizer: str, pairs: Sequence[str]) -> str:
    return optimizer + (f" --optimizer-settings {','.join(pairs)}" if pairs else "")


def further_names(settings: TrainSettings, name: str | None) -> list[str]:
    """Return the names, besides the training's own, that are known before the data are; InputError without a name."""
    wanted = {
        "keep": (settings.keep, "the copies are called NAME-EPOCH"),
        "fge": (settings.fge, "the members are called NAME-1, NAME-2, …"),
        "snapshot": (settings.snapshot, "the members are called NAME-1, NAME-2, …"),
        "simplex": (settings.simplex, "the vertices are called NAME-1, NAME-2, …"),
        "ema": (settings.ema, "the average is called NAME-ema"),
        "swa": (settings.swa, "the average is called NAME-swa"),
    }
    for key, (asked, why) in wanted.items():
        if asked and name is None:
            raise InputError(f"{key} needs a name: {why}.")
    suffixes: list[Any] = list(settings.keep)
    suffixes += range(1, 1 + (settings.simplex or 0))
    suffixes += [key for key in ("ema", "swa") if wanted[key][0]]
    return [f"{name}-{suffix}" for suffix in suffixes]


def seeds_of_others(settings: TrainSettings) -> list[int]:
    """Return the seeds for the fresh weights of all vertices except the first, whose seed is that of the settings."""
    return [
        int(np.random.SeedSequence([settings.seed, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        for k in range(1, settings.simplex or 1)
    ]


def copied(workspace: Workspace, step: int) -> Arrays:
    """Return the network's state after a step of its training, to be kept beside the saved states."""
    flat = workspace.flat
    theta = flat.unpack(flat.theta).numpy()
    buffers = module_buffers(flat, workspace.layout)
    return {"step": np.array(step), "parameters": theta, **buffers, **outputs_now(workspace, flat)}


def copies_of(checkpointer: Checkpointer, plan: Plan) -> dict[int, dict[str, NDArray[Any]]]:
    """Return the copies by step; if a stretch was trained again, the last one counts."""
    found = {}
    for number in range(checkpointer.count):
        kept = checkpointer.appended(number)
        # Earlier versions kept the number of the epoch.
        step = int(kept.pop("step")) if "step" in kept else int(kept.pop("epoch")) * plan.span.epoch
        found[step] = kept
    return dict(sorted(found.items()))


def what_was_made(
    workspace: Workspace,
    name: str | None,
    settings: TrainSettings,
    plan: Plan,
    trained: TrainedMode,
    copies: Mapping[int, dict[str, NDArray[Any]]],
) -> list[Made]:
    """Return the modes of a training; the last is its end, to which the history belongs. The network is moved."""
    flat = workspace.flat
    end = {} if trained.stopped else {"epoch": settings.epochs}
    last = flat.unpack(flat.theta).numpy(), module_buffers(flat, workspace.layout)
    outputs = list(outputs_now(workspace, flat).values())
    settled = partial(_settled, workspace, applicable(settings.augment))
    made = [_copy(f"{name}-{plan.copies[step].suffix}", kept, plan.copies[step].facts) for step, kept in copies.items()]
    if trained.average is not None:
        made.append(settled(f"{name}-ema", trained.average, end | {"ema": settings.ema}))
    if trained.mean is not None:
        made.append(settled(f"{name}-swa", trained.mean, end | {"swa": trained.taken}))
    if trained.vertices:
        for k, vertex in enumerate(trained.vertices):
            made.append(settled(f"{name}-{k + 1}", vertex, end | {"vertex": k + 1}))
        middle = torch.stack(trained.vertices).mean(dim=0)
        return [*made, settled(name, middle, end | {"simplex": len(trained.vertices)})]
    if plan.ends_in_member and not trained.stopped:
        made.append(made.pop(len(copies) - 1))  # the last member is the end
        return made
    return [*made, Made(name, *last, outputs, end)]


def _copy(name: str, kept: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Made:
    outputs = [kept[key] for key in sorted(kept) if key.startswith(OUTPUTS)]
    buffers = {k: v for k, v in kept.items() if k != "parameters" and not k.startswith(OUTPUTS)}
    return Made(name, kept["parameters"], buffers, outputs, facts)


def _settled(workspace: Workspace, augment: str, name: str | None, theta: Tensor, facts: Mapping[str, Any]) -> Made:
    """Return a mode at a point, shape (size,), with BatchNorm statistics recomputed: training's are not its own.

    They are from images augmented as the training's were.
    """
    flat = workspace.flat
    flat.theta.copy_(theta)
    if flat.recomputes:
        recompute_statistics(flat, workspace.task.train, workspace.policy(augment=augment))
    outputs = list(outputs_now(workspace, flat).values())
    return Made(name, flat.unpack(flat.theta).numpy(), module_buffers(flat, workspace.layout), outputs, facts)
