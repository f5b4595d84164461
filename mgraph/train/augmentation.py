"""Augmentation: random changes to training batches, drawn separately for every example, before a step sees them.

It belongs to a run, never to the data: evaluation sees the images unchanged, though BatchNorm statistics may be those
of augmented ones (:mod:`mgraph.evaluate.batchnorm`). A batch's random numbers depend only on the run's seed and the
batch's number, so a run that resumes after an interruption draws what it would have drawn. Under ``torchrun`` every
process changes the whole batch in the same way.
"""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mgraph.data.repeatable import RandomState
from mgraph.data.splits import ArraySplit, Batch, Split
from mgraph.data.streaming import DatasetSplit
from mgraph.data.task import Task
from mgraph.errors import InputError, MGraphError
from mgraph.factories import load_factory
from mgraph.fields import Fields, describe, examples_in, over, tensors_of
from mgraph.network.flat import FlatModel
from mgraph.specs import Spec
from mgraph.train.augments import Part, is_own, parse_augment
from mgraph.train.imageops import OPERATIONS, Chance
from mgraph.train.streams import Streams
from mgraph.trust import speaker


class Augmented(Protocol):
    """The settings that say how batches are changed."""

    @property
    def seed(self) -> int:
        """Seed of all randomness."""

    @property
    def augment(self) -> str | None:
        """The augmentation, as the user writes it; None if there is none."""


class Augmentation(ABC):
    """Changes training batches; :meth:`__call__` gives the same result for the same batch with the same number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @torch.no_grad()
    def __call__(self, x: Fields, y: Fields, number: int) -> Batch:
        """Return the ``number``-th batch of a run, changed, on its device; x and y have shape (B, …)."""
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        with torch.autocast(tensors_of(x)[0].device.type, enabled=False):
            return self._changed(x, y, seed)

    @abstractmethod
    def _changed(self, x: Fields, y: Fields, seed: int) -> Batch:
        """Return the batch changed with random numbers from this seed."""


class ImageAugmentation(Augmentation):
    """A sequence of the built-in parts."""

    def __init__(self, parts: tuple[Part, ...], split: Split, seed: int) -> None:
        """``split`` tells what black looks like to the network."""
        super().__init__(seed)
        self._parts, self._normalisation = parts, split.normalisation
        n = self._normalisation
        mean, std = np.array(n.mean or (0.0,)), np.array(n.std or (1.0,))
        self._black = torch.from_numpy(np.asarray(-mean / std, np.float32)).view(-1, 1, 1)
        self._generators: dict[torch.device, tuple[torch.Generator, torch.Generator]] = {}

    @override
    def _changed(self, x: Fields, y: Fields, seed: int) -> Batch:
        assert isinstance(x, Tensor), "images are one tensor"
        if x.device not in self._generators:
            apart = torch.Generator()
            self._generators[x.device] = apart if x.device.type == "cpu" else torch.Generator(x.device), apart
        here, apart = self._generators[x.device]
        for generator in (apart, here):
            generator.manual_seed(seed)
        self._black = self._black.to(x)
        chance = Chance(here, apart, self._black, self._normalisation)
        for part in self._parts:
            x = OPERATIONS[part.name](x, part.number, chance)
        return x, y


class OwnAugmentation(Augmentation):
    """The user's own function of x or of (x, y), returning as many; the global generators are seeded for it."""

    def __init__(self, function: Callable[..., Any], name: str, seed: int) -> None:
        super().__init__(seed)
        self._function, self._name = function, name
        self._takes_targets = _positional(function) >= 2

    @override
    def _changed(self, x: Fields, y: Fields, seed: int) -> Batch:
        given = f"{self._name}, given a batch of {describe(x)},"
        device = tensors_of(x)[0].device
        with _seeded(seed, device):
            try:
                made = self._function(x, y) if self._takes_targets else self._function(x)
            except MGraphError:
                raise
            except Exception as error:  # the user's code may raise anything
                why = " ".join(str(error).split()).rstrip(".")
                raise InputError(f"The augmentation {given} failed: {type(error).__name__}: {why}.") from error
        if self._takes_targets:
            if not isinstance(made, tuple | list) or len(made) != 2:
                raise InputError(f"The augmentation {given} takes (x, y) and must return both, not {_said(made)}.")
            made, targets = made
            if not _of_form(targets, y) or examples_in(targets) != examples_in(x):
                raise InputError(f"The augmentation {given} must return a target for each input, not {_said(targets)}.")
            y = targets
        if not _of_form(made, x) or any(
            one.shape != was.shape or one.dtype != was.dtype
            for one, was in zip(tensors_of(made), tensors_of(x), strict=True)
        ):
            wanted = (
                f"a tensor of the same shape and of type {_typed(x)}"
                if isinstance(x, Tensor)
                else ("the same fields, of the same shapes and types")
            )
            raise InputError(f"The augmentation {given} must return {wanted}, not {_said(made)}.")
        return over(lambda t: t.to(device), made), over(lambda t: t.to(device), y)


def augmentation(how: Augmented, split: Split) -> Augmentation | None:
    """Return the augmentation of a run's batches from a split; None if there is none.

    A function named in the settings is the user's own code, and naming it is consent to run it; if the name was read
    from a graph (:func:`mgraph.trust.speaker`), UntrustedError is raised. Raises InputError if the function cannot be
    loaded, or the parts do not suit such examples.
    """
    if how.augment is None:
        return None
    seed = Streams.of(how.seed).augment
    if is_own(how.augment):
        function = load_factory(Spec.parse(how.augment), base=Path.cwd(), consent=speaker())
        return OwnAugmentation(function, how.augment, seed)
    parts = parse_augment(how.augment)
    for part in parts:
        _require_images(part, split)
    return ImageAugmentation(parts, split, seed)


def check_augmentation(flat: FlatModel, task: Task, how: Augmented) -> Batch:
    """Try the augmentation on two training examples; return them as a step would see them, augmented or not.

    Raises InputError for an augmentation that does not suit the data, or a function that fails or changes shapes.
    """
    x, y = task.train.examples(torch.arange(min(2, len(task.train))), device=flat.device)
    found = augmentation(how, task.train)
    return (x, y) if found is None else found(x, y, 0)


def _require_images(part: Part, split: Split) -> None:
    """Raise InputError unless the examples of a split are images to which a part can be applied."""
    x, y = split.examples(torch.arange(min(64, len(split))))
    if not isinstance(x, Tensor):
        raise InputError(
            f"augment={part.name} is for images, and an input here is several tensors ({describe(x)}). Give a function "
            f"of your own, as file.py:function."
        )
    shape = tuple(x.shape[1:])
    if len(shape) != 3 or not x.is_floating_point():
        raise InputError(
            f"augment={part.name} is for images, shape (channels, height, width); an input here has shape {shape} and "
            f"type {_typed(x)}. Give a function of your own for other inputs, as file.py:function."
        )
    side = min(shape[1:])
    if part.name in ("crop", "cutout") and part.number >= side:
        raise InputError(
            f"augment={part.name}{part.number} is too large for images of {shape[1]}×{shape[2]} pixels; give a number "
            f"below {side}."
        )
    if part.kind.moves and isinstance(y, Tensor) and tuple(y.shape[-2:]) == tuple(shape[1:]) and y.ndim > 2:
        raise InputError(
            f"augment={part.name} moves pixels, and the targets have a value for each, shape {tuple(y.shape[1:])}, "
            f"which would stay; give a function of your own of (x, y), as file.py:function."
        )
    if part.name == "randaugment":
        _require_levels(split, shape[0])


def _require_levels(split: Split, channels: int) -> None:
    """Raise InputError unless images are grey or RGB, with stored values in [0, 1]."""
    if channels not in (1, 3):
        raise InputError(f"augment=randaugment is for images of 1 or 3 channels, not {channels}.")
    if isinstance(split, ArraySplit):
        stored = split.inputs
    elif isinstance(split, DatasetSplit):
        stored = split.raw(range(min(64, len(split))))[0]
    else:
        return
    if (
        isinstance(stored, Tensor)
        and stored.is_floating_point()
        and not (float(stored.min()) >= 0.0 and float(stored.max()) <= 1.0)
    ):
        raise InputError(
            f"augment=randaugment changes brightness and colours, and needs to know black and white: give images as "
            f"uint8, or floats in [0, 1], with their mean and std (here values are {float(stored.min()):.3g} to "
            f"{float(stored.max()):.3g})."
        )


def _positional(function: Callable[..., Any]) -> int:
    """Count the parameters that must be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and PyTorch inside a block, and restore them afterwards."""
    before = RandomState()
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            before.restore()


def _of_form(made: Any, given: Fields) -> bool:
    """Return whether something consists of tensors in the given form: one, or as many under the same names."""
    if isinstance(given, dict):
        return (
            isinstance(made, dict) and list(made) == list(given) and all(isinstance(t, Tensor) for t in made.values())
        )
    if isinstance(given, tuple):
        return isinstance(made, tuple) and len(made) == len(given) and all(isinstance(t, Tensor) for t in made)
    return isinstance(made, Tensor)


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one of shape {tuple(value.shape)} and type {_typed(value)}"
    return f"a {type(value).__name__}"


def _typed(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
