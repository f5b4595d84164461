"""The steps of experiments: training a mode, connecting, measuring, voting. Each is found again by name (no torch).

A step also says what it costs, so that an experiment's time is known before it starts.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.methods.base import Method
from mgraph.query.sweepdata import SweepData, inner_grid
from mgraph.repro.experiment import Net
from mgraph.train.settings import TrainSettings

if TYPE_CHECKING:
    from mgraph.families import Family
    from mgraph.repro.lab import Lab

FLOAT = 4
"""Bytes of a parameter."""

BN_EXAMPLES = 2000
"""Examples from which BatchNorm statistics are recomputed for every point, unless told otherwise."""


@dataclass(frozen=True)
class Size:
    """What the cost of a step depends on: parameters, examples of each split, and whether BatchNorm is recomputed."""

    parameters: int
    train: int
    valid: int
    test: int
    batchnorm: bool

    def of(self, split: str, examples: int | None) -> int:
        """Return how many examples of a split are measured."""
        whole: int = getattr(self, split)
        return whole if examples is None else min(examples, whole)


@dataclass(frozen=True)
class Work:
    """Examples passed forward and backward, examples passed forward only, and bytes stored.

    ``at_most``: the number is an upper limit, because the step ends earlier when it can.
    """

    trained: float = 0.0
    forward: float = 0.0
    nbytes: float = 0.0
    at_most: bool = False

    def __add__(self, other: Work) -> Work:
        return Work(
            self.trained + other.trained,
            self.forward + other.forward,
            self.nbytes + other.nbytes,
            self.at_most or other.at_most,
        )


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One thing to be done, in the space of a network; ``name`` is that of what it makes, unique in the graph."""

    name: str
    net: Net

    shared: ClassVar[bool] = False
    """Whether it makes something for the graph that a worker of an engine can make."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the nodes that must be there before."""
        return ()

    @property
    def makes(self) -> tuple[str, ...]:
        """The names of what it makes."""
        return (self.name,)

    def computing_in(self, precision: str) -> Step:
        """Return the same step, training in another precision; what only measures always does so in fp32."""
        del precision
        return self

    @abstractmethod
    def work(self, size: Size) -> Work:
        """Return what it costs."""

    @abstractmethod
    def find(self, lab: Lab) -> Any:
        """Return what it made earlier; None if there is nothing, or if that is to be completed."""

    @abstractmethod
    def make(self, lab: Lab) -> Any:
        """Do it."""


@dataclass(frozen=True, kw_only=True)
class Train(Step):
    """Train a mode, or an ensemble of members NAME-1, NAME-2, …; ``init`` names the mode it starts from."""

    settings: TrainSettings
    init: str | None = None

    shared: ClassVar[bool] = True

    @property
    @override
    def needs(self) -> tuple[str, ...]:
        return () if self.init is None else (self.init,)

    @classmethod
    def of(cls, net: Net, name: str, seed: int, *, init: str | None = None, **changes: Any) -> Train:
        """Make it of a network's own way of training, with changes."""
        values = dict(net.train) | changes | {"seed": seed}
        settings = TrainSettings.parse(values) if net.preset is None else TrainSettings.preset(net.preset, **values)
        return cls(name=name, net=net, settings=settings, init=init)

    @property
    def members(self) -> int | None:
        """How many members an ensemble has; None for a mode."""
        from mgraph.train.schedules import name_of

        if not (self.settings.fge or self.settings.snapshot):
            return None
        parameters = dict(p.split("=") for p in self.settings.schedule.partition("?")[2].split("&") if p)
        if name_of(self.settings.schedule) == "restarts":
            return int(parameters["cycles"])
        cycle = int(parameters["period"].removesuffix("ep"))
        return (self.settings.epochs + cycle // 2) // cycle

    @property
    @override
    def makes(self) -> tuple[str, ...]:
        if self.members is not None:
            return tuple(f"{self.name}-{k + 1}" for k in range(self.members))
        return (self.name, *(f"{self.name}-{epoch}" for epoch in self.settings.keep))

    @override
    def computing_in(self, precision: str) -> Train:
        return replace(self, settings=replace(self.settings, precision=precision))

    @override
    def work(self, size: Size) -> Work:
        epochs = self.settings.epochs
        made, everything = len(self.makes), size.train + size.valid + size.test
        return Work(epochs * size.train, made * everything, made * size.parameters * FLOAT)

    @override
    def find(self, lab: Lab) -> Any:
        node = lab.known(self.makes[-1] if self.members is not None else self.name)
        if node is not None:
            stored = json.loads(node.record.info)
            _require_same(self.name, stored["settings"], asdict(self.settings))
        return node

    @override
    def make(self, lab: Lab) -> Any:
        from mgraph.operations.modes import SimilarModeWarning

        with warnings.catch_warnings():
            if self.init is not None:  # then it is meant to be similar
                warnings.simplefilter("ignore", SimilarModeWarning)
            return lab.graph.train(
                self.settings, name=self.name, space=lab.space(self.net), init=self.init, progress=lab.progress
            )


@dataclass(frozen=True)
class Grid:
    """How a connection is measured: ``points`` along each direction or ``inner`` on every piece, on what, and how."""

    points: int | None = None
    inner: int | None = None
    examples: int | None = None
    bn_examples: int | None = None
    splits: tuple[str, ...] = ("train", "valid", "test")
    metrics: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """Return it as keywords of a sweep, but for its points."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "points"}
        return {name: value for name, value in given.items() if value not in (None, ())}

    def is_of(self, data: SweepData) -> bool:
        """Return whether a sweep was made on this grid and measured this."""
        family = data.family
        if self.inner is not None:
            points = len(inner_grid(family, None, self.inner))
        else:
            points = len(family.sweep_grid if self.points is None else family.grid((self.points,)))
        whole = all(subset == "all" for subset in data.subsets.values())
        few = self.examples is not None and max(data.counts.values()) > self.examples
        names = {name for _, name in data.values}
        measured = all(any(n.startswith(m.partition("?")[0]) for n in names) for m in self.metrics)
        return (
            measured
            and len(data.grid) == points
            and {split for split, _ in data.values} == set(self.splits)
            and (whole or self.examples is not None)
            and not few
        )

    def work(self, size: Size, family: Family) -> Work:
        """Return what the sweep costs."""
        points = len(family.sweep_grid if self.points is None else family.grid((self.points,)))
        if self.inner is not None:
            points = 1 + (self.inner + 1) * max(1, family.size - 1)
        each = sum(size.of(split, self.examples) for split in self.splits)
        each += min(self.bn_examples or BN_EXAMPLES, size.train) if size.batchnorm else 0
        return Work(forward=points * each)


@dataclass(frozen=True, kw_only=True)
class Join(Step):
    """Connect modes by a method, and sweep the connection unless ``grid`` is None."""

    ends: tuple[str, ...]
    method: Method
    grid: Grid | None = Grid()

    shared: ClassVar[bool] = True

    @property
    @override
    def needs(self) -> tuple[str, ...]:
        return self.ends

    @override
    def computing_in(self, precision: str) -> Join:
        if not any(f.name == "precision" for f in fields(self.method)):
            return self
        return replace(self, method=replace(self.method, precision=precision))  # type: ignore[call-arg]

    @override
    def work(self, size: Size) -> Work:
        family = self.method.family(len(self.ends))
        kept = _kept(self.method, family) * size.parameters * FLOAT
        made = Work(_passes(self.method, family, size), _looks(self.method, size), nbytes=kept)
        made = replace(made, at_most=self.method.cost(family, size.train) is None and self.method.name != "linear")
        return made if self.grid is None else made + self.grid.work(size, family)

    @override
    def find(self, lab: Lab) -> Any:
        connected = lab.known(self.name)
        if connected is None:
            return None
        _require_same(self.name, json.loads(connected.record.settings), asdict(self.method))
        if self.grid is not None:
            lab.swept(self)  # which measures it, if it was interrupted between the two
        return connected

    @override
    def make(self, lab: Lab) -> Any:
        connected = lab.graph.connect(
            *self.ends, method=self.method, name=self.name, sweep=False, progress=lab.progress
        )
        self._sweep(lab, connected)
        return connected

    def _sweep(self, lab: Lab, connected: Any) -> None:
        if self.grid is not None:
            connected.sweep(self.grid.points, progress=lab.progress, **self.grid.options())


@dataclass(frozen=True, kw_only=True)
class Sweep(Step):
    """Measure a connection once more, otherwise than before: its result is the data of that sweep."""

    of: Join
    grid: Grid

    @override
    def work(self, size: Size) -> Work:
        return self.grid.work(size, self.of.method.family(len(self.of.ends)))

    @override
    def find(self, lab: Lab) -> Any:
        return None  # numbers that are stored are not measured again

    @override
    def make(self, lab: Lab) -> Any:
        connected = lab.graph.connection(self.of.name)
        return connected.sweep(self.grid.points, progress=lab.progress, **self.grid.options())


@dataclass(frozen=True, kw_only=True)
class Vote(Step):
    """Let models vote, written as for ``mgraph ensemble``: ``a``, ``s@11``, ``curve@0.5``. Nothing is stored by it."""

    models: tuple[str, ...]
    members: int
    temperature: bool = False

    @override
    def work(self, size: Size) -> Work:
        each = size.valid + size.test + (min(BN_EXAMPLES, size.train) if size.batchnorm else 0)
        return Work(forward=self.members * each)

    @override
    def find(self, lab: Lab) -> Any:
        return None

    @override
    def make(self, lab: Lab) -> Any:
        return lab.graph.ensemble(*self.models, temperature=self.temperature, progress=lab.progress)


@dataclass(frozen=True, kw_only=True)
class Ask(Step):
    """Anything else that measures: ``function(lab)``, which passes ``forward`` examples for each of ``models``."""

    function: Callable[[Lab], Any] = field(compare=False)
    forward: int = 0

    @override
    def work(self, size: Size) -> Work:
        return Work(forward=self.forward)

    @override
    def find(self, lab: Lab) -> Any:
        return None

    @override
    def make(self, lab: Lab) -> Any:
        return self.function(lab)


def _require_same(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse something of this name that was made in another way."""
    now = json.loads(json.dumps(dict(wanted)))
    there = json.loads(json.dumps(dict(stored)))
    other = [key for key in now if there.get(key, now[key]) != now[key]]
    if other:
        key = other[0]
        raise InputError(
            f"The graph has a {name} that was made with {key}={there[key]}, not {now[key]}; take another --graph, or "
            f"give that one another name (mgraph mv)."
        )


def _passes(method: Method, family: Family, size: Size) -> float:
    """Return how many examples a method passes forward and backward: known, or at most."""
    known = method.cost(family, size.train)
    if known is not None:
        return known
    from mgraph.methods.llpf.method import LLPF
    from mgraph.methods.neb.method import NudgedElasticBand

    if isinstance(method, NudgedElasticBand):
        pivots, passes = method.pivots, 0.0
        for stage in method.stages():
            for _ in range(stage.cycles):
                passes += stage.steps * pivots * min(method.batch_size, size.train)
                pivots += method.insert
        return passes
    if isinstance(method, LLPF):
        return float(_ticks(method) * method.max_iters * method.batch_size)
    return 0.0


def _looks(method: Method, size: Size) -> float:
    """Return how many examples a band passes, at most, to look at the loss between its pivots: before and after every
    cycle."""
    from mgraph.methods.neb.method import NudgedElasticBand

    if not isinstance(method, NudgedElasticBand):
        return 0.0
    examples = size.train if method.dense_examples is None else min(method.dense_examples, size.train)
    cycles = sum(stage.cycles for stage in method.stages())
    pivots = [method.pivots + k * method.insert for k in range(cycles + 1)]
    return float(examples * sum((count + 1) * method.dense + count + 2 for count in pivots))


def _ticks(method: Any) -> int:
    """Return the most ticks of a walk."""
    from mgraph.methods.llpf.groups import AUTO, FDF, GroupSpec

    if method.walk == "m2o":
        return int(method.origin_ticks)
    specs = GroupSpec.parse_all(FDF if method.groups == AUTO else method.groups)
    ticks = sum((s.ticks or method.ticks) * (method.max_groups if s.what == (FDF,) else 1) for s in specs)
    return int(ticks + (method.origin_ticks if method.walk == "across" else 0))


def _kept(method: Method, family: Family) -> int:
    """Return how many points a method stores, at most."""
    from mgraph.methods.llpf.method import LLPF
    from mgraph.methods.neb.method import NudgedElasticBand

    if isinstance(method, LLPF):
        return -(-_ticks(method) // method.keep_every)
    if isinstance(method, NudgedElasticBand):
        return method.pivots + sum(stage.cycles for stage in method.stages()) * method.insert
    return 0 if method.name in ("linear", "simplex") else len(family.free)


def modes_of(steps: Sequence[Train]) -> tuple[str, ...]:
    """Return the names of modes."""
    return tuple(step.name for step in steps)
