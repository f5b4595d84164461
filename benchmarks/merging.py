"""What merging gains over what the same training buys otherwise: CIFAR-10, a small CNN, three regimes.

In every regime and repeat there are six modes, a … f, of E epochs each (T is the training of one), a 3×3 Bézier surface
between the first four, trained for 2T, and what else 6T can buy: one longer run, stochastic weight averaging (SWA),
sharpness-aware steps (SAM, two passes a step), fast geometric ensembles (FGE), snapshots, a simplex from scratch.
Everything is chosen on validation data; test data are looked at when a row is written. "oracle" is the exception: the
surface's best point by test accuracy, which nobody can have. Rows:

- mean corner, best corner: the corners' mean, and the one with the best validation accuracy;
- merged: what `mgraph merge` hands out, and in how many repeats that is a point of the surface ("fired");
- greedy soup: of the surface's 3×3 points, by `mgraph soup --greedy`; where that refuses, the best corner;
- corner ensemble, 9-point ensemble, 6 modes: votes of the corners, of the 3×3 points, of all modes;
- FGE: each mode at three quarters of its epochs, and cycles for a quarter of T, as [G] spends a budget of 6T;
- simplex: the middle of three vertices.

Costs are in T. A gain is over the best corner, in points of accuracy, paired by example; its standard error is that of
the test examples, averaged over repeats, and "spread" that of the mean of the repeats.

Run: ``python benchmarks/merging.py --cifar10 cifar10.npz --work DIR -o benchmarks/results/merging.txt``. At its full
size it takes hours: ``--regimes``, ``--repeats``, ``--epochs``, ``--rows`` and ``--test`` make it smaller. Finished
trainings are in the graphs in DIR, finished rows in DIR/rows-….jsonl, and neither is done again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from harness import Score, invocation, machine, quieten, standard_error

import mgraph
from mgraph.errors import InputError, MGraphWarning
from mgraph.train.batches import batches_per_pass

ARCH = "cnn?channels=16,32,32&hidden=64&bn=true"
BATCH = 64
CORNERS, MODES = "abcd", "abcdef"
CYCLE = 2  # epochs of a cycle of FGE, or fewer if there is not one and a half
SNAPSHOTS, VERTICES = 6, 3


@dataclass(frozen=True)
class Regime:
    """How many training images there are, how they are augmented, and which share of their labels is wrong."""

    images: int
    augment: str | None = None
    wrong: float = 0.0


REGIMES = {
    "5k-augmented": Regime(5000, "crop4+flip"),
    "2.5k": Regime(2500),
    "2.5k-noisy": Regime(2500, wrong=0.2),
}


@dataclass(frozen=True)
class Row:
    """One finished row: what it costs, its accuracy and loss on test data, and its gain over the best corner."""

    regime: str
    repeat: int
    name: str
    cost: float
    accuracy: float
    nll: float | None
    gain: float
    error: float | None
    note: str = ""


def write_data(cifar10: Path, path: Path, regime: Regime, seed: int, counts: tuple[int, int]) -> None:
    """Write the images of one repeat: training and validation images of the training set, disjoint, and test images."""
    valid, test = counts
    rng = np.random.default_rng([seed, regime.images, round(100 * regime.wrong)])
    with np.load(cifar10) as file:
        order = rng.permutation(len(file["y_train"]))
        train, held = order[: regime.images], order[regime.images : regime.images + valid]
        y = file["y_train"][train].astype(np.int64)
        changed = rng.random(len(y)) < regime.wrong
        y[changed] = (y[changed] + rng.integers(1, 10, changed.sum())) % 10
        x = file["x_train"]
        splits = {"train": (x[train], y), "valid": (x[held], file["y_train"][held].astype(np.int64))}
        splits["test"] = file["x_test"][:test], file["y_test"][:test].astype(np.int64)
    np.savez(
        path,
        **{f"{part}_{name}": array for name, pair in splits.items() for part, array in zip("xy", pair, strict=True)},
    )


class Bench:
    """One repeat of one regime, in a graph of its own."""

    def __init__(self, options: argparse.Namespace, name: str, repeat: int) -> None:
        self.name, self.repeat, self.regime, self.options = name, repeat, REGIMES[name], options
        sizes = options.epochs, options.grid, options.valid, options.test
        place = "-".join(map(str, (name, repeat, *sizes)))
        self._data = options.work / f"{place}.npz"
        path, self._rows = options.work / f"{place}.mgraph", options.work / f"rows-{place}.jsonl"
        if not self._data.exists():
            write_data(options.cifar10, self._data, self.regime, repeat, (options.valid, options.test))
        spec = f"npz:{self._data.resolve()}?mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616"
        self.graph = mgraph.open(path) if path.exists() else mgraph.create(path, arch=ARCH, data=spec, device="cpu")
        self.E, self.epoch = options.epochs, batches_per_pass(self.regime.images, BATCH, 2)
        self.done = {}
        if self._rows.exists():
            found = [Row(**json.loads(line)) for line in self._rows.read_text().splitlines()]
            self.done = {row.name: row for row in found}

    # What is trained, each only if it is not there yet

    def _train(self, name: str, number: int, end: str = "", **how: Any) -> str:
        """Train by the regime's settings; return the name of the node, which is NAME and ``end``."""
        if f"{name}{end}" not in {row["name"] for row in self.graph.nodes("mode")}:
            given = {"epochs": self.E, "batch_size": BATCH, "augment": self.regime.augment} | how
            self.graph.train(name=name, seed=100 * self.repeat + number, **given)
        return f"{name}{end}"

    @property
    def before(self) -> int:
        """Epochs of a mode after which FGE takes it up."""
        return int(0.75 * self.E)

    def modes(self, names: Sequence[str] = MODES) -> list[str]:
        """Train independent modes, and keep what FGE takes up."""
        return [self._train(name, MODES.index(name), keep=(self.before,)) for name in names]

    @cached_property
    def surface(self) -> Any:
        """The swept surface between the corners."""
        ends = self.modes(CORNERS)
        if "s" not in {row["name"] for row in self.graph.connections()}:
            method = mgraph.BezierSurface(epochs=2 * self.E, batch_size=BATCH, augment=self.regime.augment)
            self.graph.connect(*ends, method=method, name="s", sweep=False)
        found = self.graph.connection("s")
        if not found.describe()["sweeps"]:
            found.sweep(self.options.grid, splits=("valid", "test"))
        return found

    @cached_property
    def best_corner(self) -> str:
        """The corner with the best validation accuracy."""
        corners = self.modes(CORNERS)
        rows = {row["name"]: row["valid_accuracy"] for row in self.graph.nodes("mode")}
        return max(corners, key=lambda name: rows[name])

    # Rows

    def score(self, *models: str) -> Score:
        """Let models vote on test data."""
        found = self.graph.predict(*models, split="test")
        return Score.of(found.probabilities, found.labels)

    @cached_property
    def baseline(self) -> Score:
        """The best corner."""
        return self.score(self.best_corner)

    def row(self, name: str) -> Row:
        """Return a row, measured now unless it was before."""
        if name not in self.done:
            began = time.process_time()
            cost, made, note = ROWS[name](self)
            said = f"{note}{', ' if note else ''}{time.process_time() - began:.0f} s"
            if isinstance(made, float):  # no model
                row = Row(self.name, self.repeat, name, cost, made, None, made - self.baseline.accuracy, None, said)
            else:
                gains = made.right - self.baseline.right
                facts = made.accuracy, float(made.nll.mean()), float(gains.mean()), standard_error(gains)
                row = Row(self.name, self.repeat, name, cost, *facts, said)
            with self._rows.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            self.done[name] = row
        return self.done[name]

    def mean_corner(self) -> tuple[float, Score, str]:
        """Return cost, score and a note, as all of these do: here of a corner that is taken at random."""
        scores = [self.score(name) for name in self.modes(CORNERS)]
        mean = Score(np.mean([s.right for s in scores], axis=0), np.mean([s.nll for s in scores], axis=0))
        return 1.0, mean, ""

    def merged(self) -> tuple[float, Score, str]:
        """Merge by the rule."""
        name = "merged"
        if name not in {row["name"] for row in self.graph.nodes("merged")}:
            self.surface.merge(name=name)
        at = self.graph.node(name).describe()["info"].get("parameter")
        corner = at is None or all(t in (0, 1) for t in at)
        return 6.0, self.score(name), f"kept the corner at {at}" if corner else f"fired at {at}"

    def oracle(self) -> tuple[float, float, str]:
        """Choose on test data."""
        return 6.0, float(np.max(self.surface.swept().values["test", "accuracy"])), ""

    def soup(self) -> tuple[float, Score, str]:
        """Average points of the surface greedily."""
        name = "soup"
        if name not in {row["name"] for row in self.graph.nodes("merged")}:
            assert self.surface
            try:
                self.graph.soup("s@3", how="greedy", name=name)
            except InputError as error:  # a wall between the points
                return 6.0, self.baseline, f"refused ({error}): the best corner"
        return 6.0, self.score(name), ""

    def grid_ensemble(self) -> tuple[float, Score, str]:
        """Let nine points of the surface vote."""
        assert self.surface
        return 6.0, self.score("s@3"), ""

    def swa(self, times: int) -> tuple[float, Score, str]:
        """Average late weights of one run."""
        return float(times), self.score(self._train(f"w{times}", 10, "-swa", swa=True, epochs=times * self.E)), ""

    def sam(self, times: int) -> tuple[float, Score, str]:
        """Train by sharpness-aware steps, which cost twice."""
        name = self._train(f"flat{times}", 11, sam=0.05, epochs=times * self.E // 2)
        return float(times), self.score(name), ""

    def longer(self, times: int) -> tuple[float, Score, str]:
        """Train one mode for longer."""
        return float(times), self.score(self._train(f"long{times}", 12, epochs=times * self.E)), ""

    def fge(self) -> tuple[float, Score, str]:
        """Go on from each mode in cycles."""
        left, members = self.E - self.before, []
        steps = left * self.epoch
        period = min(CYCLE * self.epoch, 2 * steps // 3)
        count = (steps + period // 2) // period
        for number, name in enumerate(self.modes()):
            how = {"init": f"{name}-{self.before}", "lr": 0.025, "schedule": f"cyclic?period={period}&low=0.02"}
            self._train(f"fge{number}", number, f"-{count}", fge=True, epochs=left, **how)
            members += [f"fge{number}-{i + 1}" for i in range(count)]
        return float(len(MODES)), self.score(*members), f"{len(members)} members"

    def snapshot(self) -> tuple[float, Score, str]:
        """Train one run in cycles."""
        how = {"snapshot": True, "schedule": f"restarts?cycles={SNAPSHOTS}", "epochs": SNAPSHOTS * self.E}
        self._train("sse", 13, f"-{SNAPSHOTS}", **how)
        return float(SNAPSHOTS), self.score(*[f"sse-{k + 1}" for k in range(SNAPSHOTS)]), f"{SNAPSHOTS} members"

    def simplex(self, times: int) -> tuple[float, Score, str]:
        """Train vertices together."""
        return float(times), self.score(self._train("x", 14, simplex=VERTICES, epochs=times * self.E)), ""


ROWS: dict[str, Callable[[Bench], tuple[float, Any, str]]] = {
    "mean corner": Bench.mean_corner,
    "best corner": lambda bench: (4.0, bench.baseline, f"{bench.best_corner}"),
    "merged": Bench.merged,
    "oracle": Bench.oracle,
    "greedy soup": Bench.soup,
    "corner ensemble": lambda bench: (4.0, bench.score(*bench.modes(CORNERS)), ""),
    "9-point ensemble": Bench.grid_ensemble,
    "6 modes": lambda bench: (6.0, bench.score(*bench.modes()), ""),
    "longer run": lambda bench: bench.longer(6),
    "SWA 1T": lambda bench: bench.swa(1),
    "SWA": lambda bench: bench.swa(6),
    "SAM 2T": lambda bench: bench.sam(2),
    "SAM": lambda bench: bench.sam(6),
    "FGE": Bench.fge,
    "snapshots": Bench.snapshot,
    "simplex": lambda bench: bench.simplex(6),
}


def table(rows: Sequence[Row]) -> list[str]:
    """Print the mean over repeats of every row of a regime."""
    head = f"{'':<18}{'cost T':>7}{'repeats':>8}{'accuracy %':>12}{'nll':>8}{'gain':>8}{'s.e.':>7}{'spread':>8}"
    lines = [head]
    for name in dict.fromkeys(row.name for row in rows):
        same = [row for row in rows if row.name == name]
        gains = np.array([row.gain for row in same])
        errors = [row.error for row in same if row.error is not None]
        nll = [row.nll for row in same if row.nll is not None]
        error = f"{100 * np.sqrt(np.sum(np.square(errors))) / len(errors):.2f}" if errors else "-"
        spread = f"{100 * standard_error(gains):.2f}" if len(same) > 1 else "-"
        fired = sum(row.note.startswith("fired") for row in same)
        lines.append(
            f"{name:<18}{same[0].cost:>7g}{len(same):>8}{100 * np.mean([r.accuracy for r in same]):>12.2f}"
            f"{f'{np.mean(nll):.3f}' if nll else '-':>8}{100 * gains.mean():>+8.2f}{error:>7}{spread:>8}"
            + (f"  fired in {fired}" if name == "merged" else "")
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, default=Path("cifar10.npz"))
    parser.add_argument("--work", type=Path, required=True, help="directory of graphs and finished rows")
    parser.add_argument("--regimes", default=",".join(REGIMES), help="names with commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="E, those of one mode")
    parser.add_argument("--grid", type=int, default=11, help="points of the surface's sweep along each side")
    parser.add_argument("--valid", type=int, default=1000, help="validation images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--rows", default=",".join(ROWS), help="names with commas")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    for given, known in ((options.regimes, REGIMES), (options.rows, ROWS)):
        if unknown := [name for name in given.split(",") if name not in known]:
            parser.error(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
    quieten()
    warnings.simplefilter("ignore", MGraphWarning)  # modes that begin alike are meant to
    options.work.mkdir(parents=True, exist_ok=True)
    lines = [invocation(), machine(), f"{ARCH}, E = {options.epochs} epochs, {options.test} test images"]
    for name in options.regimes.split(","):
        regime, rows = REGIMES[name], []
        for repeat in range(options.repeats):
            bench = Bench(options, name, repeat)
            for row in options.rows.split(","):
                rows.append(bench.row(row))
                print(name, repeat, rows[-1], flush=True)
        wrong = f", {regime.wrong:.0%} of the labels wrong" if regime.wrong else ""
        lines += ["", f"{name}: {regime.images} images, {regime.augment or 'not augmented'}{wrong}", *table(rows)]
        print("\n".join(lines[-len(rows) - 2 :]), flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
