"""What a set of models predicts together, for using a stored model or ensemble directly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.alone import alone
from mgraph.data.loading import load_task
from mgraph.data.splits import Split
from mgraph.data.task import ACCURACY
from mgraph.errors import InputError
from mgraph.evaluate.metrics import check_splits
from mgraph.fields import are_labels
from mgraph.jobs.points import PredictJob
from mgraph.merge.calibration import fit_temperature, require_classes, require_validation
from mgraph.merge.ensemble import said, targets_of
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member, resolve
from mgraph.notebook import InNotebook
from mgraph.operations.voting import require_votes
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.report.predicted import check_file, check_shape, write_arrays
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace

_NAMES = {"softmax": "p", "sigmoid": "p", "mean": "output"}


@dataclass(frozen=True)
class Predicted(InNotebook):
    """What models predict for N examples: ``probabilities`` of classes or labels, shape (N, C, …), or mean outputs.

    ``examples`` are their indices in the split, ``predicted`` the likeliest class of each (None without classes),
    ``labels`` the true ones (None if the data have none). ``kind`` says what the numbers are: p for probabilities,
    output for outputs.
    """

    examples: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64] | None
    labels: NDArray[np.int64] | None
    members: tuple[str, ...]
    kind: str
    notes: list[str] = field(default_factory=list)

    @override
    def _shown(self) -> dict[str, Any]:
        return self.to_dict()

    def __len__(self) -> int:
        return len(self.examples)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays of N rows, as in files."""
        found: dict[str, NDArray[Any]] = {"example": self.examples}
        if self.labels is not None:
            found["label"] = self.labels
        if self.predicted is not None:
            found["predicted"] = self.predicted
        return found | {self.kind: self.probabilities}

    def table(self) -> list[dict[str, Any]]:
        """Return one row per example: example, label, predicted, and one number for each class."""
        flat: dict[str, NDArray[Any]] = {}
        for name, array in self.arrays().items():
            if array.ndim == 1:
                flat[name] = array
            else:
                flat |= {f"{name}_{i}": column for i, column in enumerate(array.reshape(len(self), -1).T)}
        return [dict(zip(flat, row, strict=True)) for row in zip(*(a.tolist() for a in flat.values()), strict=True)]

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as .parquet, .csv or .npz; raise InputError for another ending, or numbers unsuited to a table."""
        target = Path(path)
        check_file(target, overwrite=overwrite)
        check_shape(target, self.probabilities)
        write_arrays(target, self.arrays())
        return target

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of examples and members, and how often the prediction is right, as plain data."""
        facts: dict[str, Any] = {"examples": len(self), "members": len(self.members)}
        if self.predicted is not None and self.labels is not None and self.labels.shape == self.predicted.shape:
            facts[ACCURACY.name] = float((self.predicted == self.labels).mean())
        return facts | {"notes": list(self.notes)}


@alone
def predict(session: Session, job: PredictJob, *, progress: ProgressCallback = silent) -> Predicted:
    """Average the votes of a set's members on a split of the space's data, or on other data, and write them to a file.

    Raises InputError for a set, split or file that does not exist, data whose examples have another shape, and a task
    that does not define how members vote. Inputs of other data are normalised like the space's.
    """
    check_splits([job.split])
    if job.path is not None:
        check_file(Path(job.path), overwrite=job.overwrite)
    models = resolve(session, job.members)
    predictor = Predictor(session, models.space, job.bn_examples)
    here = predictor.workspace
    require_votes(predictor)
    if job.temperature:
        require_classes(here.task, "A temperature")
        require_validation(here.task, "A temperature")
    predictor.check_code(models.members)
    predictor.look_up(models.members)
    split, notes = _split(here, job)
    with session.threads(here):
        total: Tensor | None = None
        for done, member in enumerate(models.members, start=1):
            temperature = _temperature(predictor, member) if job.temperature else 1.0
            out = predictor.outputs(member, {job.split: split})[job.split]
            vote = said(here.task, out, temperature)
            total = vote if total is None else total.add_(vote)
            if done == 1 and job.path is not None:
                check_shape(Path(job.path), vote.numpy())
            progress(Progress("predict", done, len(models)))
    assert total is not None, "a set has members"
    votes = total.div_(len(models)).numpy()
    way = here.task.combine or "mean"
    targets = targets_of(split)
    labels = targets.numpy() if isinstance(targets, Tensor) and are_labels(targets) else None
    found = Predicted(
        np.arange(len(split)),
        votes,
        votes.argmax(axis=1) if way == "softmax" else None,
        labels,
        tuple(member.label for member in models.members),
        _NAMES[way],
        notes,
    )
    if job.path is not None:
        found.write(job.path, overwrite=job.overwrite)
    return found


def _temperature(predictor: Predictor, member: Member) -> float:
    task = predictor.workspace.task
    out, targets = predictor.outputs(member, {"valid": task.valid})["valid"], targets_of(task.valid)
    assert isinstance(targets, torch.Tensor)
    return fit_temperature(*task.without_void(out, targets), task.void)


def _split(here: Workspace, job: PredictJob) -> tuple[Split, list[str]]:
    """Return the split to predict, and notes for the user."""
    if job.data is None:
        return here.task.splits[job.split], []
    task = load_task(job.data, base=Path(job.directory))
    split = task.splits[job.split]
    if split.input_shape != here.task.input_shape:
        raise InputError(
            f"An example of {job.data} has shape {_shape(split.input_shape)}, and the network of space "
            f"{here.space.name} takes {_shape(here.task.input_shape)}."
        )
    notes, of_space = [], here.task.train.normalisation
    if (split.normalisation.mean, split.normalisation.std) != (of_space.mean, of_space.std):
        split.normalisation = of_space
        notes.append(f"inputs of {job.data} are normalised as those of space {here.space.name}")
    return split, notes


def _shape(shape: Any) -> str:
    return str(list(shape) if isinstance(shape, tuple) else shape)
