"""Steps on an engine: its workers train and connect what a row needs, several at a time.

Every worker stores what it makes in the graph by itself, so that nothing is lost with the process that asked for it.
Everything else, measuring once more, votes and reading the numbers, is left to the row itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mgraph.engines.base import Engine, Finished
from mgraph.engines.worker import GRACE, Overheard, interruptible, listening
from mgraph.errors import InputError, MGraphError
from mgraph.progress import Progress, ProgressCallback
from mgraph.repro.experiment import Experiment
from mgraph.repro.lab import Lab
from mgraph.repro.steps import Step

_LOOK_EVERY = 1.0  # seconds between looks at the budget


@dataclass(frozen=True)
class Place:
    """How a worker opens the graph of an experiment, as :class:`mgraph.repro.lab.Lab` takes it."""

    experiment: str
    scale: str
    path: Path
    data: Path | None = None
    device: str = "auto"
    threads: int | None = 1
    precision: str | None = None

    def open(self) -> Lab:
        """Open it."""
        from mgraph.repro.registry import experiment_named

        found: Experiment = experiment_named(self.experiment)
        how: dict[str, Any] = {"device": self.device, "threads": self.threads, "precision": self.precision}
        return Lab(found, self.scale, self.path, data=self.data, **how)


@dataclass(frozen=True)
class Outcome:
    """How a step ended in a worker; without a problem it is done, or was interrupted and is to be continued."""

    problem: str | None = None
    refused: bool = False
    warnings: tuple[Overheard, ...] = ()


def make(place: Place, step: Step) -> Outcome:
    """Do a step in a worker process. Ctrl-C stops it, and its run can be resumed."""
    problem, refused = None, False
    with listening() as heard, suppress(KeyboardInterrupt), interruptible():
        try:
            _lab(place).do(step)
        except MGraphError as error:  # some cannot be sent
            problem, refused = str(error), isinstance(error, InputError)
    return Outcome(problem, refused, tuple(heard))


@lru_cache(maxsize=1)
def _lab(place: Place) -> Lab:
    """Open the graph once per process, so that data are loaded only once."""
    return place.open()


def spread(
    steps: Iterable[Step],
    lab: Lab,
    engine: Engine,
    place: Place,
    *,
    progress: ProgressCallback,
    check: Callable[[], None],
) -> None:
    """Have an engine's workers do the steps that make something which is not there yet, each after what it needs.

    ``check`` is called every second and raises when it is time to stop. Then, at Ctrl-C, and when a step fails, the
    workers are interrupted, and have 20 seconds to save their state. Raises what ``check`` raises, and InputError or
    MGraphError with the words of a step that failed.
    """
    waiting = {step.name: step for step in steps if step.shared and any(lab.known(n) is None for n in step.makes)}
    total, under_way = len(waiting), dict[str, Step]()
    try:
        while waiting or under_way:
            coming = {name for step in (*waiting.values(), *under_way.values()) for name in step.makes}
            for step in [s for s in waiting.values() if coming.isdisjoint(s.needs)][: engine.places - len(under_way)]:
                under_way[step.name] = waiting.pop(step.name)
                engine.submit(step.name, make, place, step)
            progress(Progress("steps", total - len(waiting) - len(under_way), total))
            finished = engine.wait(_LOOK_EVERY)
            if finished is not None:
                del under_way[finished.key]
                _settle(finished)
            check()
    except BaseException:
        _wind_up(engine, under_way)
        raise


def _settle(finished: Finished) -> None:
    if finished.error is not None:
        raise finished.error
    for overheard in finished.value.warnings:
        overheard.repeat()
    if finished.value.problem is not None:
        kind = InputError if finished.value.refused else MGraphError
        raise kind(f"{finished.key}: {finished.value.problem}")


def _wind_up(engine: Engine, under_way: dict[str, Step]) -> None:
    """Let the workers save their state."""
    engine.interrupt()
    deadline = time.monotonic() + GRACE
    while under_way and (finished := engine.wait(max(0.0, deadline - time.monotonic()))) is not None:
        del under_way[finished.key]
