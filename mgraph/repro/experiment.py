"""What an experiment is: a paper's table or figure, its rows, and what each row needs and reads (no torch).

A row says which steps it needs (:mod:`mgraph.repro.steps`) and how its numbers are read from what these made. The rest
is the same for all of them: resuming, estimates, budgets, tables, the dry run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mgraph.repro.lab import Lab
    from mgraph.repro.steps import Step

SCALES = ("tiny", "small", "paper")
"""``tiny``: digits or synthetic data, a minute; ``small``: two CPU cores, about an hour; ``paper``: as published."""

FAITHFUL, OURS = "faithful", "ours"
VARIANTS = (FAITHFUL, OURS)
"""As the authors did it, and with mgraph's defaults: on the same modes, and wherever possible at the same cost."""


class Number(NamedTuple):
    """A measured number and its standard error over test examples, if it has one."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Published:
    """A published number and where it stands; with no number, ``said`` says what there is instead."""

    value: float | None
    source: str
    said: str = ""

    @property
    def shown(self) -> str:
        """What a table shows."""
        return self.said or ("" if self.value is None else f"{self.value:g}")


def not_legible(source: str) -> Published:
    """Return the mark of a number that the paper shows only in a picture."""
    return Published(None, source, "not legible")


@dataclass(frozen=True)
class Quantity:
    """A column of a paper's table: its name and unit."""

    name: str
    unit: str = ""


@dataclass(frozen=True)
class Net:
    """A network on its data, and how its modes are trained.

    ``key`` begins the names of its modes and is part of its space's name; rows with the same key share its modes.
    ``data`` is a key of :data:`mgraph.repro.data.DATA`; ``limit`` keeps the first so many training images.
    """

    key: str
    arch: str
    data: str
    train: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Setup:
    """How a row is run at one scale: the network, how often, and options that the row knows."""

    net: Net
    repeats: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One repeat of one variant of a row."""

    setup: Setup
    variant: str
    repeat: int

    @property
    def net(self) -> Net:
        """The network."""
        return self.setup.net

    @property
    def faithful(self) -> bool:
        """Whether this is run as the authors did."""
        return self.variant == FAITHFUL

    def option(self, name: str, default: Any = None) -> Any:
        """Return an option of the row at this scale."""
        return self.setup.options.get(name, default)

    def name(self, what: str, *, shared: bool = False) -> str:
        """Return the name of something of this repeat; ``shared`` between the variants."""
        return f"{self.net.key}-{self.repeat}-{what}" + ("" if shared else f"-{self.variant}")

    def seed(self, number: int) -> int:
        """Return the seed of its mode of that number: no two repeats share one."""
        return 100 * self.repeat + number


@dataclass(frozen=True, kw_only=True)
class Row(ABC):
    """One row of a paper's table. ``published`` are its numbers there, by quantity; ``setups`` are by scale."""

    name: str
    setups: Mapping[str, Setup]
    published: Mapping[str, Published] = field(default_factory=dict)
    variants: tuple[str, ...] = VARIANTS

    @abstractmethod
    def steps(self, trial: Trial) -> Sequence[Step]:
        """Return what a trial needs, in order."""

    @abstractmethod
    def read(self, lab: Lab, trial: Trial) -> Mapping[str, Number]:
        """Return a trial's numbers by quantity, from what its steps made."""

    def trials(self, scale: str) -> list[Trial]:
        """List the trials at a scale: variants of one repeat side by side."""
        setup = self.setups[scale]
        return [Trial(setup, variant, repeat) for repeat in range(setup.repeats) for variant in self.variants]


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper: ``deviations`` are what differs from it at the scale ``paper``, in a sentence.

    ``same_cost``: its two variants take the same number of passes.
    """

    name: str
    paper: str
    title: str
    quantities: tuple[Quantity, ...]
    rows: tuple[Row, ...]
    deviations: str = ""
    same_cost: bool = True

    @property
    def scales(self) -> tuple[str, ...]:
        """The scales at which some row can be run."""
        return tuple(scale for scale in SCALES if any(scale in row.setups for row in self.rows))

    def unit(self, quantity: str) -> str:
        """Return a quantity's unit."""
        return next(q.unit for q in self.quantities if q.name == quantity)


@dataclass(frozen=True)
class Spread:
    """The numbers of several repeats: their mean, and its standard error.

    Of one repeat the error is that over test examples, if there is one.
    """

    values: tuple[float, ...]
    errors: tuple[float | None, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.values) / len(self.values)

    @property
    def error(self) -> float | None:
        """The standard error of the mean."""
        n = len(self.values)
        if n == 1:
            return self.errors[0]
        return math.sqrt(sum((x - self.mean) ** 2 for x in self.values) / (n - 1) / n)
