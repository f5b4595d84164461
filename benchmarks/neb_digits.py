"""Whether NEB with the preset quick joins every pair of modes on digits, and what that takes.

For each network, modes are trained from independent seeds, named in advance: ten pairs, no mode in two of them. For
each pair the largest train loss on the straight segment (61 points) and on the band (its pivots and nine points in
every gap) is measured on all training examples, BatchNorm statistics recomputed at every point, and beside them the
test accuracy of the worst point of the band. The bar: the band stays below 0.04, also where the segment peaks above 0.3
(MLP) or 1.2 (CNN). Seconds are CPU time of the process, on one thread: of the band with its own dense evaluations.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Network, invocation, machine, networks, quieten
from rich import box
from rich.console import Console
from rich.table import Table

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy
from mgraph.evaluate.metrics import Subset
from mgraph.evaluate.sweep import Measuring, PointMetrics, sweep
from mgraph.families import Family, PolygonalChainFamily
from mgraph.methods.base import Array, Outcome, Start
from mgraph.methods.linear import Linear
from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.network.flat import FlatModel
from mgraph.progress import silent

PAIRS = [(100 + 2 * i, 101 + 2 * i) for i in range(10)]
SEGMENT = {"mlp": 0.3, "cnn": 1.2}
BAND = 0.04


@dataclass(frozen=True)
class Joined:
    """One pair of modes, joined."""

    segment: float
    saddle: float
    worst_test: float
    pivots: int
    ratio: float
    seconds: float


def measured(flat: FlatModel, task: Task, family: Family, points: Array) -> list[PointMetrics]:
    """Sweep a connection on its default grid."""
    rows = [flat.pack(torch.from_numpy(np.array(point))) for point in points]
    coefficients = family.coefficients(family.sweep_grid.points)
    how = Measuring(BatchNormPolicy.default(task.train))
    subsets = {"train": Subset(), "test": Subset()}
    return list(sweep(flat, task, rows, coefficients, how=how, subsets=subsets))


def join(flat: FlatModel, task: Task, ends: list[Array], method: NudgedElasticBand) -> Joined:
    """Measure the segment, relax the band, and measure that."""
    straight = Linear().family(2)
    segment = max(p["train"]["loss"].value for p in measured(flat, task, straight, np.stack(ends)))
    family = method.family(2)
    began = time.process_time()
    outcome: Outcome = method.run(flat, task, family, Start.between(family, ends), silent)
    seconds = time.process_time() - began
    chain, points = outcome.family, outcome.control_points
    assert isinstance(chain, PolygonalChainFamily)
    found = measured(flat, task, chain, points)
    length = float(sum(np.linalg.norm(np.diff(points.astype(np.float64), axis=0), axis=1)))
    return Joined(
        segment,
        max(p["train"]["loss"].value for p in found),
        min(p["test"]["accuracy"].value for p in found),
        chain.bends,
        length / float(np.linalg.norm(points[-1].astype(np.float64) - points[0])),
        seconds,
    )


def run(network: Network, pairs: list[tuple[int, int]], method: NudgedElasticBand) -> list[Joined]:
    """Join every pair."""
    task = network.task()
    flat = network.build(task)
    found = []
    for first, second in pairs:
        ends = [network.modes(task, range(seed, seed + 1))[0] for seed in (first, second)]
        found.append(join(flat, task, ends, method))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mlp,cnn", help="from mlp, cnn, mlp-bn, cnn-bn")
    parser.add_argument("--pairs", type=int, default=len(PAIRS))
    parser.add_argument("--first-seed", type=int, default=PAIRS[0][0], help="for tuning: other seeds than the reported")
    parser.add_argument("-s", "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    quieten()
    method = NudgedElasticBand.preset("quick", **dict(pair.split("=", 1) for pair in options.settings))
    pairs = [(options.first_seed + 2 * i, options.first_seed + 2 * i + 1) for i in range(options.pairs)]
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("network", "seeds", "segment", "saddle", "worst test acc.", "pivots", "length ratio", "CPU s"):
        table.add_column(column, justify="left" if column in ("network", "seeds") else "right")
    lines = []
    for name in options.networks.split(","):
        found = run(networks("", "")[name], pairs, method)
        for pair, joined in zip(pairs, found, strict=True):
            table.add_row(
                name,
                f"{pair[0]} {pair[1]}",
                f"{joined.segment:.3f}",
                f"{joined.saddle:.4f}",
                f"{joined.worst_test:.3f}",
                str(joined.pivots),
                f"{joined.ratio:.3f}",
                f"{joined.seconds:.1f}",
            )
        table.add_section()
        good = sum(j.saddle < BAND for j in found)
        bar = SEGMENT.get(name)
        high = "" if bar is None else f"; segment above {bar:g} in {sum(j.segment > bar for j in found)}"
        saddles = [j.saddle for j in found]
        lines.append(
            f"{name}: saddle below {BAND:g} in {good} of {len(found)}{high}; saddle median {np.median(saddles):.4f}, "
            f"largest {max(saddles):.4f}; CPU time median {np.median([j.seconds for j in found]):.1f} s"
        )
    console = Console(width=120, record=options.output is not None)
    console.print(f"{invocation()}\n{machine()}", highlight=False)
    console.print(table)
    console.print("\n".join(lines), highlight=False)
    if options.output is not None:
        text = "\n".join(line.rstrip() for line in console.export_text().splitlines())
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
