"""The Bézier surface of four modes, trained as a whole or from its outer curves inwards [S §4.2, Alg. 1 and 2]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, Family
from mgraph.methods.base import wrong_ends
from mgraph.methods.curves.trained import TrainedMethod
from mgraph.settings import setting

if TYPE_CHECKING:
    from mgraph.train.phases import Curve, Phase

SAMPLED = ("edges", "columns", "surface")
MOVES = ("edges", "inner", "all")

_PHASE = re.compile(r"(?P<name>[a-z]+):(?P<epochs>\d+)(@(?P<lr>[0-9.eE+-]+))?(/(?P<moves>[a-z0-9+]+))?")


@dataclass(frozen=True)
class PhaseSpec:
    """One phase as the user writes it: ``surface:40``, ``edges:10@0.05`` or ``columns:10/inner``.

    First comes what is sampled, then the epochs, then optionally @ with the phase's own learning rate, and / with what
    moves: a group of rows (edges, inner, all) or row numbers joined by +. By default, edges moves the edges, columns
    the inner rows (leaving what edges has trained), and surface everything.
    """

    sampled: str
    epochs: int
    lr: float | None
    moves: str

    @classmethod
    def parse(cls, text: str) -> PhaseSpec:
        """Parse one phase; raise InputError saying how a phase is written."""
        found = _PHASE.fullmatch(text.strip())
        if not found or found["name"] not in SAMPLED:
            raise InputError(
                f"A phase is written SAMPLED:EPOCHS[@LR][/MOVES], SAMPLED one of {', '.join(SAMPLED)}, e.g. "
                f"edges:10@0.05/edges; got {text!r}."
            )
        try:
            lr = None if found["lr"] is None else float(found["lr"])
        except ValueError:
            lr = -1.0
        if lr is not None and not 0 < lr < 1e30:
            raise InputError(f"The learning rate of phase {text!r} must be a number above 0.")
        default = dict(zip(SAMPLED, MOVES, strict=True))[found["name"]]
        moves = found["moves"] or default
        if moves not in MOVES and not re.fullmatch(r"\d+(\+\d+)*", moves):
            raise InputError(f"In phase {text!r} what moves is {', '.join(MOVES)} or rows like 1+4, not {moves!r}.")
        return cls(found["name"], int(found["epochs"]), lr, moves)


@dataclass(frozen=True, kw_only=True)
class BezierSurface(TrainedMethod):
    """A Bézier surface with four modes at its corners; every other control point is trained.

    Corner order a b c d: a = θ(0,0), b = θ(0,1), c = θ(1,0), d = θ(1,1).
    """

    name: ClassVar[str] = "surface"
    summary: ClassVar[str] = "Bézier surface with 4 modes at its corners, trained control points"
    references: ClassVar[tuple[str, ...]] = (
        "Ren, Chen, Wang (2025). Revisiting Mode Connectivity in Neural Networks with Bezier Surface. ICLR 2025",
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            # From the outside in; at the cost of 90 passes, worse than the default at 40 (benchmarks/robustness.py).
            "three-phase": {"phases": ("edges:10", "columns:10", "surface:40"), "lr": 0.1},
            # As the authors ran it.
            "paper": {
                "phases": ("edges:6", "columns:9", "surface:10"),
                "optimizer": "adamw",
                "lr": 1e-4,
                "schedule": "constant",
                "batch_size": 512,
                "samples": 15,
                "batch": "whole",
                "draw": "iid",
            },
        }
    )
    # Sampling one value per whole batch is unstable at this method's learning rate: one of two surfaces of the CNN on
    # digits ended at a largest train loss of 0.12; ten with split batches stay below 0.04 (benchmarks/robustness.py).
    least_work: ClassVar[float] = 0.0
    degree: tuple[int, int] = setting((2, 2), "degree n,m: (n+1)×(m+1) control points", low=1, high=30)
    # A point of a surface moves only a third as far with a control point as one of a curve does. With one sample per
    # whole batch this learning rate was unstable on some seeds; with split batches twice as much held (benchmarks/).
    lr: float = setting(0.2, "learning rate at the start of each phase", above=0, high=1e30)
    epochs: int = setting(
        40, "passes over the training data; 0 leaves the surface where it starts", unit="epochs", low=0
    )
    phases: tuple[str, ...] = setting(
        (),
        "phases in order instead of epochs, each SAMPLED:EPOCHS[@LR][/MOVES]: edges (u = 0, 1), columns, surface; "
        "moves edges, inner, all or rows 1+4",
    )

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.phases:
            PhaseSpec.parse(text)

    @override
    def family(self, ends: int) -> Family:
        """Return the surface; it takes four ends."""
        if ends != 4:
            raise InputError(wrong_ends("--surface", ends, "exactly 4 modes"))
        family = BezierSurfaceFamily(self.degree)
        for spec in map(PhaseSpec.parse, self.phases):
            _moved(family, spec.moves)
        return family

    @override
    def plan(self, family: Family) -> tuple[Phase, ...]:
        """Return the phases: by default a single one that samples the whole surface and moves all but the corners.

        The edges phase samples the curves u = 0 and u = 1. The columns phase samples, for every j, the curve over u
        through P_0j … P_nj, which for 0 < j < m does not lie on the surface.
        """
        from mgraph.train.phases import Phase

        assert isinstance(family, BezierSurfaceFamily)
        specs = [PhaseSpec.parse(text) for text in self.phases or (f"surface:{self.epochs}",)]
        return tuple(
            Phase(
                spec.sampled,
                spec.epochs,
                _curves(family, spec.sampled),
                self.moving(_moved(family, spec.moves)),
                spec.lr,
            )
            for spec in specs
        )


def _curves(family: BezierSurfaceFamily, sampled: str) -> tuple[Curve, ...]:
    from mgraph.train.phases import Curve

    n, m = family.degree
    if sampled == "surface":
        return (Curve.whole(family),)
    if sampled == "edges":
        along = BezierCurveFamily(m - 1)
        return tuple(Curve(along, tuple(family.row(i, j) for j in range(m + 1)), family.size) for i in (0, n))
    across = BezierCurveFamily(n - 1)
    return tuple(Curve(across, tuple(family.row(i, j) for i in range(n + 1)), family.size) for j in range(m + 1))


def _moved(family: BezierSurfaceFamily, moves: str) -> tuple[int, ...]:
    n, m = family.degree
    if moves == "all":
        return family.free
    if moves == "edges":
        return tuple(family.row(i, j) for i in (0, n) for j in range(1, m))
    if moves == "inner":
        return tuple(family.row(i, j) for i in range(1, n) for j in range(m + 1))
    rows = tuple(sorted({int(row) for row in moves.split("+")}))
    for row in rows:
        if row not in family.free:
            raise InputError(f"A phase cannot move row {row}; the free control points are {list(family.free)}.")
    return rows
