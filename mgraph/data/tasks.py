"""Ready-made tasks: the settings, besides the data, for the most common kinds of task.

Each takes splits as :func:`mgraph.data.making.make_task` does, and returns a :class:`~mgraph.data.task.Task`. A data
factory can return one: ``return mgraph.tasks.segmentation(train=(x, y), test=(xx, yy), classes=21)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.calling import AUTO, chosen
from mgraph.data.labels import counting
from mgraph.data.making import make_task
from mgraph.data.task import ACCURACY, Task, counting_labels
from mgraph.errors import InputError
from mgraph.metric import Metric

IGNORED = -100
"""The token that means "no token" in targets, as in PyTorch's losses and Hugging Face's data."""


def classification(*, train: Any, test: Any, valid: Any = None, **further: Any) -> Task:
    """One label per example: cross-entropy, and accuracy."""
    return make_task(train=train, test=test, valid=valid, **further)


def multi_label(*, train: Any, test: Any, valid: Any = None, **further: Any) -> Task:
    """Several labels at once: targets of 0 and 1, shape (N, L), with their logits as outputs.

    The loss is binary cross-entropy; the metric ``labels_right`` is the fraction of labels on the right side of one
    half. Members of an ensemble vote by the probabilities of their labels.
    """
    right = Metric("labels_right", _labels_right, better="higher", best=1.0, identity="built in")
    return make_task(
        train=_with_floats(train),
        test=_with_floats(test),
        valid=_with_floats(valid),
        loss=F.binary_cross_entropy_with_logits,
        example_loss=_example_binary_cross_entropy,
        metrics=right,
        combine="sigmoid",
        **further,
    )


def regression(*, train: Any, test: Any, valid: Any = None, **further: Any) -> Task:
    """Numbers, shape (N, …), and outputs of the same shape: mean squared error, and mean absolute error ``mae``."""
    mae = Metric("mae", _absolute_error, better="lower", identity="built in")
    return make_task(
        train=_with_floats(train),
        test=_with_floats(test),
        valid=_with_floats(valid),
        loss=F.mse_loss,
        example_loss=_squared_error,
        metrics=mae,
        combine="mean",
        **further,
    )


def segmentation(
    *, train: Any, test: Any, classes: int, valid: Any = None, ignore_index: int | None = 255, **further: Any
) -> Task:
    """A label per pixel, shape (N, H, W), outputs logits (N, classes, H, W): cross-entropy over all pixels.

    The metrics are the mean intersection over union, ``miou``, over the classes that are present or predicted anywhere
    in a split, and the fraction of pixels that are right. Pixels with the label ``ignore_index`` do not count. If a
    network returns a dict with ``out``, as torchvision's do, only that entry is used.
    """
    void = () if ignore_index is None else (ignore_index,)
    miou = Metric(
        "miou", _Confusion(classes, void), better="higher", best=1.0, compute=mean_iou, identity=f"built in {classes}"
    )
    task = make_task(
        train=train,
        test=test,
        valid=valid,
        classes=classes,
        ignore_index=ignore_index,
        outputs=further.pop("outputs", pixel_logits),
        **further,
    )
    pixels = counting_labels(ACCURACY, void, task.example_weights)
    return replace(task, metrics=(miou, pixels))


def language_model(*, train: Any, test: Any, valid: Any = None, vocabulary: int, **further: Any) -> Task:
    """Next-token prediction: each split is token numbers, shape (N, T + 1), or a dict with ``input_ids`` of that shape.

    The network gets the first T tokens (of every entry of a dict, including ``attention_mask``) and returns logits (N,
    T, vocabulary), either alone or as ``logits``; the target is the next token. Tokens that are masked, or -100, do not
    count. The loss is the mean over tokens and ``perplexity`` its exponential; accuracy is per token.
    """
    perplexity = Metric("perplexity", _token_sums, better="lower", best=None, compute=_exponential, identity="built in")
    splits = {name: _shifted(name, split) for name, split in (("train", train), ("test", test), ("valid", valid))}
    task = make_task(
        train=splits["train"],
        test=splits["test"],
        valid=splits["valid"],
        classes=vocabulary,
        ignore_index=IGNORED,
        outputs=further.pop("outputs", token_logits),
        **further,
    )
    tokens = counting_labels(ACCURACY, (IGNORED,), task.example_weights)
    return replace(task, metrics=(perplexity, tokens))


def token_logits(out: Any) -> Tensor:
    """Return logits in the layout of losses, (N, classes, T), from outputs (N, T, classes), alone or as ``logits``."""
    logits: Tensor = chosen(out, AUTO)
    return logits.transpose(1, 2)


def pixel_logits(out: Any) -> Tensor:
    """Return logits (N, classes, H, W) from outputs, alone or as ``out``, as torchvision's networks return them."""
    logits: Tensor = out["out"] if isinstance(out, Mapping) and "out" in out else chosen(out, AUTO)
    return logits


def mean_iou(confusion: Tensor) -> Tensor:
    """Return the mean over classes of intersection over union, from counts (C, C): rows are labels, columns answers."""
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    there = union > 0
    return (right[there] / union[there]).mean()


class _Confusion:
    """Pixel counts of a batch by label and answer, (C, C)."""

    def __init__(self, classes: int, void: tuple[int, ...]) -> None:
        self._classes, self._void = classes, void

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counts = counting(targets, self._void)
        pairs = targets[counts] * self._classes + outputs.argmax(1)[counts]
        return torch.bincount(pairs, minlength=self._classes**2).view(self._classes, self._classes)


def _token_sums(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(outputs.double(), targets, ignore_index=IGNORED, reduction="sum")
    return loss, counting(targets, (IGNORED,)).sum()


def _exponential(loss: Tensor, tokens: Tensor) -> Tensor:
    return (loss / tokens).exp()


def _labels_right(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (targets > 0.5)).double().flatten(1).mean(1)


def _example_binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").flatten(1).mean(1)


def _absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return _of_examples((outputs - targets).abs())


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return _of_examples((outputs - targets).square())


def _of_examples(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _with_floats(split: Any) -> Any:
    """Convert the targets of a pair to floats; leave a Dataset's targets as they are."""
    if isinstance(split, tuple | list) and len(split) == 2:
        return split[0], torch.as_tensor(np.asarray(split[1])).to(torch.float32)
    return split


def _shifted(name: str, split: Any) -> Any:
    """Split tokens (N, T + 1) into inputs and the token following each; pairs and Datasets pass unchanged."""
    if split is None or isinstance(split, tuple):
        return split
    whole: Mapping[str, Any] = split if isinstance(split, Mapping) else {"input_ids": split}
    if "input_ids" not in whole:
        raise InputError(f"The {name} split of a language model has no input_ids; it has {', '.join(map(str, whole))}.")
    entries = {key: torch.as_tensor(np.asarray(value)) for key, value in whole.items()}
    for key, value in entries.items():
        if value.ndim < 2 or value.shape[1] < 2 or value.shape[:2] != entries["input_ids"].shape:
            raise InputError(
                f"{key} of the {name} split has shape {list(value.shape)}; a language model is given tokens of shape "
                f"(N, T + 1), and all else of the same."
            )
    targets = entries["input_ids"][:, 1:].long()
    if "attention_mask" in entries:
        targets = targets.where(entries["attention_mask"][:, 1:] != 0, IGNORED)
    inputs = {key: value[:, :-1].contiguous() for key, value in entries.items()}
    return (inputs if isinstance(split, Mapping) else inputs["input_ids"]), targets
