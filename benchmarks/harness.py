"""What the scripts share: a quiet process, the line that names the machine, peak memory, and modes to start from."""

from __future__ import annotations

import ctypes
import platform
import shlex
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.architectures.loading import build_network
from mgraph.data.loading import load_task
from mgraph.data.splits import Split
from mgraph.data.task import Task
from mgraph.graph.handles import Point
from mgraph.network.flat import FlatModel
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings


def quieten(threads: int = 1) -> None:
    """Fix the threads, and let glibc keep freed memory as the command line does: page faults blur every figure."""
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def machine() -> str:
    """Name versions, processor and threads."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    if torch.cuda.is_available():
        model = torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {model}, "
        f"{threads} thread{'' if threads == 1 else 's'}"
    )


def invocation() -> str:
    """Return the command line of this script."""
    return f"$ python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".rstrip()


class Peak:
    """Watches how much anonymous memory this process has above what it has now; mapped files do not count."""

    def __init__(self) -> None:
        self._start = self._peak = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._peak = max(self._peak, anonymous())

    def stop(self) -> int:
        """Return the most there was, in bytes."""
        self._over.set()
        self._thread.join()
        return max(self._peak, anonymous()) - self._start


def anonymous() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@dataclass(frozen=True)
class Network:
    """A network on its data, and how its modes are trained."""

    arch: str
    data: str
    epochs: int
    batch_size: int = 64
    lr: float = 0.05

    def task(self) -> Task:
        """Load the data."""
        return load_task(self.data, base=Path.cwd())

    def build(self, task: Task, seed: int = 0) -> FlatModel:
        """Make a fresh network."""
        module = build_network(
            self.arch, input_shape=task.input_shape, classes=task.classes, seed=seed, base=Path.cwd()
        )
        return FlatModel(module)

    def modes(self, task: Task, seeds: range) -> list[NDArray[np.float32]]:
        """Train modes from these seeds; each of shape (D,)."""
        modes = []
        for seed in seeds:
            flat = self.build(task, seed)
            settings = TrainSettings(seed=seed, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
            train_mode(flat, task, settings)
            modes.append(flat.unpack(flat.theta).numpy())
        return modes


def networks(mnist: str, cifar10: str = "cifar10.npz") -> dict[str, Network]:
    """Return the networks that experiments use, by name; data sets are .npz files (x_train, y_train, …)."""
    images = f"npz:{mnist}?mean=0.1307&std=0.3081"
    photos = f"npz:{cifar10}?mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616"
    return {
        "mlp": Network("mlp", "digits", 40),
        "mlp-bn": Network("mlp?bn=true", "digits", 40),
        "cnn": Network("cnn", "digits", 40),
        "cnn-bn": Network("cnn?bn=true", "digits", 40),
        "fc-mnist": Network("mlp?hidden=512,512", images, 5, 128),
        "lenet5": Network("lenet5", images, 3, 128),
        "cnn-bn-mnist": Network("cnn?channels=16,32&hidden=64&bn=true", images, 3, 128),
        "cnn-bn-cifar": Network("cnn?channels=16,32,32&hidden=64&bn=true", photos, 2, 128),
    }


def votes(point: Point, examples: Split) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the class probabilities that a stored model gives to all examples of a split, and their labels.

    Shapes are (N, classes) and (N,).
    """
    model, found, labels = point.model(), [], []
    with torch.no_grad():
        for x, y in examples.batches(500):
            found.append(model(x).double().softmax(dim=1).numpy())
            labels.append(np.asarray(y))
    return np.concatenate(found), np.concatenate(labels)


@dataclass(frozen=True)
class Score:
    """Right or wrong and negative log-likelihood of every example, each of shape (N,)."""

    right: NDArray[np.float64]
    nll: NDArray[np.float64]

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Score:
        """Score predictions of shape (N, classes)."""
        said = probabilities[np.arange(len(labels)), labels]
        return cls((probabilities.argmax(1) == labels).astype(float), -np.log(np.maximum(said, 1e-300)))

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return float(self.right.mean())

    @property
    def error(self) -> float:
        """The standard error of the accuracy."""
        return standard_error(self.right)


def standard_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of a mean; NaN of fewer than two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
