"""The results of ensembles, as found by :mod:`mgraph.operations.voting`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.evaluate.metrics import Measured
from mgraph.merge.compare import Difference
from mgraph.models.costs import Memory
from mgraph.notebook import InNotebook
from mgraph.operations.walls import Results

Floats = NDArray[np.float64]


def flat_numbers(results: Results, primary: str) -> dict[str, float | None]:
    """Return numbers by split and metric under single names, SPLIT_METRIC, and the primary one's error on test."""
    flat: dict[str, float | None] = {
        f"{split}_{name}": m.value for split, metrics in results.items() for name, m in metrics.items()
    }
    if "test" in results:
        flat["test_error_bar"] = results["test"][primary].standard_error
    return flat


@dataclass(frozen=True)
class Voted:
    """One ensemble, or single model: what it is, its members, and what they cost to train in T (None: unknown)."""

    what: str
    members: tuple[str, ...]
    cost: float | None
    results: dict[str, dict[str, Measured]]

    def row(self, primary: str) -> dict[str, Any]:
        """Return it as one row of a table: what it is, its number of members, its cost, and every number."""
        facts = {"what": self.what, "members": len(self.members), "cost": self.cost}
        return facts | flat_numbers(self.results, primary)


@dataclass(frozen=True)
class EnsembleResult(InNotebook):
    """What voting gains over the best single model, and over independent modes of equal number and equal cost.

    ``best`` is the requested ensemble, ``plain`` the equal mean of the whole set (the same one, unless members were
    chosen or weighted), ``corners`` that of the connections' ends (None without a connection), ``single`` the model
    among corners and nodes that validation chooses. ``rows`` are all of them, with the independent modes.

    Differences are paired, on test data, by the primary metric of the task or else by the loss; positive is better
    (None if single examples have neither): ``corners_gain`` = corners - single, ``grid_gain`` = whole - corners, and
    ``gain`` = whole - single.

    ``weights`` and ``temperatures``, shape (M,), belong to the members ``labels``; members not chosen have weight 0.
    ``disagreement``, shape (M, M), is the fraction of test examples on which two members predict different classes;
    ``classes`` has one row per class.
    """

    single_name: str
    rows: tuple[Voted, ...]
    single: dict[str, dict[str, Measured]]
    corners: dict[str, dict[str, Measured]] | None
    plain: dict[str, dict[str, Measured]]
    whole: dict[str, dict[str, Measured]]
    corners_gain: Difference | None
    grid_gain: Difference | None
    gain: Difference | None
    metric: str
    labels: tuple[str, ...]
    weights: Floats
    temperatures: Floats
    memory: Memory
    grid: tuple[int, ...] | None = None
    disagreement: Floats | None = None
    classes: tuple[dict[str, Any], ...] = ()
    notes: list[str] = field(default_factory=list)

    @override
    def _shown(self) -> dict[str, Any]:
        return self.to_dict() | {"disagreement_matrix": None}

    @property
    def members(self) -> int:
        """The number of members in the set."""
        return len(self.labels)

    def evaluate(self, split: str) -> dict[str, Measured]:
        """Return loss and metrics of the requested ensemble on a split (valid or test)."""
        if split not in self.whole:
            raise InputError(f"An ensemble is evaluated on {' and '.join(self.whole)}, not {split!r}.")
        return self.whole[split]

    def table(self) -> list[dict[str, Any]]:
        """Return single model and ensembles as rows: what, members, cost in T, and every number as SPLIT_METRIC."""
        return [voted.row(self.metric) for voted in self.rows]

    def member_table(self) -> list[dict[str, Any]]:
        """Return the members as rows: name, weight, temperature, and mean disagreement with the others."""
        rows = []
        for i, name in enumerate(self.labels):
            row: dict[str, Any] = {"member": name, "weight": self.weights[i], "temperature": self.temperatures[i]}
            if self.disagreement is not None and self.members > 1:
                row["disagreement"] = float(self.disagreement[i].sum() / (self.members - 1))
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        facts: dict[str, Any] = {"members": self.members, "grid": None if self.grid is None else list(self.grid)}
        for name, gain in (
            ("corners_minus_single", self.corners_gain),
            ("grid_minus_corners", self.grid_gain),
            ("ensemble_minus_single", self.gain),
        ):
            facts |= {} if gain is None else gain.to_dict(name)
        return facts | {
            "modes_memorised": self.memory.memorised,
            "models": self.table(),
            "member_rows": self.member_table(),
            "classes": list(self.classes),
            "disagreement_matrix": None if self.disagreement is None else self.disagreement.tolist(),
            "notes": list(self.notes),
        }


def disagreement_of(said: Sequence[NDArray[np.int64]]) -> Floats:
    """Return the fraction of labels on which each pair of M members differs, shape (M, M), from labels (M, N)."""
    table = np.stack([np.asarray(row).reshape(-1) for row in said])
    return np.stack([(table != row).mean(axis=1) for row in table])


def class_table(said: torch.Tensor, targets: torch.Tensor, classes: int, counts: torch.Tensor) -> list[dict[str, Any]]:
    """Return, per class, its examples, precision, recall (the accuracy on it) and F1, from predicted and true labels.

    A value that does not exist, such as the precision of a class that is never predicted, is None.
    """
    said, targets = said[counts].reshape(-1), targets[counts].reshape(-1)
    # A network may have outputs that are no class of the data.
    outputs = max(classes, int(said.max()) + 1 if len(said) else 0)
    confusion = torch.bincount(targets * outputs + said, minlength=outputs * outputs).reshape(outputs, outputs)
    right, true, told = confusion.diag(), confusion.sum(1), confusion.sum(0)
    rows = []
    for c in range(classes):
        recall = float(right[c] / true[c]) if true[c] else None
        precision = float(right[c] / told[c]) if told[c] else None
        both = true[c] + told[c]
        rows.append(
            {
                "class": c,
                "examples": int(true[c]),
                "precision": precision,
                "recall": recall,
                "f1": float(2 * right[c] / both) if both else None,
            }
        )
    return rows
