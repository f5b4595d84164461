"""The demonstration: digits of which half the labels are wrong, and what a surface through four networks is worth.

Each network learns the wrong labels by heart, each in its own way, and on the straight lines between them everything is
lost. The trained surface joins them, and the best of its points is one network of the same size that is right far more
often. The demonstration says how much more, beyond which error, and what the same training would have bought otherwise:
a longer run is worse than a shorter one here, and who stops each run in time needs no surface.

The task was chosen by experiment: the gain over finished modes is there for every draw of the labels and every seed
that was tried (benchmarks/demo_seeds.py); with 100 to 200 labels of which few or none are wrong, there was none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mgraph.errors import InputError, NameTakenError
from mgraph.graph.graph import create
from mgraph.merge.compare import Difference, paired_difference
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.linear import Linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mgraph.graph.graph import Graph
    from mgraph.graph.handles import Connected
    from mgraph.progress import ProgressCallback

MODES, FIFTH, LONG, MERGED = "abcd", "e", "long", "merged"
_SEEDS = {name: number for number, name in enumerate((*MODES, FIFTH, LONG))}
LABEL_NOISE = 0.5
EPOCHS = 40  # of a mode, and of the surface: T each
LINE_POINTS, PLANE_POINTS = 21, 15
KEPT_EVERY = 5  # epochs, after which early stopping may stop a run


@dataclass
class Demo:
    """The results of the demonstration: its tables, its story in sentences, and the files it wrote.

    ``rows`` are modes and connections, ``models`` what the graph is worth beside what the same training buys otherwise:
    ``cost`` in T, the training of one mode; ``gain`` over the best mode, paired by test example.
    """

    columns: ClassVar[tuple[str, ...]] = ("what", "max_train_loss", "min_test_accuracy")
    model_columns: ClassVar[tuple[str, ...]] = (
        *("what", "cost", "networks", "test_accuracy", "standard_error", "gain", "gain_error", "verdict"),
    )
    max_drop: ClassVar[float] = 0.1

    rows: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def run_demo(
    directory: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    say: Callable[[str], None] = print,
) -> Demo:
    """Train four modes on digits with wrong labels, connect them, merge, compare; write graph, pictures and a model.

    Everything goes below ``directory``. With another ``seed``, other labels are wrong and other modes are trained.
    Raises NameTakenError if its graph already exists, unless told to overwrite.
    """
    path = directory / "digits.mgraph"
    if path.exists():
        if not overwrite:
            raise NameTakenError(f"{path} already exists; add --overwrite to replace it, or choose another -o.")
        shutil.rmtree(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made: {error.strerror}; choose another -o.") from None
    data = f"digits?label_noise={LABEL_NOISE}&label_seed={seed}"
    show = _Show(create(path, arch="cnn", data=data, device="cpu"), seed, Demo(), progress)
    say(f"{LABEL_NOISE:.0%} of the training and validation labels are wrong; those of the test data are right.")
    say("Training four independent modes.")
    for name in MODES:
        show.train(name)
    say("Connecting all six pairs by straight lines, and all four by the bilinear surface.")
    for first, second in combinations(MODES, 2):
        show.connect(f"line-{first}{second}", (first, second), f"line {first}-{second}", Linear(), LINE_POINTS)
    wall = show.connect("wall", MODES, "bilinear surface", Linear())
    before = show.components()
    say("Training the Bézier surface, for as long as one mode.")
    surface = show.connect("surface", MODES, "trained Bézier surface", BezierSurface(epochs=EPOCHS))
    show.demo.story.append(
        f"Components at a test accuracy drop of at most {Demo.max_drop:g}: {before} by straight lines, "
        f"{show.components()} with the trained surface."
    )
    say("Merging, and training what the same time would have bought: a run five times as long, and a fifth mode.")
    show.better_models(surface)
    say("Drawing and exporting.")
    exported = show.graph.node(MERGED).export(directory / "merged.safetensors", overwrite=True, verify=False)
    plane = show.graph.plane("a", "b", MERGED, name="plane", grid=PLANE_POINTS, progress=progress)
    show.demo.files += [
        exported.path,
        surface.plot(directory / "surface.png", before=wall),
        plane.plot(directory / "plane.png"),
        show.graph.connection("line-ad").plot(directory / "line.png"),
        show.graph.report(directory / "report.html"),
        path,
    ]
    return show.demo


@dataclass
class _Show:
    """The graph as it grows, and what is told of it."""

    graph: Graph
    seed: int
    demo: Demo
    progress: ProgressCallback | None

    def train(self, name: str, times: int = 1) -> None:
        """Train a mode, so many times as long as usual, keeping it where it may be stopped early; tell of the four."""
        epochs = times * EPOCHS
        mode = self.graph.train(
            seed=10 * self.seed + _SEEDS[name],
            name=name,
            epochs=epochs,
            keep=tuple(range(KEPT_EVERY, epochs, KEPT_EVERY)),
            progress=self.progress,
        )
        if name in MODES:
            train, test = mode.evaluate("train"), mode.evaluate("test")["accuracy"]
            self.demo.rows.append(
                {"what": f"mode {name}", "max_train_loss": train["loss"].value, "min_test_accuracy": test.value}
            )

    def connect(self, name: str, ends: Sequence[str], what: str, method: Any, grid: int | None = None) -> Connected:
        """Connect modes, and tell the worst of the points between them."""
        connected = self.graph.connect(*ends, method=method, name=name, grid=grid, progress=self.progress)
        values = connected.swept().values
        self.demo.rows.append(
            {
                "what": what,
                "max_train_loss": float(values["train", "loss"].max()),
                "min_test_accuracy": float(values["test", "accuracy"].min()),
            }
        )
        return connected

    def components(self) -> int:
        """Count the groups of the four modes between which the test accuracy drops by no more than the limit."""
        found = self.graph.components(max_drop=self.demo.max_drop, split="test", metric="accuracy")
        return sum(any(vertex.name in (*MODES,) for vertex in group) for group in found.groups)

    def better_models(self, surface: Connected) -> None:
        """Merge, train what the same time buys otherwise, and compare all of it on test data."""
        # The labels that choose are as noisy as those that train, so the point is the best one found, whether or not
        # it is better than chance explains; that is for the test data to say.
        merged = surface.merge(name=MERGED, best=True, progress=self.progress)
        best = merged.baseline
        length = len(MODES) + 1  # the four modes and the surface
        self.train(FIFTH)
        self.train(LONG, length)
        stopped = {name: self.stopped(name) for name in (*MODES, FIFTH, LONG)}
        point = ",".join(f"{x:g}" for x in merged.parameter or ())
        compared = _Compared(self.graph, best)
        ours = [
            compared.row(f"best mode: {best}", len(MODES), best),
            compared.row(f"ensemble of the {len(MODES)} modes", len(MODES), *MODES),
            compared.row("ensemble of 9 points of the surface", length, surface.on_grid(None)),
            compared.row(f"merged point {point} of the surface", length, MERGED),
        ]
        instead = [
            compared.row(f"one run of {length} T", length, LONG),
            compared.row(f"one run of {length} T, stopped early", length, stopped[LONG]),
            compared.row(f"{length} modes voting", length, *MODES, FIFTH),
            compared.row(f"{length} modes, stopped early, voting", length, *(stopped[n] for n in (*MODES, FIFTH))),
        ]
        self.demo.models = [*ours, *(row | {"what": f"instead: {row['what']}"} for row in instead)]
        rival = max(instead, key=lambda row: float(row["test_accuracy"]))  # with hindsight, in its favour
        size = "one network" if rival["networks"] == 1 else f"{rival['networks']} networks"
        self.demo.story += [
            f"T is the training of one mode; four modes and the surface take {length} T. Everything was chosen on "
            "validation data, early stopping too, and is reported on test data.",
            "The merged point is one network, like any mode.",
            f"Against the best mode ({best}), it is right {_words(compared.between((MERGED,), (best,)))}.",
            f"Against one run of {length} T, it is right {_words(compared.between((MERGED,), (LONG,)))}.",
            f"Against the best that the same training buys otherwise ({rival['what']}: {size}), it is right "
            f"{_words(compared.between((MERGED,), compared.members[rival['what']]))}.",
        ]
        self.tidy(set(stopped.values()))

    def stopped(self, name: str) -> str:
        """Return the epoch of a run that is best on validation data: its own name, or that of a kept one."""
        where = f"name = '{name}' or name like '{name}-%'"
        found: str = self.graph.nodes("mode", where=where, sort="-valid_accuracy,valid_loss", limit=1)[0]["name"]
        return found

    def tidy(self, wanted: set[str]) -> None:
        """Remove the kept epochs that nobody chose, so that the graph can be read."""
        kept = [row["name"] for row in self.graph.nodes("mode") if "-" in row["name"]]
        self.graph.remove(*(name for name in kept if name not in wanted))


class _Compared:
    """Which test examples models have right, and how these differ from those that the best mode has."""

    def __init__(self, graph: Graph, best: str) -> None:
        self._graph, self._best = graph, best
        self.members: dict[str, tuple[str, ...]] = {}
        self._known: dict[tuple[str, ...], NDArray[np.float64]] = {}

    def row(self, what: str, cost: int, *models: str) -> dict[str, Any]:
        """Compare a model, or the votes of several, with the best mode."""
        self.members[what] = models
        right = self._right(models)
        row = {
            "what": what,
            "cost": cost,
            "networks": len(self._graph.predict(*models).members),
            "test_accuracy": float(right.mean()),
            "standard_error": float(right.std(ddof=1) / np.sqrt(len(right))),
        }
        if models == (self._best,):
            return row
        gain = self.between(models, (self._best,))
        return row | {"gain": gain.value, "gain_error": gain.standard_error, "verdict": gain.verdict}

    def between(self, models: tuple[str, ...], others: tuple[str, ...]) -> Difference:
        """Compare two models, or votes, by the examples that they have right."""
        return paired_difference(self._right(models), self._right(others))

    def _right(self, models: tuple[str, ...]) -> NDArray[np.float64]:
        if models not in self._known:
            found = self._graph.predict(*models, split="test")
            assert found.predicted is not None, "digits have classes"
            assert found.labels is not None, "digits have labels"
            self._known[models] = (found.predicted == found.labels).astype(np.float64)
        return self._known[models]


def _words(gain: Difference) -> str:
    """Say a difference in points of accuracy, and no more than it shows."""
    size = f"{100 * gain.value:+.1f} ± {100 * gain.standard_error:.1f} points"
    if gain.verdict == "even":
        return f"about as often: {size}, which may be chance"
    return f"{'more' if gain.value > 0 else 'less'} often: {size}"
