"""Which metrics a graph's spaces and sweeps have recorded, and by which of them edges are compared (no torch)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from mgraph.errors import InputError
from mgraph.metric import LOSS, Metric, from_json, primary_of
from mgraph.query.criterion import Criteria, Criterion, criterion_from
from mgraph_store import GraphStore, Reader, Space


def metrics_of(reader: Reader, space: Space | None = None) -> dict[str, Metric]:
    """Return the metrics measured for the modes and sweeps of a space, or of all spaces, by name; the loss first."""
    spaces = reader.all(Space) if space is None else [space]
    swept = reader.query(
        "SELECT DISTINCT w.metrics FROM sweeps w JOIN connections c ON c.id = w.connection_id "
        "WHERE c.space_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY 1",
        [[s.id for s in spaces]],
    )[1]
    recorded = [*(s.metrics for s in spaces), *(row[0] for row in swept)]
    found = {LOSS.name: LOSS}
    for metric in (m for text in recorded for m in from_json(text)):
        if metric.name not in found or found[metric.name].better is None:
            found[metric.name] = metric
    return found


def metric_of_cost(metrics: Iterable[Metric], name: str) -> Metric | None:
    """Return the metric with this name, or whose cost edges call by it; None if there is none."""
    return next((m for m in metrics if name in (m.name, m.cost_name)), None)


def cost_named(store: GraphStore, name: str | None, space: Space | None, *, drop: bool = False) -> str:
    """Return what edges call the cost of a metric.

    Without a name it is the loss, or for a ``drop`` the primary metric of the space. An unknown name is returned as it
    is, because no edge has it. Raises InputError for a metric without a direction, and for a drop in spaces whose
    primary metrics differ.
    """
    if name is None and not drop:
        return LOSS.cost_name
    with store.reading() as reader:
        if name is None:
            return _primary(reader.all(Space) if space is None else [space])
        known = metric_of_cost(metrics_of(reader, space).values(), name)
    if known is None:
        return name
    if known.better is None:
        raise InputError(
            f"It is unknown whether more or less of the metric {known.name} is better, so no edge is compared by it; "
            f"say so where the task is made: better={{'{known.name}': 'lower'}}."
        )
    return known.cost_name


def metric_to_compare(store: GraphStore, space: Space, name: str | None, *, swept: bool = False) -> Metric:
    """Return the metric of a space with this name, or the loss without one.

    With ``swept`` it must be one that every sweep measures by default. Raises InputError, listing the choices, if it is
    not one of them or has no direction.
    """
    if name is None:
        return LOSS
    with store.reading() as reader:
        known = [LOSS, *from_json(space.metrics)] if swept else list(metrics_of(reader, space).values())
    found = metric_of_cost(known, name)
    if found is None or found.better is None:
        there = ", ".join(m.cost_name for m in known if m.better is not None)
        why = "has no direction" if found is not None else "is not one of these"
        raise InputError(
            f"In space {space.name} {'sweeps measure' if swept else 'edges are measured by'} {there}, and {name!r} "
            f"{why}; choose one of them."
        )
    return found


def criterion_in(
    store: GraphStore, space: Space | None, *, threshold: bool = False, **criteria: Unpack[Criteria]
) -> Criterion:
    """Build a criterion as :func:`criterion_from` does, for a graph, or a space of it, that knows its metrics."""
    return criterion_from(
        threshold=threshold, named=lambda name, drop: cost_named(store, name, space, drop=drop), **criteria
    )


def _primary(spaces: Iterable[Space]) -> str:
    names = {s.name: primary_of(from_json(s.metrics)).cost_name for s in spaces}
    costs = dict.fromkeys(names.values())
    if len(costs) > 1:
        said = ", ".join(f"{cost} in {space}" for space, cost in names.items())
        raise InputError(f"Drops are in the primary metric, in which spaces differ ({said}); give --space or --metric.")
    return next(iter(costs), LOSS.cost_name)
