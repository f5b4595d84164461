"""Before models are averaged: is there a barrier between them that would make their average worthless?

If a straight line between two models was swept, its measurements count; otherwise, the point halfway between them is
evaluated on part of the validation data.
"""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy
from mgraph.evaluate.metrics import Measured, Subset, measure
from mgraph.families import Segment
from mgraph.metric import Metric
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member
from mgraph.operations.walls import is_wall
from mgraph.progress import Progress, ProgressCallback
from mgraph.query.sweepdata import family_of
from mgraph.session.session import Session
from mgraph_store import Connection, Edge, Reader

SPLIT = "valid"
_EXAMPLES = 1000
_UNTRAINED = ("linear", "simplex")


def refuse_barriers(
    session: Session, predictor: Predictor, members: Sequence[Member], progress: ProgressCallback
) -> None:
    """Raise InputError, naming the connection to use instead, if a barrier divides the first model from another."""
    first = members[0]
    for done, other in enumerate(members[1:], start=1):
        with session.store.reading() as reader:
            said = _measured(reader, predictor.workspace.task.primary, first, other)
        if said is None:
            said = _estimated(predictor, first, other)
        if said:
            with session.store.reading() as reader:
                instead = _instead(reader, predictor.workspace.task.primary, first, other)
            raise InputError(
                f"A barrier divides {first.label} and {other.label} ({said}); their average was not stored. {instead}"
            )
        progress(Progress("barriers", done, len(members) - 1))


def _measured(reader: Reader, metric: Metric, one: Member, other: Member) -> str | None:
    """Describe the barrier measured on a straight line between two nodes; empty without a barrier, None if unknown."""
    for edge, connection in _edges(reader, one, other, metric):
        if isinstance(family_of(connection), Segment):
            high = _is_high(metric, edge)
            what = f"the line {connection.name or connection.id} has a {edge.split} {edge.metric} of"
            return f"{what} {edge.peak:.4g}, and its ends of {edge.peak - edge.drop:.4g} on average" if high else ""
    return None


def _estimated(predictor: Predictor, one: Member, other: Member) -> str:
    task = predictor.workspace.task
    metric = task.primary
    halves = together([(identifier, 0.5 * c) for member in (one, other) for identifier, c in member.terms])
    policy = predictor.policy_of_sum(halves)  # for all three, as in a sweep
    ends = [_value(predictor, task, member, policy) for member in (one, other)]
    predictor.place_sum(halves, one)
    middle = _present(predictor, task)
    worst = min((end.value for end in ends), key=lambda value: metric.sign * value)
    if not is_wall(metric, middle, worst):
        return ""
    return (
        f"halfway between them the validation {metric.name} is {middle.value:.4g}, and theirs {ends[0].value:.4g} and "
        f"{ends[1].value:.4g}"
    )


def together(terms: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Add up the coefficients of terms of the same node."""
    total: dict[str, float] = {}
    for identifier, c in terms:
        total[identifier] = total.get(identifier, 0.0) + c
    return list(total.items())


def _value(predictor: Predictor, task: Task, member: Member, policy: BatchNormPolicy) -> Measured:
    predictor.place_sum(member.terms, member, policy)
    return _present(predictor, task)


def _present(predictor: Predictor, task: Task) -> Measured:
    some = Subset.random(len(task.valid), _EXAMPLES)
    return measure(predictor.workspace.flat, task, SPLIT, some)[task.primary.name]


def _edges(reader: Reader, one: Member, other: Member, metric: Metric) -> list[tuple[Edge, Connection]]:
    """Return the edges between two nodes, measured in the cost of a metric, the lowest peak of the finest first."""
    pair = [one.corner, other.corner]
    if None in pair:
        return []
    edges = reader.all(Edge, source_id=pair, target_id=pair, metric=metric.cost_name, doubt=None)
    if not edges:
        return []
    found = {c.id: c for c in reader.all(Connection, id=list({e.connection_id for e in edges}))}
    order = {"valid": 0, "test": 2, "train": 1}
    edges.sort(key=lambda e: (order.get(e.split, 3), e.peak))
    return [(edge, found[edge.connection_id]) for edge in edges if edge.split != "test"]


def _is_high(metric: Metric, edge: Edge) -> bool:
    def value(cost: float) -> float:
        if metric.better == "lower":
            return cost
        return -cost if metric.best is None else metric.best - cost

    return is_wall(metric, Measured(value(edge.peak), None, edge.examples), value(edge.peak - edge.drop))


def _instead(reader: Reader, metric: Metric, one: Member, other: Member) -> str:
    force = "force averages them anyway."
    for member in (one, other):
        if member.connection is not None:
            name = member.connection.name or member.connection.id
            return f"Take the best point of {name} instead (mgraph merge {name}); {force}"
    for edge, connection in _edges(reader, one, other, metric):
        if connection.kind not in _UNTRAINED and not _is_high(metric, edge):
            name = connection.name or connection.id
            return f"{name} joins them without it: take a point of that instead (mgraph merge {name}); {force}"
    pair = f"{one.label} {other.label}"
    return f"Connect them first, and take a point of that: mgraph connect {pair} --curve, then mgraph merge; {force}"
