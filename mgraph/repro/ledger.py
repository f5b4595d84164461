"""Rows that are done, kept in the graph: each is a run ``repro`` whose settings hold its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from mgraph.errors import CorruptError
from mgraph.repro.experiment import Experiment, Number, Row, Spread
from mgraph.session.runs import recorded_run
from mgraph.shown import visible
from mgraph_store import Run

if TYPE_CHECKING:
    from mgraph.repro.lab import Lab

COMMAND = "repro"

Numbers = Mapping[str, Mapping[str, Spread]]
"""By variant and quantity."""


class Entry:
    """The run of one row, under way."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self.numbers: dict[str, dict[str, list[Number]]] = {}

    def note(self, variant: str, numbers: Mapping[str, Number]) -> None:
        """Take the numbers of a trial."""
        for quantity, number in numbers.items():
            self.numbers.setdefault(variant, {}).setdefault(quantity, []).append(Number(*number))

    def document(self) -> str:
        """Write it down."""
        return json.dumps(self._document | {"numbers": self.numbers}, sort_keys=True)


@contextmanager
def entry(lab: Lab, row: Row) -> Iterator[Entry]:
    """Record a row while it is run; its numbers are stored when the block ends without an error."""
    made = Entry(identity(lab.experiment, row, lab.scale))
    store, session = lab.graph.session.store, lab.graph.session
    with recorded_run(store, COMMAND, made._document, seed=None, device=session.device) as log:
        yield made
        with store.transaction() as tx:
            log.complete(tx, settings=made.document())


def done(lab: Lab, row: Row) -> Numbers | None:
    """Return the numbers of a row that was run in the same way, the newest; None if there are none.

    Raises CorruptError for a run whose numbers no version could have written, as in a graph that was tampered with.
    """
    if not lab.exists:
        return None
    wanted = json.loads(json.dumps(identity(lab.experiment, row, lab.scale)))
    with lab.graph.session.store.reading() as reader:
        runs = reader.all(Run, command=COMMAND, status="complete")
    for run in reversed(runs):
        document = json.loads(run.settings)
        numbers = document.pop("numbers", None)
        if numbers is not None and document == wanted:
            try:
                return {str(v): {str(q): _spread(given) for q, given in by.items()} for v, by in numbers.items()}
            except (AttributeError, TypeError, ValueError):
                raise CorruptError(
                    f"Run {run.id} says that it is {row.name} of {lab.experiment.name}, and its numbers cannot be "
                    f"read: no mgraph has written them; take another --graph."
                ) from None
    return None


def _spread(numbers: list[tuple[float, float | None]]) -> Spread:
    values, errors = zip(*numbers, strict=True)
    return Spread(tuple(map(float, values)), tuple(None if error is None else float(error) for error in errors))


def seconds(lab: Lab, row: Row) -> float | None:
    """Return how long the newest complete run of a row took here."""
    with lab.graph.session.store.reading() as reader:
        runs = reader.all(Run, command=COMMAND, status="complete")
    for run in reversed(runs):
        document = json.loads(run.settings)
        if document.get("row") == row.name and document.get("experiment") == lab.experiment.name and run.ended:
            return (run.ended - run.started).total_seconds()
    return None


def provenance(lab: Lab) -> str:
    """Say with what, and on which device, the newest row was run."""
    with lab.graph.session.store.reading() as reader:
        runs = reader.all(Run, command=COMMAND, status="complete")
    if not runs:
        return ""
    versions = json.loads(runs[-1].versions)
    parts = [f"{name} {versions[name]}" for name in ("mgraph", "torch", "python") if name in versions]
    return visible(", ".join([*parts, f"on {runs[-1].device}"]))


def identity(experiment: Experiment, row: Row, scale: str) -> dict[str, Any]:
    """Return what makes a run of a row the same: the row, the scale, and everything that is set."""
    setup = row.setups[scale]
    return {
        "experiment": experiment.name,
        "scale": scale,
        "row": row.name,
        "variants": list(row.variants),
        "net": _plain(setup.net),
        "repeats": setup.repeats,
        "options": _plain(setup.options),
    }


def _plain(value: Any) -> Any:
    """Return an option as plain data."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value
