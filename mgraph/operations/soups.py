"""Soups: store the weighted average of a set of models as a merged node, if no barrier divides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from typing_extensions import override

from mgraph.alone import alone
from mgraph.data.labels import inside, per_example
from mgraph.errors import InputError
from mgraph.evaluate.metrics import SPLITS, Measured, measure_with_scores
from mgraph.fields import Fields, examples_in
from mgraph.jobs.points import SoupJob
from mgraph.merge.bestof import Decision, decide, halves
from mgraph.merge.calibration import classifies, fit_temperature, guessed_classes, require_validation
from mgraph.merge.compare import Difference, paired_difference
from mgraph.merge.soup import SOUPS, greedy_soup, learned_soup
from mgraph.models.costs import Memory, memory_of
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member, ModelSet, resolve
from mgraph.notebook import InNotebook
from mgraph.operations.deciding import BY_LIKELIHOOD, Comparison, Looked, Scores
from mgraph.operations.preflight import refuse_barriers, together
from mgraph.operations.voted import flat_numbers
from mgraph.operations.walls import refuse_a_wall
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.session.points import policy_name
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, check_name_is_free, require_finite, store_point
from mgraph_store import Node, NodeTerm, Reader, Run

Floats = NDArray[np.float64]
_BATCH = 500


@dataclass(frozen=True)
class SoupResult(InNotebook):
    """A soup and how good it is compared with its best ingredient, by the primary metric on validation data.

    ``weights``, shape (M,), belong to the ingredients ``labels``. ``decision`` says on validation data whether the soup
    is better than the ingredient ``baseline``, by ``decided_by``; ``difference`` is the paired test difference by the
    primary metric, or else by the loss; positive is better.
    """

    node: Node
    how: str
    labels: tuple[str, ...]
    weights: Floats
    results: dict[str, dict[str, Measured]]
    baseline: str
    ingredient: dict[str, dict[str, Measured]]
    decision: Decision | None
    decided_by: str
    difference: Difference | None
    metric: str
    memory: Memory
    notes: list[str] = field(default_factory=list)

    @override
    def _shown(self) -> dict[str, Any]:
        return self.to_dict()

    def table(self) -> list[dict[str, Any]]:
        """Return the soup and its best ingredient as rows: what it is, and every number as SPLIT_METRIC."""
        named = {self.node.name or self.node.id: self.results, f"ingredient {self.baseline}": self.ingredient}
        return [{"what": name} | flat_numbers(found, self.metric) for name, found in named.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        facts: dict[str, Any] = {
            "id": self.node.id,
            "name": self.node.name,
            "soup": self.how,
            "members": len(self.labels),
            "used": int(np.count_nonzero(self.weights)),
            "selected_on": self.node.selected_on,
            "against": self.baseline,
        }
        if self.decision is not None:
            d = self.decision
            facts |= {"points_looked_at": d.looked_at, "decided_by": self.decided_by, "valid_difference": d.value}
            facts |= {"standard_errors": d.errors, "standard_errors_needed": d.threshold, "verdict": d.verdict}
        if self.difference is not None:
            facts |= self.difference.to_dict("test_difference")
        weights = [{"member": n, "weight": w} for n, w in zip(self.labels, self.weights.tolist(), strict=True)]
        facts |= {"modes_memorised": self.memory.memorised, "notes": list(self.notes), "models": self.table()}
        return facts | {"weights": weights}


@alone
def soup(
    session: Session, job: SoupJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> SoupResult:
    """Store the average of a set of models as a merged node, with BatchNorm statistics recomputed for it.

    Weights are equal, chosen greedily or learned, the latter two on validation data. Raises InputError for fewer than
    two models, or if a barrier divides them or the average is on a wall, unless ``force``. An interrupted run starts
    again.
    """
    if job.how not in SOUPS:
        raise InputError(f"A soup is {', '.join(SOUPS)}, not {job.how!r}.")
    models = resolve(session, job.members, resumed)
    if len(models) < 2:
        raise InputError(f"A soup is an average of two models or more; this set has {len(models)}.")
    check_name_is_free(session, job.name)
    predictor = Predictor(session, models.space, job.bn_examples)
    here = predictor.workspace
    if job.how != "uniform":
        require_validation(here.task, f"A {job.how} soup")
    predictor.check_code(models.members)
    predictor.look_up(models.members)
    if not job.force:
        with session.threads(here):  # before the run begins: what is refused is no failed run
            refuse_barriers(session, predictor, models.members, progress)
    settings: dict[str, Any] = {"members": list(job.members), "soup": job.how}
    settings["batchnorm"] = predictor.policies(models.members)
    with session.run(here, "soup", settings, job=job, resumed=resumed) as run:
        cooking = _Cooking(predictor, models, progress)
        weights, decision, baseline = cooking.cook(job.how)
        predictor.place(models.members[baseline])
        ingredient = {split: measure_with_scores(here.flat, here.task, split) for split in SPLITS}
        with session.store.reading() as reader:
            terms = _stored_terms(reader, cooking.terms(weights))
        theta = predictor.place_sum(terms, models.members[0])
        found = {split: measure_with_scores(here.flat, here.task, split) for split in SPLITS}
        results = {split: one.measured for split, one in found.items()}
        require_finite(results, "The soup")
        alone_results = {split: one.measured for split, one in ingredient.items()}
        if not job.force:
            named = {models.members[baseline].label: alone_results}
            refuse_a_wall(results, named, here.task.primary, "valid")
        policy = policy_name(here, predictor.policy_of_sum(terms))
        info: dict[str, Any] = {"origin": "soup", "soup": job.how, "batchnorm": policy}
        info |= {"members": [m.label for m in models.members], "weights": weights.tolist()}
        with session.store.transaction() as tx:
            node = store_point(
                tx,
                here,
                run.id,
                "merged",
                MeasuredPoint(np.array(theta), results, policy, policy),
                info=info,
                name=job.name,
                selected_on=None if job.how == "uniform" else "valid",
            )
            tx.add(*[NodeTerm(node.id, i, source, c) for i, (source, c) in enumerate(terms)])
            run.complete(tx)
    mine, theirs = found["test"].scores, ingredient["test"].scores
    with session.store.reading() as reader:
        modes = [m.corner for m in models.members if m.corner is not None] + [end.id for end in models.ends]
        memory = memory_of(reader, dict.fromkeys(modes), guessed_classes(here.task))
    return SoupResult(
        node,
        job.how,
        tuple(m.label for m in models.members),
        weights,
        results,
        models.members[baseline].label,
        alone_results,
        decision,
        cooking.decided_by,
        None if mine is None or theirs is None else paired_difference(mine[1], theirs[1]),
        here.task.primary.name,
        memory,
        _notes(decision, models.members[baseline].label),
    )


def _notes(decision: Decision | None, baseline: str) -> list[str]:
    if decision is None or decision.verdict != "worse":
        return []
    return [f"the soup is worse than its best ingredient {baseline} on validation data: use that instead"]


def _stored_terms(reader: Reader, terms: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return terms over nodes with tensors: a derived node contributes its own terms, times its coefficient."""
    nodes = {n.id: n for n in reader.all(Node, id=[identifier for identifier, _ in terms])}
    found: list[tuple[str, float]] = []
    for identifier, c in terms:
        if nodes[identifier].tensor_key is not None:
            found.append((identifier, c))
            continue
        own = sorted(reader.all(NodeTerm, node_id=identifier), key=lambda term: term.position)
        found += [(term.source_id, c * term.coefficient) for term in own]
    return together(found)


class _Cooking:
    """Finds the weights of a soup on validation data, and decides there whether it is better than an ingredient."""

    def __init__(self, predictor: Predictor, models: ModelSet, progress: ProgressCallback) -> None:
        self._predictor, self._models, self._progress = predictor, models, progress
        self._task = predictor.workspace.task
        self.decided_by = BY_LIKELIHOOD if classifies(self._task) else self._task.primary.name

    def terms(self, weights: Floats) -> list[tuple[str, float]]:
        """Return the soup with these weights as a sum of nodes."""
        pairs = zip(self._models.members, weights.tolist(), strict=True)
        return together([(identifier, w * c) for member, w in pairs if w > 0 for identifier, c in member.terms])

    def cook(self, how: str) -> tuple[Floats, Decision | None, int]:
        """Return the weights, the decision (None if examples have no scores), and the best ingredient's index."""
        members = self._models.members
        if how == "learned":
            return self._learned()
        comparison = Comparison(self._predictor)
        singles = self._singles(comparison)
        baseline = _best(singles)
        tried: list[Scores] = []
        weights = np.full(len(members), 1.0 / len(members))
        if how == "greedy":
            weights, tried = self._greedy(comparison, singles)
        known = [one.scores for one in singles if one.scores is not None]
        if len(known) < len(singles):
            return weights, None, baseline
        own = self._look(comparison, weights).scores
        assert own is not None, "its ingredients have scores"
        looked_at = [own, *known, *tried] if how == "greedy" else [own]
        decision = decide(np.stack(looked_at).astype(np.float32), 0, known[baseline])
        return weights, replace(decision, looked_at=max(1, len(looked_at) - 1)), baseline

    def _singles(self, comparison: Comparison) -> list[Looked]:
        """Look at the ingredients as they are: nodes with their own BatchNorm statistics."""
        found = []
        for member in self._models.members:
            self._predictor.place(member)
            found.append(comparison.look())
        return found

    def _look(self, comparison: Comparison, weights: Floats) -> Looked:
        self._place(weights)
        return comparison.look()

    def _place(self, weights: Floats) -> None:
        self._predictor.place_sum(self.terms(weights), self._models.members[0])

    def _greedy(self, comparison: Comparison, singles: Sequence[Looked]) -> tuple[Floats, list[Scores]]:
        """Take ingredients from best to worst, keeping each that does not worsen validation [Wortsman, recipe 1]."""
        tried: list[Scores] = []
        done = 0

        def score(weights: Floats) -> float:
            nonlocal done
            found = self._look(comparison, weights)
            done += 1
            self._progress(Progress("soup", done, len(self._models)))
            if found.scores is not None:
                tried.append(found.scores)
            return -found.rank[0]

        places = sorted(range(len(singles)), key=lambda i: (singles[i].rank, i), reverse=True)
        return greedy_soup(np.eye(len(self._models)), np.argsort(places).astype(np.float64), score), tried

    def _learned(self) -> tuple[Floats, Decision | None, int]:
        """Learn weights and a temperature by gradient steps on one half of validation; the other half decides."""
        searched, held_out = halves(len(self._task.valid))
        size = len(self._models)
        slope = _Slope(self._predictor, self._models.members, torch.from_numpy(searched))

        def loss(weights: Floats) -> float:
            self._place(weights)
            found = slope.measure()
            self._progress(Progress("learning", slope.measured, _STEPS + size))
            return found

        weights = learned_soup(size, loss, slope.of_weights, steps=_STEPS)
        comparison = Comparison(self._predictor, halved=True)
        singles = self._singles(comparison)
        own, baseline = self._look(comparison, weights).scores, _best(singles)
        known = [one.scores for one in singles if one.scores is not None and len(one.scores) == len(self._task.valid)]
        if own is None or len(known) < size:
            return weights, None, baseline
        decision = decide([own[held_out]], 0, known[baseline][held_out])
        return weights, replace(decision, looked_at=slope.measured), baseline


def _best(singles: Sequence[Looked]) -> int:
    return min(range(len(singles)), key=lambda i: singles[i].rank)


_STEPS = 30


class _Slope:
    """The loss of the network's current point on some validation examples, and its gradient by the soup's weights.

    BatchNorm statistics are those of the point, and held fixed while the gradient is computed.
    """

    def __init__(self, predictor: Predictor, members: Sequence[Member], examples: torch.Tensor) -> None:
        self._predictor, self._members, self._examples = predictor, members, examples
        self.measured = 0

    def measure(self) -> float:
        """Return the loss, under the best temperature if outputs are logits of classes, and compute the gradient."""
        flat, task = self._predictor.workspace.flat, self._predictor.workspace.task
        self.measured += 1
        flat.module.eval()
        flat.grad.zero_()
        temperature = self._temperature()
        total = 0.0
        for x, y in task.valid.batches(_BATCH, order=self._examples, device=flat.device):
            out = flat.run(x)
            cost = self._cost(out, y, temperature)
            share = examples_in(y) / len(self._examples)
            torch.autograd.backward(cost * share)
            total += float(cost.detach()) * share
        return total

    def of_weights(self) -> Floats:
        """Return the gradient by the members' weights, shape (M,): each member's part along the loss's gradient."""
        flat = self._predictor.workspace.flat
        with torch.no_grad():
            rows = (flat.pack(torch.from_numpy(np.array(self._predictor.theta(m.terms)))) for m in self._members)
            return np.array([float(flat.grad.double() @ row[: len(flat.grad)].double()) for row in rows])

    def _cost(self, out: Any, y: Fields, temperature: float) -> torch.Tensor:
        task = self._predictor.workspace.task
        if not classifies(task):
            return task.loss(out, y)
        assert isinstance(y, torch.Tensor)
        known, labels = task.without_void(out, y)
        each = F.cross_entropy(known / temperature, inside(labels, task.void).long(), reduction="none")
        return per_example(each, labels, task.void).mean() if len(labels) else known.sum() * 0.0

    def _temperature(self) -> float:
        flat, task = self._predictor.workspace.flat, self._predictor.workspace.task
        if not classifies(task):
            return 1.0
        with torch.no_grad():
            batches = list(task.valid.batches(_BATCH, order=self._examples, device=flat.device))
            out = torch.cat([flat.run(x).cpu() for x, _ in batches])
            labels = torch.cat([y.cpu() for _, y in batches if isinstance(y, torch.Tensor)])
        known, labels = task.without_void(out, labels)
        return fit_temperature(known, labels, task.void)
