"""Text files as tokens for next-token prediction: words, characters, or the tokens of a tokenizer file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from mgraph.data.limits import Limit, limited, limits_of
from mgraph.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from mgraph.data.task import Task

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
LEVELS = ("word", "char")

_NAMES = ("{}.txt", "ptb.{}.txt", "wiki.{}.tokens")  # the file names of the Penn Treebank and WikiText


def text(
    path: Path,
    *,
    level: Annotated[str, "what a token is: word (parted by blanks) or char"] = "word",
    tokenizer: Annotated[str | None, "a file of the library tokenizers in DIR, instead of level"] = None,
    length: Annotated[int, "tokens of one example"] = 35,
    least: Annotated[int, "words that are rarer in train become <unk>"] = 1,
    limit: Limit = None,
) -> Task:
    """Load train.txt, test.txt and, if there, valid.txt, or files named as in the Penn Treebank or WikiText.

    Each file is one stream of tokens, cut into consecutive examples of ``length`` tokens; the target of a token is the
    next one. Words are separated by blanks, and a line ends with ``<eos>`` [G table 3]. The vocabulary is that of
    train, the most frequent token first; other tokens become ``<unk>``. The remainder at the end of a file, less than
    one example, is not used.
    """
    from mgraph.data.tasks import language_model

    if level not in LEVELS:
        raise InputError(f"level is {' or '.join(LEVELS)}, not {level!r}.")
    for name, value in (("length", length), ("least", least)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")
    limits = limits_of(limit)
    files = _find(path)
    texts = {name: _read(file) for name, file in files.items()}
    if tokenizer is None:
        streams, size, notes = by_vocabulary({n: tokens_of(t, level) for n, t in texts.items()}, least)
    else:
        encode, size = load_tokenizer(path / tokenizer)
        streams, notes = {name: encode(content) for name, content in texts.items()}, []
    splits = {name: examples_of(stream, length, str(files[name])) for name, stream in streams.items()}
    task = language_model(**limited(splits, limits), vocabulary=size)
    return replace(task, notes=(*notes, *task.notes))


def _find(path: Path) -> dict[str, Path]:
    """Find the file of each split; raise InputError, listing the possible names, if one is missing."""
    if not path.is_dir():
        raise NotFoundError(f"The text directory {path} does not exist; check the path.")
    for pattern in _NAMES:
        found = {name: path / pattern.format(name) for name in ("train", "valid", "test")}
        there = {name: file for name, file in found.items() if file.is_file()}
        if {"train", "test"} <= set(there):
            return there
    ways = ", or ".join(pattern.format("train") for pattern in _NAMES)
    raise InputError(f"{path} has no texts to train and test on; name them {ways}, and test (and valid) likewise.")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text in UTF-8: byte {error.start} cannot be read; convert it.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def examples_of(stream: NDArray[np.int64], length: int, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a stream into examples and the token following each token, both (N, length); ``what`` names the stream."""
    count = (len(stream) - 1) // length
    if count < 1:
        raise InputError(
            f"{what} has {len(stream)} tokens, too few for one example of {length} and the token after it."
        )
    used = stream[: count * length + 1]
    return used[:-1].reshape(count, length), used[1:].reshape(count, length)


def tokens_of(text: str, level: str) -> list[str]:
    """Split a text into words, with the end of every line, or into characters."""
    if level == "char":
        return list(text)
    return [token for line in text.splitlines() for token in (*line.split(), END_OF_LINE)]


def by_vocabulary(tokens: dict[str, list[str]], least: int) -> tuple[dict[str, NDArray[np.int64]], int, list[str]]:
    """Number the tokens by their frequency in train; return streams, vocabulary size and notes."""
    counts = Counter(tokens["train"])
    kept = sorted((token for token, n in counts.items() if n >= least), key=lambda token: (-counts[token], token))
    numbers = {token: i for i, token in enumerate(kept)}
    strange = {name: sum(token not in numbers for token in stream) for name, stream in tokens.items()}
    if UNKNOWN not in numbers and any(strange.values()):
        numbers[UNKNOWN] = len(numbers)
    streams = {
        name: np.fromiter((numbers.get(token, numbers.get(UNKNOWN, 0)) for token in stream), np.int64, len(stream))
        for name, stream in tokens.items()
    }
    said = [f"{n} of {len(tokens[name])} tokens of {name}" for name, n in strange.items() if n]
    notes = [f"Not in the vocabulary of {len(numbers)}, and read as {UNKNOWN}: {', '.join(said)}."] if said else []
    return streams, len(numbers), notes


def load_tokenizer(file: Path) -> tuple[Callable[[str], NDArray[np.int64]], int]:
    """Load a tokenizer file; return the function that encodes a text, and the size of its vocabulary."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(f"{file.name} needs the library tokenizers: pip install tokenizers.") from None
    if not file.is_file():
        raise NotFoundError(f"The tokenizer file {file} does not exist; check the path.")
    try:
        made = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain exceptions
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{file} is not a tokenizer file: {why}.") from None

    def encode(content: str) -> NDArray[np.int64]:
        lines: Iterable[str] = content.splitlines(keepends=True)
        return np.array([i for line in lines for i in made.encode(line, add_special_tokens=False).ids], np.int64)

    return encode, int(made.get_vocab_size())
