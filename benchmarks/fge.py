"""Fast geometric ensembles, snapshot ensembles and independent runs at equal budgets: [G] table 1 at a small size.

A budget of kB is k runs of each kind, each of as many epochs (B) as one ordinary training, and the ensemble of all
models that they leave behind. As in [G] (section 6 and appendix A.5), an FGE run is the first three quarters of an
ordinary training and then cycles of two epochs between two learning rates, with a member at each lowest rate; a
snapshot run is M cosine cycles from the same initial rate, with a member at the end of each. Rates, and M, are [G]'s:
those of VGG-16 for the plain CNN, those of its residual networks for the one with BatchNorm. Nothing is chosen on test
data, on which all of them are measured.

Run: ``python benchmarks/fge.py --cifar10 cifar10.npz --work DIR -o benchmarks/results/merging.txt``, some fifteen
minutes of CPU; it is written behind what the file has. What is in the graphs in DIR already is not trained again.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import Score, invocation, machine, quieten, standard_error, votes

import mgraph
from mgraph.operations.modes import SimilarModeWarning
from mgraph.train.batches import batches_per_pass

BATCH = 64
CYCLE = 2  # epochs
BEFORE = 0.75  # share of an ordinary training that comes before FGE


@dataclass(frozen=True)
class Contender:
    """A network, its learning rate, the two of its FGE cycles, and the snapshots of a run."""

    arch: str
    lr: float
    high: float
    low: float
    snapshots: int


NETWORKS = {
    "cnn": Contender("cnn?channels=16,32,32&hidden=64", 0.05, 0.01, 5e-4, 5),
    "cnn-bn": Contender("cnn?channels=16,32,32&hidden=64&bn=true", 0.1, 0.05, 5e-4, 4),
    "resnet20": Contender("cifarresnet?width=0.5", 0.1, 0.05, 5e-4, 4),
}


class Bench:
    """The runs of one network in a graph of their own."""

    def __init__(self, name: str, data: str, work: Path, epochs: int) -> None:
        self.how, path = NETWORKS[name], work / f"fge-{name}.mgraph"
        known = path.exists()
        self.graph = mgraph.open(path) if known else mgraph.create(path, arch=self.how.arch, data=data, device="cpu")
        self.task = self.graph.session.workspace(self.graph.session.space()).task
        self.epochs, self.epoch = epochs, batches_per_pass(len(self.task.train), BATCH, 2)
        self._scores: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def votes(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what a model predicts on test data, and the labels."""
        if name not in self._scores:
            self._scores[name] = votes(self.graph.node(name), self.task.test)
        return self._scores[name]

    def ensemble(self, names: list[str]) -> Score:
        """Average the votes of models."""
        found = [self.votes(name) for name in names]
        return Score.of(np.mean([p for p, _ in found], axis=0), found[0][1])

    def independent(self, seed: int) -> list[str]:
        """Train one ordinary mode."""
        self._train(f"ind{seed}", seed, epochs=self.epochs, lr=self.how.lr)
        return [f"ind{seed}"]

    def fge(self, seed: int) -> list[str]:
        """Train most of an ordinary mode, and go on in cycles."""
        start, how = round(BEFORE * self.epochs), self.how
        left, name = self.epochs - start, f"fge{seed}"
        self._train(f"start{seed}", seed, epochs=self.epochs, lr=how.lr, max_steps=start * self.epoch)
        schedule = f"cyclic?period={CYCLE}ep&low={how.low / how.high:g}"
        more = {"fge": True, "init": f"start{seed}", "schedule": schedule}
        self._train(name, seed, epochs=left, lr=how.high, **more)
        return [f"{name}-{k + 1}" for k in range((left + CYCLE // 2) // CYCLE)]

    def snapshot(self, seed: int) -> list[str]:
        """Train a snapshot ensemble."""
        cycles, name = self.how.snapshots, f"sse{seed}"
        self._train(name, seed, epochs=self.epochs, lr=self.how.lr, snapshot=True, schedule=f"restarts?cycles={cycles}")
        return [f"{name}-{k + 1}" for k in range(cycles)]

    def _train(self, name: str, seed: int, **how: object) -> None:
        made = {row["name"] for row in self.graph.nodes("mode")}
        if not made & {name, f"{name}-1"}:
            self.graph.train(name=name, seed=seed, augment="crop4+flip", batch_size=BATCH, **how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", default="cifar10.npz")
    parser.add_argument("--work", type=Path, required=True, help="directory of the graphs")
    parser.add_argument("--networks", default="cnn,cnn-bn", help="names with commas")
    parser.add_argument("--limit", type=int, default=4000, help="training images, a tenth of them for validation")
    parser.add_argument("--epochs", type=int, default=20, help="B, those of an ordinary training")
    parser.add_argument("--budgets", type=int, default=3, help="the largest k")
    parser.add_argument("-o", "--output", type=Path, help="written behind what this file has")
    options = parser.parse_args()
    quieten()
    warnings.simplefilter("ignore", SimilarModeWarning)  # FGE begins as the independent run of its seed does
    data = f"npz:{options.cifar10}?mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616&limit={options.limit},test=10000"
    options.work.mkdir(parents=True, exist_ok=True)
    lines = [invocation(), machine()]
    for name in options.networks.split(","):
        bench = Bench(name, data, options.work, options.epochs)
        lines += ["", f"{bench.how.arch}, {len(bench.task.train)} images of CIFAR-10, crop4+flip, B = {options.epochs}"]
        lines.append(
            f"FGE: first {round(BEFORE * options.epochs)} epochs at {bench.how.lr:g}, then cycles of {CYCLE} epochs "
            f"between {bench.how.high:g} and {bench.how.low:g}; snapshot: {bench.how.snapshots} cycles from "
            f"{bench.how.lr:g}."
        )
        head = f"{'budget':<8}{'ensemble of':<14}{'members':>8}{'error %':>9}{'s.e.':>7}{'nll':>8}"
        lines.append(f"{head}{'- independent':>15}{'s.e.':>7}{'mean member %':>15}")
        print("\n".join(lines[-3:]), flush=True)
        kinds = {"independent": bench.independent, "fge": bench.fge, "snapshot": bench.snapshot}
        members: dict[str, list[str]] = {kind: [] for kind in kinds}
        for k in range(options.budgets):
            found = {}
            for kind, run in kinds.items():
                members[kind] += run(k)
                found[kind] = bench.ensemble(members[kind])
            for kind, score in found.items():
                apart = found["independent"].right - score.right  # of the errors, paired by example
                alone = np.mean([1 - bench.ensemble([name]).accuracy for name in members[kind]])
                lines.append(
                    f"{f'{k + 1}B':<8}{kind:<14}{len(members[kind]):>8}{100 * (1 - score.accuracy):>9.2f}"
                    f"{100 * score.error:>7.2f}{score.nll.mean():>8.4f}{100 * apart.mean():>+15.2f}"
                    f"{100 * standard_error(apart):>7.2f}{100 * alone:>15.2f}"
                )
                print(lines[-1], flush=True)
    if options.output:
        with options.output.open("a") as file:
            file.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
