"""The papers' tables on digits and MNIST: every kind of path and surface between independent modes, and of one run.

[G] table 2 (Garipov et al. 2018): Min, Int and Max of train loss, train and test error along a path, and its length
ratio. [S] table 1 (Ren, Chen & Wang 2025): best, mean-surface and mean-corner test accuracy; the best point is chosen
on validation data, the best on test data stands apart as the oracle. Modes a, b, c, d are independent; e-… are late
checkpoints of one run. "s" is the seconds of CPU that training the connection took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import invocation, machine, quieten

import mgraph

IMAGES = "npz:{mnist}?mean=0.1307&std=0.3081"


@dataclass(frozen=True)
class Setup:
    """A network on its data; how its modes, paths and surfaces are trained."""

    arch: str
    data: str
    mode: dict[str, Any]
    late: tuple[int, ...]
    path: dict[str, Any] = field(default_factory=dict)
    surface: dict[str, Any] = field(default_factory=dict)
    examples: int | None = None


SETUPS = {
    "digits-cnn": Setup("cnn", "digits", {}, (28, 32, 36)),
    "digits-cnn-bn": Setup("cnn?bn=true", "digits", {}, (28, 32, 36)),
    "mnist-fc": Setup(
        "mlp?hidden=512,512",
        IMAGES,
        {"epochs": 10, "lr": 0.1, "batch_size": 128, "weight_decay": 1e-4},
        (7, 8, 9),
        {"epochs": 10, "batch_size": 128},
        {"epochs": 10, "batch_size": 128},
        10000,
    ),
    "mnist-lenet5": Setup(
        "lenet5",
        IMAGES,
        {"epochs": 5, "batch_size": 128},
        (2, 3, 4),
        {"epochs": 5, "batch_size": 128},
        {"epochs": 8, "batch_size": 128},
        2000,
    ),
}


def connections(setup: Setup) -> list[tuple[str, tuple[str, ...], mgraph.Method]]:
    """List what is connected: its name, its ends, the method."""
    four = ("a", "b", "c", "d")
    late = tuple(f"e-{epoch}" for epoch in setup.late)
    surfaces = [(n, mgraph.BezierSurface(degree=(n - 1, n - 1), **setup.surface)) for n in (3, 4, 5)]
    return [
        ("segment", four[:2], mgraph.Linear()),
        ("chain, 1 bend", four[:2], mgraph.PolygonalChain(**setup.path)),
        ("curve, 1 bend", four[:2], mgraph.BezierCurve(**setup.path)),
        ("simplex", four[:3], mgraph.Simplex()),
        ("linear surface", four, mgraph.Linear()),
        *[(f"surface {n}×{n}", four, method) for n, method in surfaces],
        ("linear, one run", (*late, "e"), mgraph.Linear()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setups", nargs="*", default=list(SETUPS), help=f"of {', '.join(SETUPS)}")
    parser.add_argument("--mnist", default="mnist.npz", help=".npz file with x_train, y_train, x_test, y_test")
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    for name in options.setups or list(SETUPS):
        measure(name, SETUPS[name], options.mnist)


def measure(name: str, setup: Setup, mnist: str) -> None:
    paths: list[str] = []
    models: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        graph = mgraph.create(
            Path(directory) / "g.mgraph",
            arch=setup.arch,
            data=setup.data.format(mnist=Path(mnist).absolute()),
            device="cpu",
        )
        for seed, mode in enumerate("abcd"):
            graph.train(seed=seed, name=mode, **setup.mode)
        graph.train(seed=4, name="e", keep=setup.late, **setup.mode)
        for label, ends, method in connections(setup):
            begin = time.process_time()
            connected = graph.connect(*ends, method=method, sweep=False)
            trained = time.process_time() - begin
            connected.sweep(examples=setup.examples)
            table = connected.table()
            barrier = max(
                e["barrier"] for e in connected.describe()["edges"] if (e["split"], e["metric"]) == ("train", "loss")
            )
            cells = [f"{label:<16} {trained:>6.0f} {barrier:>8.4f}"]
            for row in table["rows"]:
                form = ".4f" if "loss" in row["quantity"] else ".2f"
                cells.append(" ".join(f"{row[s]:>7{form}}" for s in ("min", "int", "max")))
            ratio = table["length_ratio"]
            paths.append(" | ".join([*cells, "" if ratio is None else f"{ratio:.3f}"]))
            if table["models"]:
                found = table["models"]
                shown = [
                    f"{found[w]['value']:>7.2f}±{found[w]['standard_error']:.2f}"
                    for w in ("best", "mean", "corners", "oracle")
                ]
                models.append(f"{label:<16} " + "  ".join(shown))
    print(f"== {name}: {setup.arch}")
    heads = ("train loss", "train error %", "test error %")
    print(
        f"{'connection':<16} {'s':>6} {'barrier':>8} | "
        + " | ".join(f"{h + ': min int max':<23}" for h in heads)
        + " | length ratio"
    )
    print("\n".join(paths))
    print(f"\n{'test accuracy %':<16} {'best':>12}  {'mean':>12}  {'corners':>12}  {'oracle':>12}")
    print("\n".join(models) + "\n", flush=True)


if __name__ == "__main__":
    main()
