"""Data of Hugging Face's ``datasets``: saved on disk, local files, or in its cache; nothing is downloaded unasked.

Columns are chosen by name. Data that fit are held in memory, and large sets are read as needed; either way they are
identified by the contents of their Arrow files.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

import numpy as np

from mgraph.data.columns import (
    Column,
    Encoder,
    images,
    kind_of,
    labels,
    lists,
    numbers,
    one_size,
    texts,
    vocabulary,
)
from mgraph.data.files import Mean, Std, Stream
from mgraph.data.limits import Limit, limits_of
from mgraph.data.machine import fits
from mgraph.data.rows import TableRows
from mgraph.data.texts import UNKNOWN, by_vocabulary, examples_of, load_tokenizer, tokens_of
from mgraph.errors import InputError, MGraphError, NotFoundError
from mgraph.specs import suggestion

if TYPE_CHECKING:
    from mgraph.data.task import Task

_TARGETS = ("label", "labels")
_VALID = ("validation", "valid", "val", "dev")
_LENGTH = 64


class Choices(TypedDict, total=False):
    """What a spec can say about such data."""

    x: Annotated[tuple[str, ...] | None, "columns of the inputs (default: the only image or text, or all others)"]
    y: Annotated[str | None, "column of the target (default: label or labels; a text without: the next token)"]
    config: Annotated[str | None, "which of several configurations"]
    size: Annotated[int | None, "height and width of images (default: as they are)"]
    tokenizer: Annotated[str | None, "a file of the library tokenizers that makes tokens of texts"]
    length: Annotated[int, "tokens of a text", _LENGTH]
    least: Annotated[int, "words that are rarer in train are unknown", 1]
    test: Annotated[str | None, "which split is test data, or the share of train that is (default: test, else 0.2)"]
    seed: Annotated[int, "seed of that share", 0]
    mean: Mean
    std: Std
    limit: Limit
    stream: Stream
    download: Annotated[bool, "download the data if they are missing", False]


def huggingface(name: str | Path, **choices: Unpack[Choices]) -> Task:
    """Load a data set by its name, or from its directory, a Path.

    The directory was made by ``save_to_disk``, or contains files that ``datasets`` reads (Parquet, CSV, JSON, …).
    Images are RGB; numbers become one vector; lists, all of the same length, tensors; several of these a dict. Texts
    become ``input_ids`` and ``attention_mask`` of ``length`` tokens, by the words of train or by a tokenizer; without a
    target they form one stream for next-token prediction. Labels are numbers, or words in alphabetical order; numbers
    with a decimal point are quantities. Raises InputError, naming the column, for what cannot be used, NotFoundError
    for what does not exist, and InputError if ``datasets`` is not installed.
    """
    made = _Source(str(name), name if isinstance(name, Path) else None, choices)
    with _quiet(made.library):
        splits = made.splits()
        return made.next_token(splits) if made.target is None else made.task(splits)


@dataclass(frozen=True)
class _Source:
    """A data set, and what the user specified about it."""

    name: str
    directory: Path | None
    said: Choices

    @cached_property
    def library(self) -> Any:
        try:
            return importlib.import_module("datasets")
        except ImportError:
            raise InputError(
                "hf: needs the library datasets, which is not installed: pip install 'mgraph[datasets]'."
            ) from None

    @cached_property
    def tables(self) -> Mapping[str, Any]:
        """The splits as provided by the library."""
        try:
            loaded = self._loaded()
        except MGraphError:
            raise
        except Exception as error:  # the library raises whatever its readers raise
            why = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"hf:{self.name} cannot be read: {type(error).__name__}: {why[:300]}.") from None
        tables: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {"train": loaded}
        if "train" not in tables:
            raise InputError(f"hf:{self.name} has no split train; it has {', '.join(map(str, tables))}.")
        return tables

    def _loaded(self) -> Any:
        config, place = self.said.get("config"), self.directory
        if place is not None:
            if not place.exists():
                raise NotFoundError(f"The data directory {place} does not exist; check the path.")
            if not place.is_dir():
                raise InputError(
                    f"{place} is not a directory; give the one that it is in, or csv:FILE or parquet:FILE."
                )
            if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
                return self.library.load_from_disk(str(place))
            if not any(file.is_file() for file in place.rglob("*")):
                raise InputError(f"{place} is empty; give a directory of save_to_disk, or of files to read.")
            return self.library.load_dataset(str(place), config)
        if self.said.get("download"):
            return self.library.load_dataset(self.name, config)
        cache = importlib.import_module("datasets.packaged_modules.cache.cache").Cache
        try:
            builder = cache(
                dataset_name=self.name.split("/")[-1],
                config_name=config,
                repo_id=self.name,
                version="auto",
                hash="auto",
            )
        except ValueError as error:
            why = " ".join(str(error).split())
            if "multiple" in why:
                raise InputError(f"hf:{self.name} has several configurations; say which: config=…. ({why})") from None
            raise NotFoundError(
                f"hf:{self.name} is not in the cache of the library datasets; add download=true to fetch it, or give "
                f"a directory, written with a /, as in hf:./{self.name}."
            ) from None
        return builder.as_dataset()

    def splits(self) -> dict[str, Any]:
        """Choose the splits by their names, or take a fraction of train; then limit them."""
        tables = self.tables
        wanted = self.said.get("test")
        found = {"train": tables["train"]}
        share = _share(wanted)
        valid = next((name for name in _VALID if name in tables and name != wanted), None)
        if valid is not None:
            found["valid"] = tables[valid]
        if share is None and wanted is not None:
            if wanted not in tables or wanted == "train":
                raise InputError(
                    f"test is another split of hf:{self.name} than train, or a share between 0 and 1, not {wanted!r}; "
                    f"there are {', '.join(map(str, tables))}."
                )
            found["test"] = tables[wanted]
        elif share is None and "test" in tables:
            found["test"] = tables["test"]
        else:
            order = np.random.RandomState(self.said.get("seed", 0)).permutation(len(found["train"]))
            cut = max(1, round(len(order) * (0.2 if share is None else share)))
            found |= {
                "train": found["train"].select(np.sort(order[cut:])),
                "test": found["train"].select(np.sort(order[:cut])),
            }
        return self._limited(found)

    def _limited(self, found: dict[str, Any]) -> dict[str, Any]:
        for split, most in limits_of(self.said.get("limit")).items():
            if split not in found:
                raise InputError(f"limit names {split}, and hf:{self.name} has no such split of its own.")
            order = np.random.RandomState(0).permutation(len(found[split]))[:most]
            found[split] = found[split].select(order)
        return found

    @cached_property
    def columns(self) -> dict[str, Column]:
        """All columns, by name."""
        features = self.tables["train"].features
        return {
            name: Column(f"hf:{self.name}", name, kind_of(feature), tuple(getattr(feature, "names", None) or ()))
            for name, feature in features.items()
        }

    def column(self, name: str) -> Column:
        """Return a column; raise InputError, naming the existing ones, if there is no such column."""
        if name not in self.columns:
            raise InputError(
                f"hf:{self.name} has no column {name!r};{suggestion(name, self.columns)} it has {self._listed()}."
            )
        return self.columns[name]

    def _listed(self) -> str:
        return ", ".join(f"{column.name} ({column.kind})" for column in self.columns.values())

    @cached_property
    def inputs(self) -> list[Column]:
        """The columns of the inputs."""
        if (wanted := self.said.get("x")) is not None:
            return [self.column(name) for name in wanted]
        target = self.said.get("y") or next((name for name in _TARGETS if name in self.columns), None)
        others = [column for column in self.columns.values() if column.name != target]
        for kind in ("image", "text"):
            if len(found := [column for column in others if column.kind == kind]) == 1:
                return found
        if others and all(column.kind == "number" for column in others):
            return others
        if len(others) == 1:
            return others
        raise InputError(f"Say which columns of hf:{self.name} are the inputs, as in x=…; it has {self._listed()}.")

    @cached_property
    def target(self) -> Column | None:
        """The column of the target; None for texts without one, whose target is the next token."""
        if (wanted := self.said.get("y")) is not None:
            return self.column(wanted)
        for name in _TARGETS:
            if name in self.columns:
                return self.columns[name]
        if [column.kind for column in self.inputs] == ["text"]:
            return None
        raise InputError(f"Say which column of hf:{self.name} is the target, as in y=…; it has {self._listed()}.")

    # Tasks

    def next_token(self, splits: Mapping[str, Any]) -> Task:
        """Make one stream from all texts of a split, for next-token prediction."""
        from mgraph.data.tasks import language_model

        (column,) = self.inputs
        length, notes = self.said.get("length", _LENGTH), list[str]()
        rows = {name: self._rows(table, column) for name, table in splits.items()}
        if (file := self.said.get("tokenizer")) is not None:
            encode, size = load_tokenizer(self._tokenizer_file(file))
            streams = {name: np.concatenate([encode(f"{row}\n") for row in texts]) for name, texts in rows.items()}
        else:
            tokens = {name: [t for row in texts for t in tokens_of(row, "word")] for name, texts in rows.items()}
            streams, size, notes = by_vocabulary(tokens, self.said.get("least", 1))
        made = {
            name: examples_of(stream, length, f"The {name} split of hf:{self.name}") for name, stream in streams.items()
        }
        task = language_model(**made, vocabulary=size)
        return replace(task, notes=(*notes, *task.notes))

    def _rows(self, table: Any, column: Column) -> Sequence[str]:
        found: Sequence[str] = table[column.name][:]
        column.require_whole(found, range(len(found)))
        return found

    def _tokenizer_file(self, file: str) -> Path:
        return Path(file) if self.directory is None else self.directory / file

    def task(self, splits: Mapping[str, Any]) -> Task:
        """Make a task with inputs and a target."""
        import torch

        from mgraph.data import tasks
        from mgraph.data.splits import ArraySplit

        assert self.target is not None
        if self.target in self.inputs:
            raise self.target.refuse("is the target, and cannot be an input, too.")
        inputs, notes = self._input_encoder(splits["train"])
        target, classes, more = self._target_encoder(splits["train"])
        names = [column.name for column in (*self.inputs, self.target)]
        parts = {
            name: TableRows(self._undecoded(table.select_columns(names)), inputs, target, self._told())
            for name, table in splits.items()
        }
        self._refuse_unlabelled(parts)
        example, _ = parts["train"].rows([0])
        size = sum(array.nbytes for array in (example.values() if isinstance(example, dict) else [example]))
        stream = self.said.get("stream")
        if stream is None:
            stream = not fits(size * sum(map(len, parts.values())))
        mean, std = self.said.get("mean"), self.said.get("std")
        made: dict[str, Any] = {}
        for name, part in parts.items():
            if stream:
                part.look()
                made[name] = part
                continue
            x, y = part.all()
            fields = {k: torch.from_numpy(v) for k, v in x.items()} if isinstance(x, dict) else torch.from_numpy(x)
            made[name] = ArraySplit(fields, torch.from_numpy(y), mean, std, origin=part.examples_digest)
        first = made["train"].targets if not stream else torch.from_numpy(parts["train"].rows([0])[1])
        how: dict[str, Any] = {} if mean is None else {"mean": mean}
        how |= {} if std is None else {"std": std}
        if first.is_floating_point():
            task = tasks.regression(**made, **how)
        else:
            task = tasks.classification(**made, **how, **({} if classes is None else {"classes": classes}))
        return replace(task, notes=(*notes, *more, *task.notes))

    def _told(self) -> str:
        """What the examples depend on besides the files."""
        left_out = ("limit", "stream", "download", "mean", "std")
        return repr(sorted((key, value) for key, value in self.said.items() if key not in left_out))

    def _undecoded(self, table: Any) -> Any:
        """Return the table with images as their stored bytes."""
        for column in self.inputs:
            if column.kind == "image":
                table = table.cast_column(column.name, self.library.Image(decode=False))
        return table

    def _input_encoder(self, train: Any) -> tuple[Encoder, list[str]]:
        columns = self.inputs
        kinds = {column.kind for column in columns}
        if kinds == {"number"}:
            return numbers(columns), []
        if len(columns) > 1:
            if not kinds <= {"list", "image"}:
                raise InputError(
                    f"Inputs of several columns are numbers, or lists and images, not "
                    f"{', '.join(f'{column.name} ({column.kind})' for column in columns)}."
                )
            each = {column.name: self._of_one(column, train) for column in columns}
            return lambda rows, places: {name: encode(rows, places) for name, encode in each.items()}, []
        (column,) = columns
        if column.kind == "text":
            return self._text_encoder(column, train)
        return self._of_one(column, train), []

    def _of_one(self, column: Column, train: Any) -> Encoder:
        if column.kind == "list":
            return lists(column)
        if column.kind != "image":
            raise column.refuse(f"is of a kind that cannot be an input ({column.kind}); choose others with x=….")
        size = self.said.get("size")
        if size is not None and size < 1:
            raise InputError(f"size must be at least 1, not {size}.")
        return images(
            column, size or one_size(column, self._undecoded(train.select_columns([column.name]))[0][column.name])
        )

    def _text_encoder(self, column: Column, train: Any) -> tuple[Encoder, list[str]]:
        length = self.said.get("length", _LENGTH)
        if length < 1:
            raise InputError(f"length must be at least 1, not {length}.")
        if (file := self.said.get("tokenizer")) is not None:
            encode, size = load_tokenizer(self._tokenizer_file(file))
            return texts(column, lambda text: encode(text).tolist(), length, 0), [f"The vocabulary has {size} tokens."]
        number = vocabulary((tokens_of(row, "word") for row in self._rows(train, column)), self.said.get("least", 1))
        unknown = number[UNKNOWN]

        def ids(text: str) -> list[int]:
            return [number.get(token, unknown) for token in tokens_of(text, "word")]

        return texts(column, ids, length, 0), [f"The vocabulary has {len(number)} words."]

    def _target_encoder(self, train: Any) -> tuple[Encoder, int | None, list[str]]:
        column = self.target
        assert column is not None
        if column.kind == "label":
            return labels(column), len(column.classes) or None, []
        if column.kind == "text":
            words = sorted(set(map(str, self._rows(train, column))))
            numbered = ", ".join(f"{word} = {i}" for i, word in enumerate(words[:8])) + (", …" if words[8:] else "")
            return labels(column, words), len(words), [f"Labels of column {column.name}: {numbered}."]
        if column.kind not in ("number", "list"):
            raise column.refuse(f"is of a kind that cannot be a target ({column.kind}); choose another with y=….")
        return labels(column), None, []

    def _refuse_unlabelled(self, parts: Mapping[str, TableRows]) -> None:
        """Refuse splits in which no example has a label, as in the test data of benchmarks."""
        for name, part in parts.items():
            if name != "train" and part.targets.size and part.targets.dtype.kind == "i" and (part.targets == -1).all():
                others = ", ".join(split for split in self.tables if split not in ("train", name))
                raise InputError(
                    f"The {name} split of hf:{self.name} has no labels (all are -1); say which split is test data, as "
                    f"in test=validation; there are {others or 'no others'}."
                )


def _share(text: Any) -> float | None:
    try:
        share = float(text)
    except (TypeError, ValueError):
        return None
    if not 0.0 < share < 1.0:
        raise InputError(f"test is a split, or a share of the rows between 0 and 1, not {text}.")
    return share


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep the library's progress bars and log off the terminal."""
    bars, level = library.utils.are_progress_bars_disabled(), library.utils.logging.get_verbosity()
    library.utils.disable_progress_bars()
    library.utils.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        if not bars:
            library.utils.enable_progress_bars()
        library.utils.logging.set_verbosity(level)
