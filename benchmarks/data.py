"""Images a second of training, beside a hand-written loop with a DataLoader and torchvision's transforms.

Both train the same network from the same weights, in batches of one size, by SGD with momentum, on CIFAR-10 in memory
and on a folder of image files (written for this, below a temporary directory). The hand-written loop is tuned: it has
the number of workers that suits it best of those tried. Run: ``python benchmarks/data.py --cifar10 cifar10.npz``, some
five minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from harness import invocation, machine, quieten
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mgraph.architectures.loading import build_network
from mgraph.data.loading import load_task
from mgraph.data.task import Task
from mgraph.network.flat import FlatModel
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
CONSTANTS = f"mean={','.join(map(str, MEAN))}&std={','.join(map(str, STD))}"
AUGMENT = "crop4+flip"
CHANGES = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
PLAIN = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


class Arrays(Dataset[Any]):
    """Images in memory, each changed by a transform."""

    def __init__(self, x: np.ndarray, y: np.ndarray, transform: Callable[[Any], Any]) -> None:
        self._x, self._y, self._transform = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), transform

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, place: int) -> Any:
        return self._transform(self._x[place]), self._y[place]


@dataclass(frozen=True)
class Setting:
    """What both loops train, and how."""

    arch: str
    batch: int
    steps: int
    device: str

    @property
    def images(self) -> int:
        """How many a round trains on."""
        return self.batch * self.steps

    def network(self) -> torch.nn.Module:
        """Make the network, with the same weights every time."""
        return build_network(self.arch, input_shape=(3, 32, 32), classes=10, seed=0).to(self.device)


def ours(setting: Setting, task: Task, augment: str | None, workers: int | None) -> None:
    flat = FlatModel(setting.network(), device=setting.device)
    task.read_by(workers)
    epochs = -(-setting.images // len(task.train)) + 1
    how = TrainSettings(
        lr=1e-6, batch_size=setting.batch, epochs=epochs, max_steps=setting.steps, augment=augment, schedule="constant"
    )
    train_mode(flat, task, how)
    for split in task.splits.values():  # so that its workers' time is known, too
        if hasattr(split, "_reader"):
            split._reader.workers._idle.clear()


def theirs(setting: Setting, data: Dataset[Any], workers: int) -> None:
    module = setting.network().train()
    on_gpu = setting.device != "cpu"
    loader = DataLoader(
        data,
        setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=on_gpu,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
    optimiser = torch.optim.SGD(
        module.parameters(), 1e-6, momentum=0.9, weight_decay=5e-4, fused=True if on_gpu else None
    )
    done = 0
    while done < setting.steps:
        for x, y in loader:
            x, y = x.to(setting.device, non_blocking=True), y.to(setting.device, non_blocking=True)
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(module(x), y).backward()
            optimiser.step()
            done += 1
            if done == setting.steps:
                break
    if on_gpu:
        torch.cuda.synchronize()


def spent() -> float:
    """CPU seconds of this process and of those that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds and CPU seconds."""
    wall, cpu = time.monotonic(), spent()
    run()
    return time.monotonic() - wall, spent() - cpu


def compared(name: str, setting: Setting, our: Callable[[], None], their: Callable[[int], None], rounds: int) -> str:
    """Tune the hand-written loop, then let both alternate; return a line of the table."""
    choices = sorted({0, 1, 2, min(8, len(os.sched_getaffinity(0)))})
    their(0)  # what is done once is not counted
    best = min(choices, key=lambda workers: timed(lambda: their(workers))[0])
    our()
    pairs = [(timed(our), timed(lambda: their(best))) for _ in range(rounds)]
    mine, other = (statistics.median(setting.images / pair[i][0] for pair in pairs) for i in (0, 1))
    wall, cpu = (statistics.median(pair[1][i] / pair[0][i] for pair in pairs) for i in (0, 1))
    return f"{name:<34}{mine:>12,.0f}{other:>14,.0f}{best:>10}{wall:>8.2f}{cpu:>12.2f}"


def written(root: Path, x: np.ndarray, y: np.ndarray, ending: str) -> Path:
    """Write images into folders of classes."""
    for split in ("train", "test"):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
    for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
        split = "train" if i >= 100 else "test"
        Image.fromarray(pixels).save(root / split / str(label) / f"{i:05}.{ending}")
    return root


def lines(arguments: argparse.Namespace, directory: Path) -> Iterator[str]:
    setting = Setting(arguments.arch, arguments.batch, arguments.steps, arguments.device)
    with np.load(arguments.cifar10) as stored:
        x, y = stored["x_train"], stored["y_train"]
    channels_first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    held = load_task(f"npz:{arguments.cifar10}?{CONSTANTS}", base=Path.cwd())
    for augment in (AUGMENT, None):
        data = Arrays(channels_first, y, v2.Compose([*(CHANGES if augment else []), *PLAIN]))
        yield compared(
            f"in memory, {augment or 'no augmentation'}",
            setting,
            lambda augment=augment: ours(setting, held, augment, None),
            lambda workers, data=data: theirs(setting, data, workers),
            arguments.rounds,
        )
    for ending in ("png", "jpg"):
        count = min(len(x), arguments.files)
        root = written(directory / ending, x[:count], y[:count], ending)
        streamed = load_task(f"imagefolder:{root}?stream=true&{CONSTANTS}", base=Path.cwd())
        change = v2.Compose([v2.PILToTensor(), *CHANGES, *PLAIN])
        folder = torchvision.datasets.ImageFolder(str(root / "train"), change)
        yield compared(
            f"{count} files ({ending}), {AUGMENT}",
            setting,
            lambda streamed=streamed: ours(setting, streamed, AUGMENT, None),
            lambda workers, folder=folder: theirs(setting, folder, workers),
            arguments.rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", default="cifar10.npz")
    parser.add_argument("--arch", default="lenet5")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=150, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=10_000, help="image files to write")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    quieten()
    said = [
        invocation(),
        machine() + f", {len(os.sched_getaffinity(0))} processors",
        f"{arguments.arch} on {arguments.device}: images a second of training in batches of {arguments.batch}, medians "
        f"of {arguments.rounds} rounds of {arguments.steps} steps; the",
        "hand-written loop has the number of workers that was best for it, and mgraph its default. Ratios above 1: "
        "mgraph is faster, or takes less CPU time.",
        "",
        f"{'data':<34}{'mgraph':>12}{'hand-written':>14}{'workers':>10}{'ratio':>8}{'of CPU time':>12}",
    ]
    print("\n".join(said), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["MGRAPH_CACHE_DIR"] = directory
        for line in lines(arguments, Path(directory)):
            said.append(line)
            print(line, flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()
