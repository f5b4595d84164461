"""Class labels: what they may look like, and labels that stand for "no label".

Labels are whole numbers 0 … classes-1, either one per example, shape (N,), or several (pixels), shape (N, …). Values
outside this range stand for "no label" if the task says so (``ignore_index``) or its loss ignores them; such labels are
*void*. Metrics do not count them: an example's value is the mean over its other labels, and an example whose labels are
all void is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mgraph.errors import InputError
from mgraph.fields import Fields

# Values commonly used for void labels: in PyTorch's losses and in COCO-like masks.
CUSTOMARY = (-100, 255)
_TRIED = 64


@dataclass(frozen=True)
class VoidCrossEntropy:
    """Cross-entropy, averaged over those labels of a batch that are not void; 0 if there are none."""

    ignore_index: int
    label_smoothing: float = 0.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return a scalar; outputs are logits, shape (N, C, …), targets are labels, shape (N, …)."""
        total = F.cross_entropy(
            outputs,
            targets,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / (targets != self.ignore_index).sum().clamp_min(1)

    @property
    def name(self) -> str:
        """The name that distinguishes it from plain cross-entropy in a space."""
        return f"cross_entropy(ignore_index={self.ignore_index})"


def counting(targets: Tensor, void: Sequence[int]) -> Tensor:
    """Return a mask, shaped like the targets, of the labels that count."""
    counts = torch.ones_like(targets, dtype=torch.bool)
    for value in void:
        counts &= targets != value
    return counts


def per_example(values: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
    """Average an example's values, e.g. one per pixel, over the labels that count; shape (N,).

    An example without any such label gives 0; :func:`without_void` leaves it out beforehand.
    """
    if values.ndim == 1:
        return values
    counts = counting(targets, void).flatten(1) if void else None
    if counts is None or bool(counts.all()):
        return values.flatten(1).mean(1)
    return values.flatten(1).where(counts, 0).sum(1) / counts.sum(1).clamp_min(1)


def inside(targets: Tensor, void: Sequence[int]) -> Tensor:
    """Return the labels with void ones replaced by 0, so that they can serve as indices."""
    return targets.where(counting(targets, void), 0) if void else targets


def without_void(outputs: Tensor, targets: Tensor, void: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Leave out the examples whose labels are all void."""
    if not void:
        return outputs, targets
    kept = counting(targets, void).flatten(1).any(1) if targets.ndim > 1 else counting(targets, void)
    return (outputs, targets) if bool(kept.all()) else (outputs[kept], targets[kept])


def share_that_counts(targets: Tensor, void: Sequence[int]) -> float:
    """Return the weight of a batch in a mean over batches: its labels that count, in units of examples."""
    if not void or not len(targets):
        return float(len(targets))
    return int(counting(targets, void).sum()) * len(targets) / targets.numel()


def number_that_count(targets: Tensor, void: Sequence[int]) -> Tensor:
    """Return how many labels of each example count, shape (N,)."""
    return counting(targets, void).flatten(1).sum(1)


def refuse_words(whose: str, values: NDArray[Any]) -> None:
    """Raise InputError for labels that are words or other objects, saying how to number them.

    ``whose`` labels they are is for the message: "the train split".
    """
    kind = values.dtype.kind
    if kind in "buif":
        return
    if kind in "USTO" and values.size:
        first = values.reshape(-1)[0]
        if isinstance(first, str | bytes):
            raise InputError(
                f"The labels of {whose} are words ({str(first)!r}, …), not numbers; number the classes 0, 1, …: "
                f"names = sorted(set(y)), then y = [names.index(word) for word in y]."
            )
        what = type(first).__name__
        raise InputError(f"y of {whose} holds Python objects ({what}); make it an array of plain numbers.")
    raise InputError(f"y of {whose} is of type {values.dtype}; give real numbers.")


def refuse_unlabelled(y: Fields) -> None:
    """Raise InputError for targets that are not integers although the loss needs labels, suggesting a remedy."""
    if not isinstance(y, Tensor):
        raise InputError("The targets are several tensors; give a loss of your own that handles them.")
    if y.ndim == 2 and _one_hot(y):
        raise InputError(f"{_one_hot_text(y)}; take y.argmax(1).")
    if y.numel() and bool((torch.isfinite(y) & (y == y.round())).all()):
        low, high = int(y.min()), int(y.max())
        raise InputError(
            f"The targets are not integer labels, but floats that are whole numbers, {low} to {high}; if they are "
            f"labels, convert them with y.astype('int64'); if not, give a loss of your own."
        )
    raise InputError("The targets are not integer labels; give labels 0, 1, … or a loss of your own.")


def number_of_classes(y: Tensor, ignore_index: int | None, *, own_loss: bool) -> tuple[int, list[str]]:
    """Return one more than the largest training label, and notes on labels that do not occur.

    Raises InputError if that number would be a guess: for values that usually mean "no label" and, unless the user's
    own loss interprets them, for labels that do not start at 0 and for one-hot rows.
    """
    if not own_loss and y.ndim == 2 and _one_hot(y):
        raise InputError(
            f"{_one_hot_text(y)}; take y.argmax(1). If they are labels 0 and 1 of {y.shape[1]} places, say classes=2."
        )
    values = torch.unique(y)
    present = [int(v) for v in values if int(v) != ignore_index]
    if not present:
        raise InputError(f"No label of the train split counts: all are {ignore_index}.")
    low, high = present[0], present[-1]
    if high < 0 or (low < 0 and not own_loss):
        raise InputError(_bad_label("train", low, None))
    if high == 255 and len(present) > 1 and present[-2] < 254 and len(present) < 200:
        raise InputError(
            f"The train split has the label 255, and none between {present[-2]} and 255; if it means 'no label', say "
            f"ignore_index=255, if it is a class, classes=256."
        )
    if own_loss:
        return high + 1, []
    if low > 0 and ignore_index not in range(low):
        raise InputError(
            f"The labels of the train split begin at {low}, and go to {high}; labels begin at 0: subtract {low}, or "
            f"say classes={high + 1} if class 0 has no examples."
        )
    missing = sorted(set(range(high + 1)) - set(present) - {ignore_index})
    notes = []
    if missing:
        some = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
        notes.append(f"{len(missing)} of {high + 1} classes have no training example: {some}.")
    return high + 1, notes


def find_void(
    targets: Iterable[tuple[str, Tensor]],
    classes: int,
    ignore_index: int | None,
    loss: Callable[[Tensor, Tensor], Tensor] | None,
) -> tuple[int, ...]:
    """Return the void values: the declared one, and those that the user's own loss ignores.

    ``targets`` are the available labels of each split; ``loss`` is None for the built-in one. Raises InputError, naming
    the split, for any other label outside 0 … classes-1.
    """
    void = set() if ignore_index is None else {ignore_index}
    for name, y in targets:
        outside = [int(v) for v in torch.unique(y[(y < 0) | (y >= classes)])]
        for value in outside:
            if value in void:
                continue
            ignored = None if loss is None else _ignores(loss, y, classes, value)
            if not (ignored or (loss is not None and ignored is None and value in CUSTOMARY)):
                raise InputError(_bad_label(name, value, classes))
            void.add(value)
    return tuple(sorted(void))


def customary_void(example: Tensor, classes: int, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[int, ...]:
    """Return the customary void values that a loss ignores, for labels not read yet; ``example`` is a sample."""
    real = example[:1].where((example[:1] >= 0) & (example[:1] < classes), 0)
    return tuple(
        value
        for value in CUSTOMARY
        if not 0 <= value < classes and _ignores(loss, torch.cat([real, torch.full_like(real, value)]), classes, value)
    )


def check_labels(name: str, y: Tensor, classes: int | None, void: Sequence[int] = ()) -> None:
    """Raise InputError if an integer label lies outside 0 … classes-1 and is not void."""
    if classes is None or y.is_floating_point() or not y.numel():
        return
    if void:
        y = y[counting(y, void)]
        if not y.numel():
            raise InputError(f"No label of the {name} split counts: all are {', '.join(map(str, void))}.")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(_bad_label(name, low if low < 0 else high, classes))


def _bad_label(name: str, value: int, classes: int | None) -> str:
    allowed = "labels are 0, 1, …" if classes is None else f"labels of {classes} classes are 0 to {classes - 1}"
    text = f"The {name} split has a label {value}; {allowed}"
    if value == -1:
        return f"{text}. Map -1 and 1 to 0 and 1; if it means 'no label', say ignore_index=-1."
    if value < 0 or value in CUSTOMARY:
        return f"{text}. If it means 'no label', say ignore_index={value}."
    more = "" if classes is None else f", or a larger classes; if it means 'no label', say ignore_index={value}"
    return f"{text}. Give other labels{more}."


def _ignores(loss: Callable[[Tensor, Tensor], Tensor], y: Tensor, classes: int, value: int) -> bool | None:
    """Return whether a loss ignores a label, by testing for zero gradient; None if that cannot be tried."""
    has = (y == value).flatten(1).any(1) if y.ndim > 1 else y == value
    chosen = y[torch.cat([has.nonzero()[:1, 0], (~has).nonzero()[:1, 0]])]
    random = torch.Generator().manual_seed(0)
    shape = (len(chosen), classes, *chosen.shape[1:])
    outputs = torch.randn(shape, generator=random).requires_grad_()
    try:
        with torch.enable_grad():
            lost = loss(outputs, chosen)
            (gradient,) = torch.autograd.grad(lost, outputs)
    except Exception:  # a user's loss may raise anything for outputs that its network would not give
        return None
    at = (chosen == value).unsqueeze(1).expand_as(gradient)
    if not bool(torch.isfinite(gradient).all()):
        return None
    return not bool(gradient[at].any())


def _one_hot(y: Tensor) -> bool:
    """Return whether every row, shape (N, C), has a single 1 among zeros."""
    if y.shape[1] < 2 or not len(y):
        return False
    return bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all())


def _one_hot_text(y: Tensor) -> str:
    return f"The targets look one-hot, shape ({len(y)}, {y.shape[1]}), and labels are numbers 0 to {y.shape[1] - 1}"


def as_column(y: Tensor) -> Tensor:
    """Return integer labels of shape (N, 1), as saved by Keras and MedMNIST, as shape (N,); leave others alone."""
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 and not y.is_floating_point() else y


def spread(length: int, count: int = _TRIED) -> list[int]:
    """Choose ``count`` places spread evenly over a length, or all of them if there are fewer."""
    return sorted({round(p) for p in np.linspace(0, length - 1, min(count, length)).tolist()})
