"""What augmentation of a batch costs: mgraph's, transforms of torchvision called image by image, and kornia's.

torchvision.transforms.v2 draws once for a whole batch, so that every example of it gets the same crop; to give each its
own they are called image by image. kornia, if it is installed, draws for every example of a batch; from the global
random state, so that an example's augmentation depends on all that was drawn before. Run: ``python
benchmarks/augment.py [-o FILE]``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import invocation, machine, quieten
from torch import Tensor
from torchvision.transforms import v2

from mgraph.architectures.loading import build_network
from mgraph.data.splits import ArraySplit
from mgraph.network.flat import FlatModel
from mgraph.train.augmentation import augmentation
from mgraph.train.settings import TrainSettings

SHAPE, BATCH = (3, 32, 32), 128
NETWORK = "cnn?channels=16,32,32&hidden=64&bn=true"
BILINEAR = v2.InterpolationMode.BILINEAR
THEIRS = {
    "crop4+flip": v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]),
    "rotate15": v2.RandomRotation(15, BILINEAR),
    "cutout8": v2.RandomErasing(1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1)),
    "randaugment": v2.RandAugment(),
}


def kornias() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the same of kornia, as far as it has them; nothing where it is not installed."""
    try:
        from kornia import augmentation as k
    except ImportError:
        return {}
    return {
        "crop4+flip": k.AugmentationSequential(k.RandomCrop((32, 32), padding=4), k.RandomHorizontalFlip()),
        "rotate15": k.RandomRotation(15.0, p=1.0),
        "cutout8": k.RandomErasing(scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0), p=1.0),
    }


def milliseconds(rounds: int, *runs: Callable[[], object]) -> list[float]:
    """Median CPU time of each over the rounds, in which they alternate."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, measured in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            measured.append((time.process_time() - start) * 1e3)
    return [statistics.median(measured[1:]) for measured in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    quieten()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(BATCH) % 10
    split = ArraySplit(images, labels, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    x, y = split.examples(torch.arange(BATCH))
    flat = FlatModel(build_network(NETWORK, input_shape=SHAPE, classes=10, seed=0))

    def step() -> None:
        flat.grad.zero_()
        torch.nn.functional.cross_entropy(flat.module(flat.inputs(x)), y).backward()

    lines = [
        invocation(),
        machine(),
        f"Milliseconds of CPU time (median of {arguments.rounds}) for a batch of {BATCH} images of shape {SHAPE}.",
        f"A forward and backward pass of {NETWORK} takes {milliseconds(arguments.rounds, step)[0]:.1f} ms.",
        "",
        f"{'augmentation':<14}{'mgraph':>9}{'torchvision v2, image by image':>34}{'ratio':>8}"
        f"{'kornia':>10}{'ratio':>8}",
    ]
    batched = kornias()
    for text, transform in THEIRS.items():
        changed = augmentation(TrainSettings(augment=text), split)
        assert changed is not None
        given = images if text == "randaugment" else x  # RandAugment takes uint8 images

        def each(given: Tensor = given, transform: Callable[[Tensor], Tensor] = transform) -> Tensor:
            return torch.stack([transform(image) for image in given])

        runs = [partial(changed, x, y, 1), each, *([partial(batched[text], x)] if text in batched else [])]
        ours, theirs, *kornia = milliseconds(arguments.rounds, *runs)
        line = f"{text:<14}{ours:>9.2f}{theirs:>34.2f}{theirs / ours:>8.1f}"
        line += "".join(f"{taken:>10.2f}{taken / ours:>8.1f}" for taken in kornia)
        lines.append(line)
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
