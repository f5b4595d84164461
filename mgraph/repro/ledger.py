"""Rows that are done, kept in the graph: each is a run ``repro`` whose settings hold its numbers.

What they cost is read from the runs that trained, connected and measured what they rest on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from mgraph.durations import spoken
from mgraph.errors import CorruptError
from mgraph.repro.experiment import Experiment, Number, Row, Spread
from mgraph.repro.steps import Step, Train
from mgraph.session.runs import new_run, recorded_run
from mgraph.shown import visible
from mgraph_store import Connection, Node, Run, Sweep

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
    made = Entry(identity(lab.experiment, row, lab.scale, lab.precision))
    store, session = lab.graph.session.store, lab.graph.session
    with recorded_run(store, new_run(COMMAND, made._document, seed=None, device=session.device)) as log:
        yield made
        with store.transaction() as tx:
            log.complete(tx, settings=made.document())


def done(lab: Lab, row: Row) -> Numbers | None:
    """Return the numbers of a row that was run in the same way, the newest; None if there are none.

    Raises CorruptError for a run whose numbers no version could have written, as in a graph that was tampered with.
    """
    if not lab.exists:
        return None
    wanted = json.loads(json.dumps(identity(lab.experiment, row, lab.scale, lab.precision)))
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


def provenance(lab: Lab) -> str:
    """Say with what, and on which device, the newest row was run."""
    with lab.graph.session.store.reading() as reader:
        runs = reader.all(Run, command=COMMAND, status="complete")
    if not runs:
        return ""
    versions = json.loads(runs[-1].versions)
    parts = [f"{name} {versions[name]}" for name in ("mgraph", "torch", "python") if name in versions]
    trained = "" if lab.precision == "fp32" else f", trained in {lab.precision} and measured in fp32"
    return visible(", ".join([*parts, f"on {runs[-1].device}{trained}"]))


def precision(lab: Lab) -> str | None:
    """Return the precision in which the newest row was trained; None if no row is done."""
    with lab.graph.session.store.reading() as reader:
        runs = reader.all(Run, command=COMMAND, status="complete")
    return str(json.loads(runs[-1].settings).get("precision", "fp32")) if runs else None


def costs(lab: Lab, rows: Sequence[Row]) -> str:
    """Say how long the runs took that trained, connected and swept what these rows rest on, from start to end.

    What rows share is counted once. Votes are left out: nothing in the graph says which row asked for them.
    """
    names = sorted({name for row in rows for step in _steps(row, lab.scale) for name in step.makes})
    with lab.graph.session.store.reading() as reader:
        nodes, connections = reader.all(Node, name=names), reader.all(Connection, name=names)
        sweeps = reader.all(Sweep, connection_id=[c.id for c in connections]) if connections else []
        made_by = {x.run_id for x in nodes} | {x.run_id for x in connections} | {x.run_id for x in sweeps}
        ids = sorted(identifier for identifier in made_by if identifier is not None)
        runs = reader.all(Run, id=ids) if ids else []
    took: dict[str, float] = {}
    for run in runs:
        if run.ended is not None:
            took[run.command] = took.get(run.command, 0.0) + (run.ended - run.started).total_seconds()
    if not took:
        return ""
    parts = [f"{command} {spoken(max(seconds, 0.1))}" for command, seconds in sorted(took.items(), key=lambda t: -t[1])]
    threads = sorted({run.threads for run in runs if run.threads is not None})
    by = f" with {' or '.join(map(str, threads))} CPU thread{'' if threads == [1] else 's'}" if threads else ""
    stopped = sum(run.resumptions != "[]" for run in runs)
    pauses = f", the pauses of {stopped} that stopped and went on included" if stopped else ""
    return f"{', '.join(parts)}{by}{pauses}"


def seeds(rows: Sequence[Row], scale: str) -> str:
    """Say the seeds of the modes that these rows are made of; connections have the seed of their method."""
    found = sorted({step.settings.seed for row in rows for step in _steps(row, scale) if isinstance(step, Train)})
    return ", ".join(map(str, found))


def _steps(row: Row, scale: str) -> list[Step]:
    return [step for trial in row.trials(scale) for step in row.steps(trial)]


def identity(experiment: Experiment, row: Row, scale: str, precision: str = "fp32") -> dict[str, Any]:
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
    } | ({} if precision == "fp32" else {"precision": precision})


def _plain(value: Any) -> Any:
    """Return an option as plain data."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value
