"""Adding modes: trained here, or imported from a checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.alone import alone
from mgraph.errors import InputError, MGraphWarning
from mgraph.evaluate.batchnorm import OWN
from mgraph.evaluate.metrics import Measured
from mgraph.evaluate.similarity import similarities
from mgraph.jobs.modes import AddModeJob, AddObjectJob, AddPointJob, TrainJob
from mgraph.network.checkpoints import Options
from mgraph.operations.evaluating import measure_stored, still_stored, warn_of_own_statistics
from mgraph.operations.export import further_states
from mgraph.operations.importing import fit_file, fit_object, recompute_own, warn_if_stale
from mgraph.operations.made import (
    Made,
    check_beginning,
    copied,
    copies_of,
    further_names,
    seeds_of_others,
    what_was_made,
)
from mgraph.operations.rescue import rescued
from mgraph.operations.verification import check_network, check_point, check_reproduced
from mgraph.progress import ProgressCallback, silent
from mgraph.session.members import label, still_there
from mgraph.session.points import evaluate_splits, load_buffers, module_buffers, own_policy, start_at
from mgraph.session.runs import RunLog
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, check_name_is_free, require_finite, store_point
from mgraph.session.workspace import Workspace
from mgraph.train.mode import check_training, plan_of, train_mode
from mgraph.train.parallel import joined
from mgraph.train.recipes import RECIPES, RecipeWarning
from mgraph.train.watch import Observed
from mgraph_store import Node, Run, Series, Space, Transaction, new_id


class SimilarModeWarning(MGraphWarning):
    """A new mode is not independent of one that is already there."""


@alone
def add_trained_mode(
    session: Session, job: TrainJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> Node:
    """Train a mode and add it with its evaluations, and everything else that its settings ask for.

    This may be copies of earlier epochs, members of an ensemble, averages, or the vertices of a simplex. A training
    that ends in a member adds only its members; the last one is returned.

    If an interrupted run of this job is ``resumed``, it continues where that run was saved. Under torchrun, all
    processes train together and the first one stores, before anything is measured. Raises InputError for settings that
    do not suit the node it starts from, and NonFiniteError, naming the step, when training diverges; the graph then
    holds only the failed run.
    """
    settings, name = job.settings, job.name
    with session.store.reading() as reader:
        space = still_there(reader, Space, job.space, resumed)
        init = None if job.init is None else still_there(reader, Node, job.init, resumed)
        check_beginning(settings, init)
        for wanted in (name, *further_names(settings, name)):
            check_name_is_free(session, wanted)
    with joined(session.device) as workers:
        workspace = session.workspace(space)
        workspace.task  # noqa: B018  (load the data before the run starts: bad input is not a run)
        flat = workspace.new_network(settings.seed)
        workspace.flat = flat
        if init is not None:
            start_at(session, workspace, flat, init)
        check_network(workspace)
        check_training(flat, workspace.task, settings)
        plan = plan_of(flat, workspace.task, settings)
        for copy in plan.copies.values():
            check_name_is_free(session, f"{name}-{copy.suffix}")
        _warn_if_other(job.preset, workspace)
        stated = asdict(settings) | {"space": space.name, "init": job.init, "preset": job.preset}
        with session.run(workspace, "train", stated, settings.seed, job=job, resumed=resumed) as run:

            def collect(step: int) -> None:
                run.checkpointer.append(copied(workspace, step))

            trained = train_mode(
                flat,
                workspace.task,
                settings,
                others=[workspace.new_network(seed).theta for seed in seeds_of_others(settings)],
                collect=collect,
                progress=progress,
                checkpointer=run.checkpointer,
            )
            made = what_was_made(workspace, name, settings, plan, trained, copies_of(run.checkpointer, plan))
            info = {"origin": "train", "settings": asdict(settings), "notes": trained.notes}
            info |= {} if init is None else {"init": init.id}
            info |= {} if job.preset is None else {"preset": job.preset}
            if workers.rank > 0:
                return Node(new_id("m"), "mode", space.id)
            for mode in made:
                if mode.outputs:  # a run begun by an older version kept no outputs
                    check_reproduced(
                        workspace, settings.seed, mode.parameters, mode.buffers, mode.outputs, mode.name or run.id
                    )
            return _keep_modes(session, workspace, run, made, info, trained.history, stopped=trained.stopped)


@alone
def add_imported_mode(
    session: Session, job: AddModeJob | AddObjectJob, *, progress: ProgressCallback = silent
) -> tuple[Node, list[str]]:
    """Add a mode from a checkpoint file, or from weights in memory; return it with notes on what was done to it.

    Raises LayoutMismatchError naming the first tensor whose name, shape or dtype does not fit the space, InputError if
    the file leaves a choice that ``options`` do not make, TrainedCurveError if it holds a trained curve, and
    NonFiniteError for NaN or infinity; nothing is added then.
    """
    del progress  # it is short
    options = Options(job.cast, job.weights, job.ignore, job.recompute_batchnorm)
    with session.store.reading() as reader:
        space = reader.get(Space, id=job.space)
    check_name_is_free(session, job.name)
    workspace = session.workspace(space)
    if isinstance(job, AddModeJob):
        fitted, info = fit_file(workspace, Path(job.file), options)
    else:
        fitted, info = fit_object(workspace, job.weights_of, options)
    check_point(workspace, fitted.parameters, fitted.buffers)
    named = {"file": str(Path(job.file))} if isinstance(job, AddModeJob) else {"object": info["blake2b"]}
    stated = asdict(options) | named | {"space": space.name}
    with session.run(workspace, "add-mode", stated, job=job) as run:
        buffers = fitted.buffers
        if options.recompute:
            recompute_own(workspace, fitted)
            buffers = module_buffers(workspace.flat, workspace.layout)
        made = Made(job.name, fitted.parameters, buffers)
        recorded = job.recorded if isinstance(job, AddObjectJob) else None
        if recorded is not None:  # a training loop is waiting: store what was trained before anything else can fail
            node = _keep_modes(session, workspace, run, [made], info | dict(recorded), [], stopped=None)
        else:
            node = _commit_modes(session, workspace, run, [made], info)
        if not options.recompute:
            warn_if_stale(workspace, node, fitted)
        return node, fitted.notes


@alone
def add_placed_mode(session: Session, job: AddPointJob, *, progress: ProgressCallback = silent) -> Node:
    """Add the point with these D coordinates, in canonical order, as a mode, and evaluate it.

    Buffers are those of a fresh network. InputError for a wrong number of coordinates, or one not finite in float32.
    """
    del progress  # it is short
    values = job.coordinates
    with session.store.reading() as reader:
        space = reader.get(Space, id=job.space)
    check_name_is_free(session, job.name)
    workspace = session.workspace(space)
    parameters = np.asarray(values, dtype=np.float32)
    if parameters.shape != (workspace.layout.size,):
        raise InputError(f"A point of {space.name} has {workspace.layout.size} coordinates; {len(values)} given.")
    if not np.isfinite(parameters).all():
        raise InputError("The coordinates of a point must be finite numbers.")
    flat = workspace.new_network(seed=0)
    with session.run(workspace, "add-mode", {"at": parameters.tolist(), "space": space.name}, job=job) as run:
        made = Made(job.name, parameters, module_buffers(flat, workspace.layout))
        return _commit_modes(session, workspace, run, [made], {"origin": "coordinates"})


def _warn_if_other(preset: str | None, workspace: Workspace) -> None:
    """Warn if a recipe is for a network or data other than the space's."""
    recipe = RECIPES.get(preset or "")
    if recipe is None:
        return
    task = workspace.task
    if differences := recipe.differences(workspace.space.arch, task.input_shape, task.classes):
        warnings.warn(f"The preset {preset} is for {' and for '.join(differences)}.", RecipeWarning, stacklevel=5)


def _keep_modes(
    session: Session,
    workspace: Workspace,
    run: RunLog,
    made: Sequence[Made],
    info: dict[str, Any],
    history: Sequence[Observed],
    *,
    stopped: str | None,
) -> Node:
    """Store what was trained, all or nothing, and only then measure it; return the last mode, which gets the history.

    ``stopped`` says which budget ended the training, if one did. Raises InputError if the modes cannot be measured, and
    NonFiniteError if a loss is not finite; they stay stored.
    """
    info = info | further_states(workspace.flat.module)
    tensors = {mode.name or run.id: (mode.parameters, mode.buffers) for mode in made}
    with rescued(session, run, workspace.layout, tensors), session.store.transaction() as tx:
        nodes = [_store(tx, workspace, run, mode, {}, info) for mode in made]
        tx.add(*[Series(None, run.id, **asdict(series), node_id=nodes[-1].id) for series in history])
        run.complete(tx, reason=stopped)
    for node, mode in zip(nodes, made, strict=True):
        with still_stored(node):
            _load(workspace, mode)
            measure_stored(session, workspace, run, node)
            warn_of_own_statistics(session, workspace, node)
    _warn_if_similar(session, workspace, nodes[-1], made[-1].parameters)
    return nodes[-1]


def _load(workspace: Workspace, mode: Made) -> None:
    workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(mode.parameters)))
    if mode.buffers:
        load_buffers(workspace, mode.buffers)


def _store(
    tx: Transaction,
    workspace: Workspace,
    run: RunLog,
    mode: Made,
    results: Mapping[str, Mapping[str, Measured]],
    info: dict[str, Any],
) -> Node:
    _load(workspace, mode)
    return store_point(
        tx,
        workspace,
        run.id,
        "mode",
        MeasuredPoint(mode.parameters, results, OWN, own_policy(workspace)),
        info=info | dict(mode.facts),
        name=mode.name,
    )


def _commit_modes(
    session: Session, workspace: Workspace, run: RunLog, made: Sequence[Made], info: dict[str, Any]
) -> Node:
    """Evaluate and store modes of one run, all or nothing; return the last one."""
    info = info | further_states(workspace.flat.module)
    with session.store.transaction() as tx:
        for mode in made:
            _load(workspace, mode)
            results = evaluate_splits(workspace)
            require_finite(results, "The mode")
            node = _store(tx, workspace, run, mode, results, info)
        run.complete(tx)
    _warn_if_similar(session, workspace, node, made[-1].parameters)
    return node


_OTHERS, _COORDINATES = 64, 1 << 20
"""With how many of the newest modes a new one is compared, on how many parameters: a graph may have thousands."""


def _warn_if_similar(session: Session, workspace: Workspace, node: Node, parameters: NDArray[np.float32]) -> None:
    part = parameters[:_COORDINATES]
    with session.store.reading() as reader:
        others = [n for n in reader.all(Node, kind="mode", space_id=workspace.space.id) if n.id != node.id]
    begun, trajectory = (json.loads(node.info).get(key) for key in ("init", "trajectory"))
    # Earlier epochs of the same run are meant to be alike, and so are modes of one beginning, and that itself.
    others = [n for n in others if n.run_id != node.run_id]
    if trajectory is not None:
        others = [n for n in others if json.loads(n.info).get("trajectory") != trajectory]
    if begun is not None:
        others = [n for n in others if n.id != begun and json.loads(n.info).get("init") != begun]
    for other in others:
        if other.digest == node.digest:
            warnings.warn(
                f"{label(node)} has exactly the parameters of {label(other)}: the same checkpoint twice.",
                SimilarModeWarning,
                stacklevel=7,
            )
    for other in [n for n in others if n.digest != node.digest][-_OTHERS:]:
        theirs = session.store.computation(other).read(0, len(part))
        found = similarities(workspace.layout.parameters, 2, [(0, [part, theirs])])[0, 1]
        if found.same_run:
            warnings.warn(
                f"{label(node)} is not an independent run of {label(other)}: the median cosine similarity of their "
                f"layers is {found.median_cosine:.2f}, where independent runs have about 0. Same seed, or one "
                f"trained on?",
                SimilarModeWarning,
                stacklevel=7,
            )
