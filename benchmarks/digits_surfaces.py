"""Do the surface's defaults hold on seeds that nobody tuned on? Ten sets of four fresh modes on digits.

For every set: the bilinear surface of the four modes, and Bézier surfaces trained by several schedules. Printed are
the largest train loss and the smallest train accuracy on an 11×11 grid, and the cost in forward/backward passes over
the training data. Run: ``python benchmarks/digits_surfaces.py [--sets 10] [--first-seed 1000] [--arch cnn]``
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import torch

import mgraph

SCHEDULES = {
    "default 10,10,40": {},
    "shorter 10,10,20": {"epochs": (10, 10, 20)},
    "phase 3 only 0,0,90": {"epochs": (0, 0, 90)},
    "lr 0.05": {"lr": 0.05},
    "lr 0.2": {"lr": 0.2},
}


def passes(method: mgraph.BezierSurface) -> int:
    """Passes over the training data: epochs × curves sampled per batch, summed over phases."""
    return sum(phase.epochs * len(phase.curves) * method.samples for phase in method.phases(method.family(4)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--arch", default="cnn")
    options = parser.parse_args()
    print(f"python {platform.python_version()}, torch {torch.__version__}, one thread, {options.arch} on digits")
    print(f"{'seeds':>12} {'test accuracy of the modes':>28} {'surface':>20} ", end="")
    print(f"{'passes':>7} {'max loss':>9} {'min acc':>8}")
    worst: dict[str, tuple[float, float]] = {}
    for number in range(options.sets):
        first = options.first_seed + 10 * number
        with tempfile.TemporaryDirectory() as directory:
            graph = mgraph.create(Path(directory) / "g.mgraph", arch=options.arch, data="digits", device="cpu")
            modes = [graph.train(seed=first + i) for i in range(4)]
            accuracies = " ".join(f"{m.evaluate('test')['accuracy'].value:.4f}" for m in modes)
            methods: dict[str, mgraph.Method] = {"bilinear": mgraph.Linear()}
            methods |= {name: mgraph.BezierSurface(seed=first, **changes) for name, changes in SCHEDULES.items()}
            for name, method in methods.items():
                try:
                    data = graph.connect(*modes, method=method, sweep=False).sweep(11, splits=("train",))
                    loss = float(data.values["train", "loss"].max())
                    accuracy = float(data.values["train", "accuracy"].min())
                except mgraph.MGraphError as error:  # a diverging schedule is a result, too
                    print(f"{name}: {error}")
                    loss, accuracy = float("inf"), 0.0
                cost = passes(method) if isinstance(method, mgraph.BezierSurface) else 0
                print(f"{first:>9}+0…3 {accuracies:>28} {name:>20} {cost:>7} {loss:>9.4f} {accuracy:>8.4f}", flush=True)
                high, low = worst.get(name, (0.0, 1.0))
                worst[name] = (max(high, loss), min(low, accuracy))
    print("\nWorst of all sets:")
    for name, (loss, accuracy) in worst.items():
        print(f"{name:>20}  max train loss {loss:.4f}  min train accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
