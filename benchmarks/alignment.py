"""What permuting the units of one network is worth to the straight line between two (Git Re-Basin, weight matching).

Two networks from different seeds: MLPs with three hidden layers of 512 on MNIST, and ResNet-20s on CIFAR-10. The
barrier is the highest train loss on the segment above the line between the ends' losses, and the fall of test accuracy
likewise; BatchNorm statistics are recomputed at every point. Ainsworth et al. (2023) need 32 times the width of the
ResNet-20 of He et al. (2015), trained for 250 epochs, for a barrier of about 0; --width and --epochs choose what there
is time for. Graphs are kept in --directory, and used again: an interrupted script goes on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import invocation, machine, quieten

import mgraph


@dataclass(frozen=True)
class Case:
    """A network on its data, how its two modes are trained, and at how many points of a segment it is measured."""

    arch: str
    data: str
    settings: dict[str, Any]
    examples: int
    points: int
    trained_on: str = "all images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="mnist.npz", help="(default: %(default)s)")
    parser.add_argument("--cifar10", default="cifar10.npz", help="(default: %(default)s)")
    parser.add_argument("--cases", default="mlp,resnet20", help="(default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="of the ResNet-20 (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of the ResNet-20 (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=5000, help="images it is trained on (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="in which it is trained (default: %(default)s)")
    parser.add_argument("--directory", type=Path, default=Path("alignment"), help="of graphs (default: %(default)s)")
    parser.add_argument("--train-only", action="store_true", help="train the modes, and stop")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    quieten()
    images = f"npz:{Path(options.mnist).resolve()}?mean=0.1307&std=0.3081"
    photos = f"npz:{Path(options.cifar10).resolve()}?mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616"
    cases = {
        "mlp": Case("mlp?hidden=512,512,512", images, {"epochs": 10, "batch_size": 128}, 10_000, 11),
        "resnet20": Case(
            f"cifarresnet?depth=20&width={options.width:g}",
            f"{photos}&limit={options.limit}",
            {"epochs": options.epochs, "batch_size": 64, "lr": 0.05, "precision": options.precision},
            500,
            5,
            f"{options.limit} images",
        ),
    }
    lines = [invocation(), machine(), ""]
    print("\n".join(lines), flush=True)
    options.directory.mkdir(exist_ok=True)
    for name in options.cases.split(","):
        graph = trained(options.directory / f"{name}.mgraph", cases[name])
        if not options.train_only:
            for line in compared(graph, name, cases[name]):
                lines.append(line)
                print(line, flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


def trained(path: Path, case: Case) -> mgraph.Graph:
    """Open the graph of a case and train what is missing of its two modes."""
    if path.exists():
        graph = mgraph.open(path, device="cpu", threads=1)
    else:
        graph = mgraph.create(path, arch=case.arch, data=case.data, device="cpu", threads=1)
    there = {row["name"] for row in graph.nodes("mode")}
    for seed, name in enumerate("ab"):
        if name not in there:
            graph.train(name=name, seed=seed, **case.settings)
    return graph


def compared(graph: mgraph.Graph, name: str, case: Case) -> list[str]:
    """Measure the segment between the two modes as they are, and with one of them aligned to the other."""
    there = {row["name"] for row in graph.ls().rows["nodes"]}
    start = time.process_time()
    if "aligned" not in there:
        graph.align("a", to="b", name="aligned")
    seconds = time.process_time() - start
    how = ", ".join(f"{key} {value}" for key, value in case.settings.items())
    info = graph.node("aligned").describe()["info"]
    lines = [
        f"{name}: {case.arch}, {how}, {case.trained_on}; aligned in {seconds:.0f} s of CPU, outputs the same up to "
        f"{info['largest_difference']:.1e}; on {case.examples} examples of each split, "
        f"at {case.points} points",
        f"  {'segment':<14}{'distance':>9}{'barrier':>9}{'middle loss':>13}{'fall of test accuracy':>23}",
    ]
    for first in ("a", "aligned"):
        line = graph.connect(first, "b", method=mgraph.Linear(), sweep=False)
        sampled = {"examples": case.examples, "bn_examples": case.examples}
        found = line.sweep(case.points, splits=("train", "test"), **sampled).values
        loss, accuracy = found["train", "loss"], found["test", "accuracy"]
        between = np.linspace(0.0, 1.0, case.points)
        barrier = (loss - (loss[0] + between * (loss[-1] - loss[0]))).max()
        fall = (accuracy[0] + between * (accuracy[-1] - accuracy[0]) - accuracy).max()
        distance = graph.compare(first, "b").pairs[0].similarity.whole.distance
        row = f"  {first + ' to b':<14}{distance:>9.2f}{barrier:>9.3f}{loss[case.points // 2]:>13.3f}"
        lines.append(f"{row}{100 * fall:>16.1f} points")
    ends = " and ".join(f"{100 * accuracy[k]:.1f} %" for k in (0, -1))
    return [*lines, f"  Test accuracy of the ends: {ends}.", ""]


if __name__ == "__main__":
    main()
