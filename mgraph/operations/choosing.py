"""Which point of a connection becomes a node, and whether it is better than the best corner, all on validation data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.evaluate.metrics import measure_with_scores
from mgraph.families import Family, Floats, SimplexFamily
from mgraph.jobs.points import MergeJob
from mgraph.merge.bestof import Decision, decide, halves
from mgraph.merge.soup import greedy_soup, uniform_soup
from mgraph.metric import LOSS
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member
from mgraph.operations.deciding import SPLIT, Comparison, Scores, best_of
from mgraph.progress import Progress, ProgressCallback
from mgraph.query.sweepdata import SweepData
from mgraph.session.members import label
from mgraph_store import Connection, Node

_FIRST_STEP = 0.1  # first step of a search in every direction of the domain


@dataclass(frozen=True)
class Choice:
    """A point of a connection: its coefficients over the control points, its parameter if it has one, and why it was
    chosen.

    ``selected_on`` is the split that chose it, if any did; ``decision`` compares it with the best corner, and ``notes``
    are for people. ``kept``: no point was better, so this is the best corner as it is.
    """

    coefficients: Floats
    parameter: tuple[float, ...] | None
    selected_on: str | None
    decision: Decision | None
    notes: tuple[str, ...] = ()
    kept: bool = False


class Choosing:
    """Chooses on validation data; if a search needs it, temperatures and choice use only one half of them."""

    def __init__(
        self,
        predictor: Predictor,
        connection: Connection,
        ends: list[Node],
        nodes: list[Node],
        data: SweepData | None,
        best: int,
        progress: ProgressCallback,
    ) -> None:
        """``nodes`` are the K control points, ``data`` the sweep whose points are considered, if there is one.

        ``best`` is the best corner, by its index among the ``ends``.
        """
        self._predictor, self._connection, self._ends = predictor, connection, ends
        self._family = predictor.session.family_of(connection)
        self._nodes, self._data, self._best, self._progress = nodes, data, best, progress
        self._comparison = Comparison(predictor)
        self.scored_by = self._comparison.scored_by

    def choose(self, job: MergeJob, parameter: Floats | None) -> Choice:
        """Choose as a job specifies; raise InputError if that needs a sweep and there is none."""
        if parameter is not None:
            coefficients = self._family.coefficients(parameter)[0]
            return self._stated(coefficients, tuple(map(float, parameter)), None)
        data = self._swept()
        if job.soup == "uniform":
            return self._stated(uniform_soup(data.coefficients), None, None)
        if job.soup == "greedy":
            return self._greedy(data)
        if job.best:
            place = choose_point(data)
            return self._stated(data.coefficients[place], _at(data, place), data)
        return self._by_rule(data, job.refine or 0)

    def _swept(self) -> SweepData:
        assert self._data is not None, "checked before the run"
        return self._data

    def member(self, coefficients: Floats) -> Member:
        """Return a point of the connection as a member."""
        pairs = zip(self._nodes, coefficients.tolist(), strict=True)
        terms = tuple((node.id, float(c)) for node, c in pairs if c != 0.0)
        return Member(label(self._connection), terms, connection=self._connection)

    def _corners(self, comparison: Comparison | None = None) -> list[Scores] | None:
        """Score the corners as they are, with their own BatchNorm statistics."""
        ends = [Member(label(end), ((end.id, 1.0),), end) for end in self._ends]
        rows = [(comparison or self._comparison).scores(end) for end in ends]
        known = [row for row in rows if row is not None]
        return known if len(known) == len(rows) else None

    def _scores(self, coefficients: Floats, comparison: Comparison | None = None) -> Scores | None:
        return (comparison or self._comparison).scores(self.member(coefficients))

    def _points(self, data: SweepData, comparison: Comparison | None = None) -> list[Scores] | None:
        rows = []
        for done, c in enumerate(data.coefficients, start=1):
            scores = self._scores(c, comparison)
            if scores is None:
                return None
            rows.append(scores)
            self._progress(Progress("deciding", done, len(data.parameters)))
        return rows

    def _stated(self, coefficients: Floats, parameter: tuple[float, ...] | None, looked: SweepData | None) -> Choice:
        """Return a requested point, or the best of those in ``looked``; it is stored, whatever the decision."""
        selected = None if looked is None else SPLIT
        corners = self._corners()
        if corners is None:
            return Choice(coefficients, parameter, selected, None)
        own = self._scores(coefficients)
        assert own is not None, "its corners have scores"
        others = self._points(looked) if looked is not None and np.count_nonzero(coefficients) > 1 else None
        return Choice(coefficients, parameter, selected, _decided(own, others, corners[self._best]))

    def _by_rule(self, data: SweepData, further: int = 0) -> Choice:
        """Choose the best swept point, or what a search finds from there, if it is better than every corner.

        The point and the temperatures are chosen on one half of the validation data, and the other half decides. Of the
        corners, the best one and the likeliest one on all of these data, if that is another, have to be beaten, which,
        if anything, favours them. If they stand, the best one is kept.
        """
        comparison = Comparison(self._predictor, halved=True)
        corners = self._corners(comparison)
        if corners is None:
            if further:
                raise InputError("A search needs scores of single validation examples, and this task has none.")
            note = (
                "single examples have no scores, so nothing tells luck from gain: the best corner was kept; --best "
                "takes the best swept point"
            )
            return self._corner(None, note)
        rows = self._points(data, comparison)
        assert rows is not None, "their corners have scores"
        searched, held_out = halves(len(corners[0]))
        found = {tuple(data.parameters[i].tolist()): row for i, row in enumerate(rows)}
        if further:
            self._search(data.parameters[best_of(rows, searched)], further, comparison, searched, found)
        best = list(found)[best_of(list(found.values()), searched)]
        coefficients = self._family.coefficients(np.array(best))[0]
        rivals = dict.fromkeys((self._best, best_of(corners)))
        decisions = {
            rival: replace(decide([found[best][held_out]], 0, corners[rival][held_out]), looked_at=len(found))
            for rival in rivals
        }
        rival = min(decisions, key=lambda one: decisions[one].errors - decisions[one].threshold)
        decision = decisions[rival]
        if decision.verdict == "better":
            return Choice(coefficients, best, SPLIT, decision)
        than = "" if rival == self._best else f" than corner {label(self._ends[rival])}"
        return self._corner(decision, _kept(best, coefficients, decision, self.scored_by, than))

    def _search(
        self,
        start: Floats,
        most: int,
        comparison: Comparison,
        searched: NDArray[np.int64],
        found: dict[tuple[float, ...], Scores],
    ) -> None:
        """Run Nelder and Mead's search (1965) from a point, within the domain, adding the points tried to ``found``."""
        from scipy.optimize import minimize  # whatever trains imports this module, and few search

        known = len(found)

        def cost(free: Floats) -> float:
            place = tuple(map(float, _inside(self._family, free)))
            if place not in found:
                scores = self._scores(self._family.coefficients(np.array(place))[0], comparison)
                assert scores is not None
                found[place] = scores
                self._progress(Progress("searching", min(len(found) - known, most), most))
            value = float(found[place][searched].mean())
            return -value if np.isfinite(value) else np.inf

        free = start[: self._family.dimension]
        steps = [np.where(np.arange(len(free)) == i, _FIRST_STEP, 0.0) for i in range(len(free))]
        simplex = np.stack([free, *(free + np.where(free + step > 1.0, -step, step) for step in steps)])
        minimize(cost, free, method="Nelder-Mead", options={"maxfev": most, "initial_simplex": simplex, "xatol": 1e-3})

    def _corner(self, decision: Decision | None, note: str) -> Choice:
        """Keep the best corner."""
        row = self._family.ends[self._best]
        parameter = tuple(map(float, self._family.end_parameters()[self._best]))
        return Choice(np.eye(self._family.size)[row], parameter, SPLIT, decision, (note,), kept=True)

    def _greedy(self, data: SweepData) -> Choice:
        """Average swept points greedily; everything tried on the way counts in the decision."""
        here = self._predictor.workspace
        metric = here.task.primary
        if (SPLIT, metric.name) not in data.values:
            metric = LOSS
        tried: list[Scores] = []
        done = 0

        def score(coefficients: Floats) -> float:
            nonlocal done
            self._predictor.place(self.member(coefficients))
            done += 1
            self._progress(Progress("soup", done, len(data.parameters)))
            found = measure_with_scores(here.flat, here.task, SPLIT).measured
            scores = self._comparison.of_network()
            if scores is not None:
                tried.append(scores)
            return metric.sign * found[metric.name].value

        soup = greedy_soup(data.coefficients, metric.sign * data.values[SPLIT, metric.name], score)
        corners = self._corners()
        if corners is None:
            return Choice(soup, None, SPLIT, None)
        own = self._scores(soup)
        assert own is not None
        others = [*(self._points(data) or []), *tried]
        return Choice(soup, None, SPLIT, _decided(own, others, corners[self._best]))


def choose_point(data: SweepData) -> int:
    """Choose the swept point that is best on validation by the primary metric (ties: loss); never by test data."""
    if (SPLIT, LOSS.name) not in data.values:
        raise InputError("It was not swept on validation data, on which merging selects; sweep it first.")
    return data.best(SPLIT)


def _decided(scores: Scores, looked_at: list[Scores] | None, against: Scores) -> Decision:
    """Decide whether scores are better than a corner's when these others, including the chosen one, were tried."""
    if looked_at is None:
        return decide([scores], 0, against)
    found = decide(np.stack([scores, *looked_at]).astype(np.float32), 0, against)
    return replace(found, looked_at=len(looked_at))


def _at(data: SweepData, place: int) -> tuple[float, ...]:
    return tuple(map(float, data.parameters[place]))


def _inside(family: Family, free: Floats) -> Floats:
    """Return the parameter for d free numbers: approximately the nearest one in the domain."""
    if not isinstance(family, SimplexFamily):
        return np.clip(free, 0.0, 1.0)
    weights = np.clip(np.append(free, 1.0 - free.sum()), 0.0, None)
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))


def _error_text(decision: Decision, than: str) -> str:
    if decision.standard_error == 0.0:
        return f"no better{than}"
    if decision.value <= 0:
        return f"worse{than} by {-decision.value:.3g}"
    needed = f"{decision.threshold:.2f} are needed"
    return f"better{than} by {decision.value:.3g}, {decision.errors:.2f} standard errors, and {needed}"


def _kept(best: tuple[float, ...], coefficients: Floats, decision: Decision, scored_by: str, than: str) -> str:
    if np.count_nonzero(coefficients) == 1:
        return f"the best corner was kept: no point inside did better on validation data by the {scored_by}"
    where = ",".join(f"{x:.4g}" for x in best)
    return (
        f"the best corner was kept: of {decision.looked_at} points the best one, {where}, is "
        f"{_error_text(decision, than)} (on the half of the validation data that did not choose it, {scored_by})"
    )
