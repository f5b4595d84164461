"""The demonstration on landscapes of two weights: a band of pivots finds its way from one well to another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mgraph.errors import InputError, NameTakenError
from mgraph.figures import Look
from mgraph.graph.graph import create
from mgraph.methods.linear import Linear
from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.report.landscape import LandscapePanel, Moment, plot_landscapes

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph
    from mgraph.graph.handles import Connected
    from mgraph.progress import ProgressCallback


@dataclass(frozen=True)
class _Toy:
    """A landscape: its wells, the loss of the highest saddle on the way, what to draw, and how to relax on it."""

    potential: str
    title: str
    wells: tuple[tuple[float, float], tuple[float, float]]
    saddle: float
    window: tuple[float, float, float, float]
    lr: float
    steps: tuple[int, ...]  # after which the band is drawn


_TOYS = (
    _Toy("ring", "ring", ((-1, 0), (1, 0)), 0.0, (-1.4, 1.4, -1.4, 1.4), 0.01, (20, 40, 60, 200)),
    _Toy("valley", "bent valley", ((-1, 0), (1, 0)), 1.28663, (-1.5, 1.5, -1.5, 1.0), 0.005, (5, 10, 20, 200)),
    _Toy(
        "muller-brown",
        "Müller and Brown",
        ((-0.55822, 1.44173), (0.62350, 0.02804)),
        1.06035,
        (-1.3, 1.1, -0.4, 1.9),
        0.001,
        (10, 30, 60, 200),
    ),
)


@dataclass
class ToyDemo:
    """The results of the demonstration, and the files it wrote."""

    columns: ClassVar[tuple[str, ...]] = ("landscape", "connection", "steps", "saddle", "known_saddle", "length")

    rows: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def run_toy_demo(
    directory: Path,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    say: Callable[[str], None] = print,
) -> ToyDemo:
    """Relax a band on three landscapes and draw it moving; write the graph and the picture below ``directory``.

    Raises NameTakenError if the graph already exists, unless told to overwrite.
    """
    path = directory / "toy.mgraph"
    if path.exists():
        if not overwrite:
            raise NameTakenError(f"{path} already exists; add --overwrite to replace it, or choose another -o.")
        shutil.rmtree(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made: {error.strerror}; choose another -o.") from None
    demo, drawn = ToyDemo(), []
    graph = create(path, arch=f"toy?potential={_TOYS[0].potential}", data="toy", name=_TOYS[0].potential, device="cpu")
    for toy in _TOYS:
        say(f"Relaxing a band on the landscape {toy.potential}.")
        graph.add_space(f"toy?potential={toy.potential}", "toy", name=toy.potential)
        drawn.append(_followed(graph, toy, demo, progress))
    look = Look(about={"command": "mgraph demo --toy", "graph": path.name})
    demo.files += [plot_landscapes(drawn, directory / "toy.png", look=look), path]
    return demo


def _followed(graph: Graph, toy: _Toy, demo: ToyDemo, progress: ProgressCallback | None) -> LandscapePanel:
    """Connect the wells by a straight line and by a band that continues from moment to moment."""
    name = toy.potential
    ends = [
        graph.add_point(well, name=f"{name}-{side}", space=name)
        for well, side in zip(toy.wells, ("left", "right"), strict=True)
    ]
    line = graph.connect(*ends, method=Linear(), name=f"{name}-line", progress=progress)
    moments = [_moment(graph, line, "straight line")]
    demo.rows.append(_row(toy, line, 0))
    band: Connected | None = None
    done = 0
    for steps in toy.steps:
        method = NudgedElasticBand(
            pivots=9, cycles=(f"1x{steps - done}",), lr=toy.lr, weight_decay=0.0, insert=0, noise=1e-2
        )
        band = graph.connect(*ends, method=method, init=band, inner=4, name=f"{name}-{steps}", progress=progress)
        done = steps
        moments.append(_moment(graph, band, f"{steps} steps"))
        demo.rows.append(_row(toy, band, steps))
    x, y, heights = _heights(toy)
    return LandscapePanel(toy.title, x, y, heights, moments, toy.saddle)


def _moment(graph: Graph, connected: Connected, label: str) -> Moment:
    swept = connected.swept()
    points = [graph.node(row["node"]).tensors()["w"] for row in connected.describe()["control_points"]]
    return Moment(label, np.array(points, dtype=np.float64), swept.parameters[:, 0], swept.values["train", "loss"])


def _row(toy: _Toy, connected: Connected, steps: int) -> dict[str, Any]:
    (edge,) = [e for e in connected.describe()["edges"] if (e["split"], e["metric"]) == ("train", "loss")]
    return {
        "landscape": toy.potential,
        "connection": connected.name,
        "steps": steps,
        "saddle": edge["peak"],
        "known_saddle": toy.saddle,
        "length": edge["length"],
    }


def _heights(toy: _Toy) -> tuple[Any, Any, Any]:
    import torch

    from mgraph.architectures.landscapes import POTENTIALS

    left, right, bottom, top = toy.window
    x, y = np.linspace(left, right, 241), np.linspace(bottom, top, 241)
    places = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1))
    return x, y, POTENTIALS[toy.potential](places).numpy()
