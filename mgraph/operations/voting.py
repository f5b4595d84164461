"""Ensembles of any set of models, compared with the best single one and independent modes of equal number or cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.alone import alone
from mgraph.data.labels import counting
from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.evaluate.metric_names import resolve_metrics
from mgraph.evaluate.metrics import Measured
from mgraph.evaluate.running import WHOLE_BYTES
from mgraph.fields import are_labels
from mgraph.jobs.points import EnsembleJob
from mgraph.merge.calibration import (
    classifies,
    fit_temperature,
    guessed_classes,
    log_likelihoods,
    require_classes,
    require_validation,
)
from mgraph.merge.compare import Difference
from mgraph.merge.ensemble import Prediction, Tally, targets_of
from mgraph.merge.weights import convex_weights, greedy_members
from mgraph.metric import Metric
from mgraph.models.costs import costs_of, independent_modes, memory_of, trained_for
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member, ModelSet, resolve
from mgraph.operations.deciding import rank
from mgraph.operations.voted import EnsembleResult, Voted, class_table, disagreement_of
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.session.members import label
from mgraph.session.session import Session
from mgraph_store import Connection, Node, Reader, Run, Summary

SPLITS = ("valid", "test")
CALIBRATION = ("nll", "brier", "ece")

SINGLE, CORNERS, EQUAL_NUMBER, EQUAL_COST, PLAIN, FITTED = range(6)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Recipe:
    """An ensemble: what it is, and the weight and temperature of each of the models involved, shape (A,)."""

    what: str
    kind: int
    weights: Floats
    temperatures: Floats

    @property
    def places(self) -> list[int]:
        """The indices of models with a weight."""
        return np.flatnonzero(self.weights).tolist()


@alone
def ensemble(
    session: Session, job: EnsembleJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> EnsembleResult:
    """Evaluate the ensemble of a set of models, and those with which it is compared.

    Members vote as the task defines (``combine``), equally unless the job asks for weights or for a greedy selection;
    temperatures, weights and selection come from validation data. Raises InputError for a set that does not exist, if
    the task does not define how to vote, for outputs too large to keep, and for what a task without class labels cannot
    have. What members predict is cached, so an interrupted run is soon back where it was.
    """
    chosen = resolve(session, job.members, resumed)
    predictor = Predictor(session, chosen.space, job.bn_examples)
    task = predictor.workspace.task
    require_votes(predictor)
    _check(job, task)
    asked = _Asked.of(session, chosen)
    predictor.check_code(asked.members)
    predictor.look_up(asked.members)
    settings: dict[str, Any] = {"members": list(job.members), "batchnorm": predictor.policies(asked.models.members)}
    settings |= {"temperature": job.temperature, "weights": job.weights, "greedy": job.greedy}
    with session.run(predictor.workspace, "ensemble", settings, job=job, resumed=resumed) as run:
        looked = _look(predictor, asked, job, progress)
        recipes = _recipes(session, asked, looked, job, task.primary)
        votes, said = _vote(predictor, asked, recipes, progress)
        result = _result(session, asked, looked, recipes, votes, said)
        with session.store.transaction() as tx:
            if asked.models.grid is not None and result.corners is not None:
                tx.add(*_summaries(chosen.connections[0], run.id, result))
            run.complete(tx)
    return result


@dataclass(frozen=True)
class _Asked:
    """All models involved: first the set's own, then any other corners and independent modes.

    ``names`` are for people; ``corners`` and ``modes`` are indices; ``sources`` are the modes and connections that had
    to be trained for each.
    """

    models: ModelSet
    members: tuple[Member, ...]
    names: tuple[str, ...]
    corners: tuple[int, ...]
    modes: tuple[int, ...]
    sources: tuple[tuple[frozenset[str], frozenset[str]], ...]

    @classmethod
    def of(cls, session: Session, models: ModelSet) -> _Asked:
        members = list(models.members)
        places = {member.terms: i for i, member in enumerate(members)}

        def place_of(node: Node) -> int:
            terms = ((node.id, 1.0),)
            if terms not in places:
                places[terms] = len(members)
                members.append(Member(label(node), terms, node))
            return places[terms]

        with session.store.reading() as reader:
            corners = tuple(place_of(end) for end in models.ends)
            modes = tuple(place_of(mode) for mode in independent_modes(reader, models.space))
            alone = [member.corner for member in members if member.corner is not None]
            nodes = {node.id: node for node in reader.all(Node, id=alone)} if alone else {}
            sources = [_sources(reader, models, member, nodes) for member in members]
        names = [m.label if m.corner is None else label(nodes[m.corner]) for m in members]
        return cls(models, tuple(members), tuple(names), corners, modes, tuple(sources))

    @property
    def own(self) -> int:
        """The number of models that belong to the set."""
        return len(self.models)

    def cost(self, session: Session, places: Iterable[int]) -> float | None:
        """Return what some of the models together cost to train, in T; None if that is not recorded."""
        used = [self.sources[i] for i in places]
        modes = frozenset().union(*(one for one, _ in used))
        ids = frozenset().union(*(other for _, other in used))
        with session.store.reading() as reader:
            connections = reader.all(Connection, id=sorted(ids)) if ids else []
            return costs_of(session, self.models.space, sorted(modes), connections).total


def _sources(
    reader: Reader, models: ModelSet, member: Member, nodes: Mapping[str, Node]
) -> tuple[frozenset[str], frozenset[str]]:
    if member.corner is not None:
        return trained_for(reader, nodes[member.corner])
    assert member.connection is not None
    return frozenset(models.joined[member.connection.id]), frozenset({member.connection.id})


def _check(job: EnsembleJob, task: Task) -> None:
    for what, wanted in (
        ("A temperature", job.temperature),
        ("Learned weights", job.weights),
        ("A greedy selection", job.greedy is not None),
    ):
        if wanted:
            require_classes(task, what)
            require_validation(task, what)
    if job.weights and job.greedy is not None:
        raise InputError("Members are either weighted or chosen greedily; give one of weights and greedy.")
    if job.greedy is not None and job.greedy < 1:
        raise InputError(f"A greedy ensemble may have at least 1 member, not {job.greedy}.")


@dataclass(frozen=True)
class _Looked:
    """What validation data say about each model: its temperature, the likelihoods of labels, and its numbers."""

    temperatures: Floats
    likelihoods: NDArray[np.float32] | None
    results: tuple[dict[str, Measured] | None, ...]


def _look(predictor: Predictor, asked: _Asked, job: EnsembleJob, progress: ProgressCallback) -> _Looked:
    task = predictor.workspace.task
    targets = targets_of(task.valid)
    singles = {i for i, member in enumerate(asked.members) if member.corner is not None}
    temperatures, likelihoods = np.ones(len(asked.members)), []
    results: list[dict[str, Measured] | None] = []
    for i, member in enumerate(asked.members):
        out = predictor.outputs(member, {split: task.splits[split] for split in SPLITS})["valid"]
        if job.temperature:
            assert isinstance(targets, torch.Tensor)
            temperatures[i] = fit_temperature(*task.without_void(out, targets), task.void)
        if (job.weights or job.greedy is not None) and i < asked.own:
            assert isinstance(targets, torch.Tensor)
            counts = counting(targets, task.void)
            logp = log_likelihoods(out, targets, task.void, float(temperatures[i]))[counts]
            likelihoods.append(logp.exp().float().numpy())
        if i in singles:
            tally = Tally(task, targets, 1)
            tally.add(0, out)
            results.append(tally.prediction(0).measured())
        else:
            results.append(None)
        progress(Progress("ensemble", i + 1, len(asked.members)))
    return _Looked(temperatures, np.stack(likelihoods) if likelihoods else None, tuple(results))


def _recipes(session: Session, asked: _Asked, looked: _Looked, job: EnsembleJob, primary: Metric) -> list[_Recipe]:
    """Return the best single model, the ensembles with which it is compared, and last the requested one."""
    size, own = len(asked.members), list(range(asked.own))
    plain = np.ones(size)

    def equal(what: str, places: Sequence[int], kind: int) -> _Recipe:
        weights = np.zeros(size)
        weights[list(places)] = 1.0
        return _Recipe(what, kind, weights, plain)

    ranks = {i: rank(found, primary) for i, found in enumerate(looked.results) if found is not None}
    best = min((i for i in dict.fromkeys([*asked.corners, *own]) if i in ranks), key=lambda i: ranks[i])
    corner = "corner " if best in asked.corners else ""
    found = [equal(f"single {corner}{asked.names[best]}", [best], SINGLE)]
    if asked.corners:
        found.append(equal("ensemble of the corners", asked.corners, CORNERS))
    if asked.modes:
        cost = asked.cost(session, own)
        for kind, wanted in ((EQUAL_NUMBER, len(own)), (EQUAL_COST, None if cost is None else int(cost + 1e-9))):
            if wanted:
                found.append(equal(_modes_text(len(asked.modes), wanted, kind), asked.modes[:wanted], kind))
    points = all(member.connection is not None for member in asked.models.members)
    whole = f"ensemble of {len(own)} {'point' if points else 'model'}{'' if len(own) == 1 else 's'}"
    found.append(equal(whole, own, PLAIN))
    if job.temperature or job.weights or job.greedy is not None:
        found.append(_fitted(looked, job, own, size, whole))
    return found


def _modes_text(there: int, wanted: int, kind: int) -> str:
    used = min(there, wanted)
    text = f"{used} independent mode{'' if used == 1 else 's'}"
    what = "number" if kind == EQUAL_NUMBER else "cost"
    return f"{text} (equal {what})" if used == wanted else f"{text} (equal {what}: {wanted})"


def _fitted(looked: _Looked, job: EnsembleJob, own: Sequence[int], size: int, whole: str) -> _Recipe:
    weights = np.zeros(size)
    text = []
    if job.greedy is not None:
        assert looked.likelihoods is not None
        kept = greedy_members(looked.likelihoods, job.greedy)
        weights[kept] = 1.0
        whole = f"{len(kept)} of them, chosen greedily"
    elif job.weights:
        assert looked.likelihoods is not None
        weights[: len(own)] = convex_weights(looked.likelihoods)
        text.append("learned weights")
    else:
        weights[: len(own)] = 1.0
    if job.temperature:
        text.append("temperatures")
    what = f"{whole}, with {' and '.join(text)}" if text else whole
    return _Recipe(what, FITTED, weights, looked.temperatures)


def _vote(
    predictor: Predictor, asked: _Asked, recipes: Sequence[_Recipe], progress: ProgressCallback
) -> tuple[list[dict[str, Prediction]], list[NDArray[np.int64]]]:
    """Let all models vote, one at a time, in every ensemble they belong to; also return the votes of the set's own.

    These votes are the labels on test data, shape (N,) each; empty without classes.
    """
    task = predictor.workspace.task
    splits = {split: task.splits[split] for split in SPLITS}
    tallies = {split: Tally(task, targets_of(data), len(recipes)) for split, data in splits.items()}
    said: list[NDArray[np.int64]] = []
    for i, member in enumerate(asked.members):
        used = [(r, recipe) for r, recipe in enumerate(recipes) if recipe.weights[i] > 0]
        labelled = classifies(task) and i < asked.own
        if not used and not labelled:
            continue
        out = predictor.outputs(member, splits)
        for split in SPLITS:
            for r, recipe in used:
                tallies[split].add(r, out[split], float(recipe.weights[i]), float(recipe.temperatures[i]))
        if labelled:
            said.append(out["test"].argmax(1).numpy())
        progress(Progress("voting", i + 1, len(asked.members)))
    return [{split: tallies[split].prediction(r) for split in SPLITS} for r in range(len(recipes))], said


def _result(
    session: Session,
    asked: _Asked,
    looked: _Looked,
    recipes: Sequence[_Recipe],
    votes: Sequence[dict[str, Prediction]],
    said: Sequence[NDArray[np.int64]],
) -> EnsembleResult:
    task = votes[0]["test"].task
    further = resolve_metrics(CALIBRATION, task) if classifies(task) else ()
    with session.store.reading() as reader:
        costs = [asked.cost(session, recipe.places) for recipe in recipes]
        used = frozenset().union(*(asked.sources[i][0] for i in range(asked.own)))
        memory = memory_of(reader, sorted(used), guessed_classes(task))
    rows, by_kind = [], {}
    for recipe, vote, cost in zip(recipes, votes, costs, strict=True):
        results = {split: vote[split].measured(further) for split in SPLITS}
        names = tuple(asked.names[i] for i in recipe.places)
        rows.append(Voted(recipe.what, names, cost, results))
        by_kind[recipe.kind] = len(rows) - 1
    asked_for = recipes[-1]
    own = slice(0, asked.own)

    def gain(one: int, other: int) -> Difference | None:
        if one not in by_kind or other not in by_kind:
            return None
        return votes[by_kind[one]]["test"].better_than(votes[by_kind[other]]["test"])

    last = recipes[-1].kind
    weights = asked_for.weights[own]
    corners = by_kind.get(CORNERS)
    return EnsembleResult(
        single_name=asked.names[recipes[0].places[0]],
        rows=tuple(rows),
        single=rows[0].results,
        corners=None if corners is None else rows[corners].results,
        plain=rows[by_kind[PLAIN]].results,
        whole=rows[-1].results,
        corners_gain=gain(CORNERS, SINGLE),
        grid_gain=gain(last, CORNERS),
        gain=gain(last, SINGLE),
        metric=task.primary.name,
        labels=tuple(member.label for member in asked.models.members),
        weights=weights / weights.sum(),
        temperatures=looked.temperatures[own],
        memory=memory,
        grid=asked.models.grid,
        disagreement=disagreement_of(said) if said else None,
        classes=_classes(votes[-1]["test"]),
        notes=_notes(votes[-1]["valid"], votes[0]["valid"], recipes[0].what),
    )


def _notes(vote: Prediction, single: Prediction, what: str) -> list[str]:
    """Say where validation data speak against the ensemble."""
    found = vote.better_than(single)
    if found is None or found.verdict != "worse":
        return []
    return [f"the ensemble is worse than the {what} on validation data: use that instead"]


def _classes(vote: Prediction) -> tuple[dict[str, Any], ...]:
    task, targets = vote.task, vote.targets
    if not classifies(task) or not isinstance(targets, torch.Tensor):
        return ()
    assert task.classes is not None
    return tuple(class_table(vote.votes.argmax(1), targets.long(), task.classes, counting(targets, task.void)))


def _summaries(connection: Connection, run_id: str, result: EnsembleResult) -> list[Summary]:
    """Return the rows stored with the connection whose grid voted."""
    assert result.corners is not None
    return [
        Summary(connection.id, None, run_id, split, metric, statistic, m.value, m.standard_error)
        for statistic, measured in (("ensemble_corners", result.corners), ("ensemble_grid", result.plain))
        for split, metrics in measured.items()
        for metric, m in metrics.items()
        if metric not in CALIBRATION
    ]


def require_votes(predictor: Predictor) -> None:
    """Raise InputError before the work starts if members cannot vote, or their votes take too much memory."""
    flat, task, name = predictor.workspace.flat, predictor.workspace.task, predictor.workspace.space.name
    if task.combine is None:
        raise InputError(
            f"The task of space {name} does not say how members of an ensemble vote: add combine= to it, "
            '"softmax" (outputs are logits of classes), "sigmoid" (logits of labels) or "mean" (outputs themselves).'
        )
    count = min(len(task.test), flat.least_batch)
    x, y = task.test.examples(torch.arange(count), device=flat.device)
    with torch.no_grad():
        flat.module.eval()
        out = flat.run(x)
    if task.combine == "softmax" and (not isinstance(out, torch.Tensor) or out.ndim < 2 or not are_labels(y)):
        raise InputError(
            f"An ensemble averages class probabilities, and the task of space {name} is not a classification: outputs "
            'must be (N, classes, …) and targets integers; combine="mean" in the task averages the outputs.'
        )
    needed = 8 * out.numel() / count * max(len(task.splits[split]) for split in SPLITS)
    if needed > WHOLE_BYTES:
        raise InputError(
            f"The votes of one member are {needed / 2**30:.1f} GiB, more than {WHOLE_BYTES / 2**30:g}: an ensemble "
            "keeps the mean of all of them; take fewer examples for valid and test."
        )
