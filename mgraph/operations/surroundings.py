"""Measuring the surroundings of a node, and storing the results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from mgraph.alone import alone
from mgraph.errors import InputError, NonFiniteError
from mgraph.evaluate.batchnorm import recompute_statistics
from mgraph.evaluate.flatness import linear_head, relative_flatness
from mgraph.evaluate.metrics import Measured, Subset
from mgraph.evaluate.profile import sharpness_profile
from mgraph.evaluate.sharpness import Profile, SharpnessSettings
from mgraph.jobs.points import SharpnessJob
from mgraph.network.precision import check_precision, computing_in
from mgraph.notebook import InNotebook
from mgraph.progress import ProgressCallback, silent
from mgraph.session.members import label, still_there
from mgraph.session.points import load_node, policy_name
from mgraph.session.policies import policy_for
from mgraph.session.session import Session
from mgraph_store import Measure, Node, Run


@dataclass(frozen=True)
class Sharpness(InNotebook):
    """How sharp the minimum around a node is.

    ``profile`` and ``flatness`` are None if they were not measured, ``head`` names the layer of the flatness, and
    ``notes`` say why something was left out. ``settings`` say how it was measured, ``graph`` names the node's.
    """

    node: str
    profile: Profile | None
    flatness: Measured | None
    head: str | None
    split: str
    subset: str
    examples: int
    batchnorm: str
    notes: tuple[str, ...] = ()
    settings: SharpnessSettings | None = None
    graph: str = ""

    @override
    def _shown(self) -> dict[str, Any]:
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """Return everything as plain data."""
        facts = {
            "node": self.node,
            "split": self.split,
            "subset": self.subset,
            "examples": self.examples,
            "batchnorm": self.batchnorm,
            "loss": None if self.profile is None else self.profile.loss,
            "loss_standard_error": None if self.profile is None else self.profile.loss_error,
            "relative_flatness": None if self.flatness is None else self.flatness.value,
            "relative_flatness_standard_error": None if self.flatness is None else self.flatness.standard_error,
            "head": self.head,
            "directions": None if self.profile is None else len(self.profile.changes),
            "notes": list(self.notes),
        }
        return facts | {"profile": self._rows()}

    def _rows(self) -> list[dict[str, Any]]:
        p = self.profile
        if p is None:
            return []
        std = [None] * len(p.radii) if p.std is None else p.std.tolist()
        columns = zip(p.radii, p.mean.tolist(), std, p.max.tolist(), strict=True)
        return [{"radius": r, "mean": mean, "std": s, "max": largest} for r, mean, s, largest in columns]

    def plot(self, path: str | Path, *others: Sharpness, dark: bool = False) -> Path:
        """Draw the profile together with those of ``others`` (.png, .pdf or .svg); InputError if one has none."""
        from mgraph.figures import Look
        from mgraph.report.measures import plot_sharpness

        names = [one.node for one in (self, *others)]
        words = [] if self.settings is None else self.settings.words()
        command = shlex.join(["mgraph", "sharpness", *names, *words, *(["--dark"] if dark else [])])
        look = Look(dark, {"command": command, "graph": self.graph})
        return plot_sharpness([one.describe() for one in (self, *others)], Path(path), look=look)

    def draw(self, ax: Any = None, *others: Sharpness, what: str = "profile") -> Any:
        """Draw the profile with those of ``others`` on a Matplotlib Axes (default: a new one), and return that.

        ``what="radii"`` draws their means as a heat map. InputError if one has no profile.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.measures import AROUND, check_profiles, check_what, draw_sharpness

        check_what(what, AROUND)
        found = [one.describe() for one in (self, *others)]
        check_profiles(found)
        with drawing_on(ax) as axes:
            return draw_sharpness(axes, found, what)


@alone
def measure_sharpness(
    session: Session, job: SharpnessJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> Sharpness:
    """Measure profile and relative flatness of a node, and store them.

    BatchNorm statistics are recomputed by one policy for the node and every perturbed point. Raises InputError if the
    relative flatness is asked for but not defined, and NonFiniteError, storing nothing, if a loss is not finite. An
    interrupted run starts again.
    """
    settings = job.settings
    with session.store.reading() as reader:
        node = still_there(reader, Node, job.node, resumed)
    workspace = load_node(session, node)
    flat, task = workspace.flat, workspace.task
    check_precision(settings.precision, flat.device)
    policy = policy_for(session, workspace, [node], settings.bn_examples)
    subset = Subset.random(len(task.splits[settings.split]), settings.examples)
    head, notes = None, []
    if settings.what != "profile":
        try:
            head = linear_head(flat, task)
        except InputError as error:
            if settings.what != "auto":
                raise
            notes.append(str(error).partition(";")[0] + ".")
    parameters = np.array(session.store.read_parameters(node))
    stated = asdict(settings) | {"node": node.id}
    with session.run(workspace, "sharpness", stated, settings.seed, job=job, resumed=resumed) as run:
        flatness = profile = None
        if head is not None:
            with computing_in(settings.precision, flat.device):
                recompute_statistics(flat, task.train, policy)
            flatness = relative_flatness(flat, task, head[1], settings.split, subset, settings.precision)
            if not np.isfinite(flatness.value):
                raise NonFiniteError(f"The relative flatness of {label(node)} is {flatness.value}; nothing was stored.")
        if settings.profile:
            profile = sharpness_profile(
                flat,
                task,
                parameters,
                [t.size for t in workspace.layout.parameters],
                settings,
                subset=subset,
                policy=policy,
                progress=progress,
            )
        found = Sharpness(
            label(node),
            profile,
            flatness,
            None if head is None else head[0],
            settings.split,
            subset.name,
            len(task.splits[settings.split]) if subset.order is None else len(subset.order),
            policy_name(workspace, policy),
            tuple(notes),
            settings,
            session.store.path.name,
        )
        with session.store.transaction() as tx:
            tx.add(*_rows(found, node.id, run.id, settings.precision))
            run.complete(tx)
    return found


def _rows(found: Sharpness, node_id: str, run_id: str, precision: str) -> list[Measure]:
    """Turn the results into rows."""

    def row(
        quantity: str,
        statistic: str,
        value: float,
        samples: int,
        radius: float | None = None,
        error: float | None = None,
    ) -> Measure:
        where = (found.split, found.subset, found.examples, found.batchnorm, precision)
        return Measure(node_id, run_id, quantity, radius, statistic, value, error, samples, *where)

    rows = []
    if found.flatness is not None:
        kappa = found.flatness
        rows.append(row("relative_flatness", "mean", kappa.value, kappa.count, error=kappa.standard_error))
    if found.profile is not None:
        profile = found.profile
        rows.append(row("loss", "mean", profile.loss, found.examples, error=profile.loss_error))
        directions = len(profile.changes)
        statistics: Sequence[tuple[str, Any]] = (("mean", profile.mean), ("std", profile.std), ("max", profile.max))
        for statistic, values in statistics:
            if values is not None:
                rows += [
                    row("sharpness", statistic, float(value), directions, radius)
                    for radius, value in zip(profile.radii, values, strict=True)
                ]
    return rows
