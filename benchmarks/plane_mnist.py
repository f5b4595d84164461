"""The plane through three modes of a CNN on MNIST, as in [G] fig. 1: basins, walls between them, a curve.

Three modes and a Bézier curve between two of them are trained. Two planes are measured, with BatchNorm recomputed for
every cell: through the three modes, on which curve and segment are projected, and through the ends of the curve and its
bend, in which the whole curve lies. Run: ``python benchmarks/plane_mnist.py --mnist mnist.npz``, two minutes of
CPU. ``--picture FILE`` draws the first plane.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import invocation, machine, quieten

import mgraph

ARCH = "cnn?channels=8,16&hidden=32&bn=true"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="mnist.npz", help="images as .npz (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=12000, help="training images (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--examples", type=int, default=1000, help="examples of each split (default: %(default)s)")
    parser.add_argument("--grid", type=int, default=15)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        data = f"npz:{Path(options.mnist).resolve()}?mean=0.1307&std=0.3081&limit={options.limit}"
        graph = mgraph.create(Path(directory) / "mnist.mgraph", arch=ARCH, data=data, device="cpu", threads=1)
        for seed, name in enumerate("abc"):
            graph.train(seed=seed, name=name, epochs=options.epochs)
        few: dict[str, Any] = {"examples": options.examples, "bn_examples": options.examples}
        line = graph.connect("a", "b", method=mgraph.Linear(), name="line", grid=options.grid, **few)
        curve = graph.connect(
            "a", "b", method=mgraph.BezierCurve(epochs=options.epochs), name="curve", grid=options.grid, **few
        )
        bend = next(row["node"] for row in curve.describe()["control_points"] if row["kind"] == "control")
        planes = {
            "through a, b and c": graph.plane("a", "b", "c", grid=options.grid, **few),
            "through a, b and the bend": graph.plane("a", "b", bend, grid=options.grid, **few),
        }
        print(f"{'':28}{'train loss':>12}{'test accuracy':>15}")
        for name in "abc":
            print(f"{f'mode {name}':28}{_of(graph, name)}")
        for name, path in (("segment a-b", line), ("curve a-b", curve)):
            print(f"{f'{name}, worst point':28}{_worst(path)}")
        for name, plane in planes.items():
            print(f"{f'plane {name}, worst':28}{_worst(plane)}")
        for name, plane in planes.items():
            basins = [row["basin"] for row in plane.basins().rows()]
            away, across = plane.project(curve), plane.project(line)
            size = float(np.hypot(np.ptp(across.x), np.ptp(across.y)))
            print(f"\nPlane {name}: basins at {'; '.join(basins)}.")
            print(f"The curve is up to {away.distance.max():.2f} from it; a and b are {size:.2f} apart.")
        print(f"\n{time.process_time() - begin:.0f} s of CPU time.")
        if options.picture is not None:
            planes["through a, b and c"].plot(options.picture, paths=[curve, line])


def _of(graph: mgraph.Graph, name: str) -> str:
    node = graph.node(name)
    return f"{node.evaluate('train')['loss'].value:>12.4f}{node.evaluate('test')['accuracy'].value:>15.4f}"


def _worst(connected: Any) -> str:
    values = connected.swept().values
    return f"{values['train', 'loss'].max():>12.4f}{values['test', 'accuracy'].min():>15.4f}"


if __name__ == "__main__":
    main()
