"""Running an experiment: what it will cost, row by row within a budget, and the table of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from typing_extensions import Unpack

from mgraph.durations import seconds as seconds_of
from mgraph.durations import spoken
from mgraph.engines.base import Engine, Here
from mgraph.errors import InputError
from mgraph.keywords import refuse_unknown
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.repro import ledger
from mgraph.repro.experiment import VARIANTS, Row
from mgraph.repro.lab import Lab, scale_of
from mgraph.repro.registry import check_scale, experiment_named, rows_named
from mgraph.repro.table import NEVER, Table, usual_notes

if TYPE_CHECKING:
    from mgraph.engines.pool import Executor
    from mgraph.repro.costing import Cost, Speed
    from mgraph.repro.dryrun import Tried

OVER = "the budget was used up; the same command goes on"


class Computing(TypedDict, total=False):
    """How an experiment computes: on which device, on how many CPU threads, and in which precision it trains."""

    device: str
    threads: int | None
    precision: str | None


class BudgetSpent(KeyboardInterrupt):
    """The budget is spent in the middle of a step, which stops as at Ctrl-C and is continued by the next command."""


@dataclass(frozen=True)
class Outlook:
    """What running will cost: by row, and on what that rests; rows that are done cost nothing and are not listed."""

    rows: tuple[tuple[str, Cost], ...]
    basis: str
    elsewhere: tuple[tuple[str, Cost], ...] = ()
    elsewhere_basis: str = ""

    @property
    def total(self) -> Cost:
        """The cost of all of them."""
        return _sum(self.rows)

    def listed(self) -> list[dict[str, Any]]:
        """Return the rows as plain data, with what they would cost on an H200 where that was asked."""
        there = dict(self.elsewhere)
        return [
            {"row": name, "seconds": cost.seconds, "time": spoken(max(cost.seconds, 0.1)), "nbytes": int(cost.nbytes)}
            | {"at_most": cost.at_most}
            | ({"seconds_on_h200": there[name].seconds} if name in there else {})
            for name, cost in self.rows
        ]

    def words(self) -> list[str]:
        """Say the sums, and what they rest on, a sentence each."""
        if not self.rows:
            return []
        found = [f"Here {self.total}: {self.basis}."]
        return found + ([f"On an H200 {_sum(self.elsewhere)}: {self.elsewhere_basis}."] if self.elsewhere else [])


def _sum(costs: tuple[tuple[str, Cost], ...]) -> Cost:
    from mgraph.repro.costing import Cost

    total = Cost()
    for _, cost in costs:
        total += cost
    return total


class Reproduction:
    """One experiment at one scale: ``Reproduction("s-table2", scale="tiny").run()``.

    ``graph`` is its graph, which is made when it is first needed, by default ``repro-PAPER-SCALE.mgraph`` here, shared
    by all experiments of the paper at that scale; ``scale=None`` takes the one that the graph has, or tiny. ``data`` is
    a file or directory of the data set. ``precision`` (fp32, tf32, bf16) is that of training, by default that of the
    graph's newest row, or fp32; everything is measured in fp32. Raises InputError for an experiment, row or scale that
    does not exist, a precision that the device lacks, and a graph of something else.
    """

    def __init__(
        self,
        name: str,
        *,
        scale: str | None = None,
        only: Sequence[str] = (),
        graph: str | Path | None = None,
        data: str | Path | None = None,
        progress: ProgressCallback | None = None,
        **computing: Unpack[Computing],
    ) -> None:
        refuse_unknown("Reproduction", computing, Computing)
        self.experiment = experiment_named(name)
        self.rows = rows_named(self.experiment, only)
        self.scale = scale or (None if graph is None else scale_of(Path(graph), self.experiment)) or "tiny"
        check_scale(self.experiment, self.scale, self.rows)
        self.path = Path(graph or f"repro-{self.experiment.paper.lower()}-{self.scale}.mgraph")
        self._device, self._threads = computing.get("device", "auto"), computing.get("threads")
        self._progress = progress or silent
        self._deadline: float | None = None
        self._engine: Engine = Here()
        self.lab = Lab(
            self.experiment,
            self.scale,
            self.path,
            data=None if data is None else Path(data),
            device=self._device,
            threads=self._threads,
            precision=computing.get("precision"),
            progress=self._heard,
        )

    def pending(self) -> list[Row]:
        """List the rows that can be run at this scale and have not been."""
        return [row for row in self.rows if self.scale in row.setups and ledger.done(self.lab, row) is None]

    def estimate(self, *, engine: str | Engine | Executor | None = None) -> Outlook:
        """Say what the rows that are not done will cost here and, at the scale paper, on an H200.

        The workers of an ``engine`` are taken to be as fast as this machine, each.
        """
        from mgraph.engines.registry import check_engine
        from mgraph.repro.costing import OfH200

        rows, places = self.pending(), check_engine(engine)[1] or 1
        here = self._speed()
        costs = self._costs(rows, here, places)
        if self.scale != "paper":
            return Outlook(costs, here.basis)
        gpu = OfH200()
        return Outlook(costs, here.basis, self._costs(rows, gpu, places), gpu.basis)

    def run(
        self,
        *,
        budget: str | float | None = None,
        engine: str | Engine | Executor | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Table:
        """Run the rows in order, each if its estimate fits into what is left of the ``budget``, and return the table.

        What is done is stored at once, in the graph, and the table is written beside it after every row. A row that was
        begun and not finished goes on where it stopped. On an ``engine``, as :meth:`mgraph.Graph.explore` takes it, the
        modes and connections of a row are made by its workers, which must see the graph and the data under the same
        paths. Raises InputError for a budget too small for any row, and an engine that is unknown or unavailable.
        """
        from mgraph.engines.registry import open_engine
        from mgraph.explore.workers import executor_named

        with open_engine(engine, self._device, load=executor_named) as self._engine:
            return self._run(budget, say)

    def _run(self, budget: str | float | None, say: Callable[[str], None]) -> Table:
        limit = None if budget is None else seconds_of(budget)
        rows = self.pending()
        for row in rows:
            self.lab.find_data(row.setups[self.scale].net)  # before anything is computed
        begin = time.monotonic()
        why: dict[str, str] = {}
        if rows:
            outlook = self._outlook(rows, limit, say)
            self._deadline = None if limit is None else begin + limit
            slower = 1.0  # than estimated, judging by the rows that were run
            for row, (name, cost) in zip(rows, outlook.rows, strict=True):
                left = None if limit is None else limit - (time.monotonic() - begin)
                if left is not None and slower * cost.seconds > left:
                    why[name] = f"it takes {spoken(slower * cost.seconds)}, more than is left of the budget"
                    continue
                started = time.monotonic()
                say(f"{self.experiment.name} {name}: {cost}." if cost.seconds else f"{self.experiment.name} {name}.")
                if not self._run_row(row):
                    why |= {later.name: OVER for later in rows[rows.index(row) :]}
                    break
                if cost.seconds > 1:
                    slower = max(slower, (time.monotonic() - started) / cost.seconds)
                self.table(why).write(self.path)
        table = self.table(why)
        table.write(self.path)
        return table

    def table(self, why: dict[str, str] | None = None) -> Table:
        """Return the table of what is stored, computing nothing; ``why`` says why rows were not run."""
        table = Table(self.experiment, self.scale)
        for row in self.rows:
            if self.scale not in row.setups:
                continue
            numbers = ledger.done(self.lab, row)
            never = NEVER if self.scale == "paper" and numbers is None else ""
            table.add(row, numbers, (why or {}).get(row.name, never))
        errors = any(record[f"{variant}_error"] is not None for record in table.records for variant in VARIANTS)
        table.notes = usual_notes(self.experiment, self.scale, self.rows, errors=errors)
        if self.lab.exists and (ran := ledger.provenance(self.lab)):
            table.notes.append(f"Run with {ran}.")
            finished = [row for row in self.rows if self.scale in row.setups and ledger.done(self.lab, row)]
            if seeds := ledger.seeds(finished, self.scale):
                table.notes.append(f"Seeds of the modes: {seeds}.")
            if self.scale != "tiny" and (took := ledger.costs(self.lab, finished)):
                table.notes.append(f"Wall time: {took}.")
        return table

    def dry_run(self, say: Callable[[str], None] = lambda _: None) -> list[Tried]:
        """Build every network, and make one step of every phase of every recipe on synthetic data; store nothing.

        Batches have their real size, but every batch sees one parameter value, and a band has at most three pivots.
        """
        from mgraph.repro.dryrun import dry_run

        how: dict[str, Any] = {"device": self._device, "threads": self._threads, "precision": self.lab.precision}
        return dry_run(self.rows, self.scale, say=say, **how)

    def _outlook(self, rows: list[Row], limit: float | None, say: Callable[[str], None]) -> Outlook:
        speed = self._speed()
        outlook = Outlook(self._costs(rows, speed, self._engine.places), speed.basis)
        say(f"{len(rows)} row{'' if len(rows) == 1 else 's'} to run: {outlook.total} ({outlook.basis}).")
        least = min(outlook.rows, key=lambda named: named[1].seconds)
        if limit is not None and least[1].seconds > limit:
            raise InputError(
                f"A budget of {spoken(limit)} is too small for any row: the shortest, {least[0]}, takes {least[1]}."
            )
        return outlook

    def _speed(self) -> Speed:
        from mgraph.repro.costing import SECONDS, MeasuredHere
        from mgraph.session.session import resolve_device

        seconds = SECONDS if self.scale != "tiny" else SECONDS / 5
        return MeasuredHere(resolve_device(self._device), self._threads, seconds, self.lab.precision)

    def _costs(self, rows: list[Row], speed: Speed, places: int) -> tuple[tuple[str, Cost], ...]:
        from mgraph.repro.costing import cost_of

        seen: set[str] = set()
        return tuple((row.name, cost_of(self.lab, [row], self.scale, speed, seen, places)) for row in rows)

    def _run_row(self, row: Row) -> bool:
        """Run a row and store its numbers; return whether it was finished before the budget was spent."""
        self.lab.space(row.setups[self.scale].net)
        try:
            with ledger.entry(self.lab, row) as entry:
                if self._engine.remote:
                    self._spread(row)
                for trial in row.trials(self.scale):
                    for step in row.steps(trial):
                        self._check_deadline()
                        self.lab.do(step)
                    entry.note(trial.variant, row.read(self.lab, trial))
        except KeyboardInterrupt as stopped:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return False
            interrupted = KeyboardInterrupt()  # not of the run under way: the same command goes on with that, too
            interrupted.add_note(f"Rows that are done are stored, and {row.name} goes on where it stopped.")
            raise interrupted from stopped
        return True

    def _spread(self, row: Row) -> None:
        """Have the workers of the engine make what a row needs."""
        from mgraph.repro.costing import steps_of
        from mgraph.repro.spreading import Place, spread

        device = self._engine.device or self._device
        data = None if self.lab.data is None else self.lab.data.absolute()
        place = Place(
            *(self.experiment.name, self.scale, self.path.absolute(), data, device, self._threads or 1),
            precision=self.lab.precision,
        )
        steps = steps_of([row], self.scale)
        spread(steps, self.lab, self._engine, place, progress=self._progress, check=self._check_deadline)

    def _heard(self, progress: Progress) -> None:
        self._progress(progress)
        self._check_deadline()

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise BudgetSpent(OVER)
