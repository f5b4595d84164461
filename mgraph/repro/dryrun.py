"""A dry run: whether every network and recipe of an experiment works, on synthetic data and for one step each."""

from __future__ import annotations

import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import MGraphWarning
from mgraph.graph.graph import create
from mgraph.methods.base import Method
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.curves.trained import TrainedMethod
from mgraph.methods.llpf.method import LLPF
from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.repro.costing import steps_of
from mgraph.repro.data import DATA, synthetic
from mgraph.repro.experiment import Net, Row
from mgraph.repro.steps import Join, Train

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


@dataclass(frozen=True)
class Tried:
    """One recipe that was tried: of which network, in how many seconds."""

    net: str
    what: str
    batch_size: int
    seconds: float


def dry_run(
    rows: Iterable[Row], scale: str, *, device: str, threads: int | None, precision: str, say: Callable[[str], None]
) -> list[Tried]:
    """Try the rows of a scale; raises what a recipe that does not work raises."""
    steps = [step.computing_in(precision) for step in steps_of([row for row in rows if scale in row.setups], scale)]
    nets = {step.net.key: step.net for step in steps}
    tried: list[Tried] = []
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore", MGraphWarning)  # nothing is learnt in one step
        for net in nets.values():
            mine = [step for step in steps if step.net.key == net.key]
            trial = _Trial(net, [s for s in mine if isinstance(s, Train)], [s for s in mine if isinstance(s, Join)])
            for one in trial.run(Path(directory) / net.key, device, threads):
                tried.append(one)
                say(f"{one.net}: {one.what}, a step of {one.batch_size} examples, {one.seconds:.1f} s.")
    return tried


class _Trial:
    """The recipes of one network, each once."""

    def __init__(self, net: Net, trains: list[Train], joins: list[Join]) -> None:
        self._net = net
        self._trains = {repr(replace(s.settings, seed=0)): s for s in trains}
        self._joins = {f"{len(s.ends)} {s.method!r}": s for s in joins}

    def run(self, folder: Path, device: str, threads: int | None) -> Iterator[Tried]:
        """Try them in a graph in a folder."""
        folder.mkdir(parents=True)
        batches = [s.settings.batch_size for s in self._trains.values()]
        batches += [getattr(s.method, "batch_size", 1) for s in self._joins.values()]
        arch, examples = self._net.arch, max(batches)
        if self._net.data == "toy":
            data: Any = "toy"
        else:
            data = synthetic(DATA[self._net.data], max(examples, 32), folder / "texts")
        graph = create(folder / "g.mgraph", arch=arch, data=data, device=device, threads=threads)
        modes: list[Any] = []
        for i, train in enumerate(self._trains.values()):
            step = partial(_one_step, graph, train, modes)
            yield self._timed(f"training {i + 1}", train.settings.batch_size, step)
        if not modes:
            return
        first = next(iter(self._trains.values()))
        for i in range(len(modes), max((len(s.ends) for s in self._joins.values()), default=0)):
            _one_step(graph, first, modes, seed=1000 + i)
        for join in self._joins.values():
            for what, method in phases_of(join.method):
                chosen = partial(graph.connect, *modes[: len(join.ends)], method=method, sweep=False)
                yield self._timed(what, getattr(method, "batch_size", examples), chosen)

    def _timed(self, what: str, batch_size: int, run: Callable[[], Any]) -> Tried:
        begin = time.monotonic()
        run()
        return Tried(self._net.key, what, batch_size, time.monotonic() - begin)


def _one_step(graph: Graph, train: Train, modes: list[Any], seed: int | None = None) -> None:
    """Add a mode that is trained for one step with a recipe's optimiser, schedule and batch size.

    Members of ensembles come later in a training.
    """
    settings = replace(train.settings, max_steps=1, keep=(), fge=False, snapshot=False, swa=False)
    modes.append(graph.train(settings if seed is None else replace(settings, seed=seed)))


def phases_of(method: Method) -> Iterator[tuple[str, Method]]:
    """Yield a method cut down to one step of each of its phases, with what it is."""
    if isinstance(method, BezierSurface) and method.phases:
        for phase in method.phases:
            name, _, rest = phase.partition(":")
            short = f"{name}:1{rest.lstrip('0123456789')}"
            yield f"surface, phase {name}", replace(method, phases=(short,), samples=1, max_steps=1)
    elif isinstance(method, TrainedMethod):
        samples = 1 if method.batch == "whole" else method.samples
        yield method.name, replace(method, epochs=1, samples=samples, max_steps=1)  # type: ignore[call-arg]
    elif isinstance(method, NudgedElasticBand):
        cycles = tuple(re.sub(r"^\d+x\d+", "1x1", text) for text in method.cycles)
        yield (
            "band, a cycle at every learning rate",
            replace(method, cycles=cycles, stop=(), pivots=min(3, method.pivots), dense=1, dense_examples=16),
        )
    elif isinstance(method, LLPF):
        groups = re.sub(r":\d+", ":1", method.groups)
        yield (
            f"walk {method.walk}, a tick of every phase",
            replace(method, groups=groups, ticks=1, origin_ticks=1, min_iters=1, max_iters=1, check_examples=16),
        )
    else:
        yield method.name, method
