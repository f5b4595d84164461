"""Tables as data: CSV and Parquet files, read through DuckDB.

This is outside :mod:`mgraph.data`, which runs without DuckDB.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError, NotFoundError
from mgraph.specs import suggestion

if TYPE_CHECKING:
    from mgraph.data.task import Task

X = Annotated[tuple[str, ...] | None, "columns of the inputs, by name or pattern, as in pixel* (default: all others)"]
Y = Annotated[str | None, "column of the target: labels (whole numbers or words) or quantities"]
SplitColumn = Annotated[str | None, "column that says train, valid or test of every row"]
Share = Annotated[float, "share of the rows, drawn at random, that are test data where no column says it"]
Seed = Annotated[int, "seed of that draw"]
Standardise = Annotated[bool, "subtract each input's mean over train, and divide by its standard deviation"]

# Nothing is downloaded.
_CONFIG: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
_SPLITS = ("train", "valid", "test")


def csv(
    path: Path,
    *,
    y: Y = None,
    x: X = None,
    split: SplitColumn = None,
    test: Share = 0.2,
    seed: Seed = 0,
    standardise: Standardise = True,
) -> Task:
    """Load a table of comma-separated values; DuckDB detects its header and types."""
    return _task(path, "read_csv", (y, x, split), (test, seed), standardise=standardise)


def parquet(
    path: Path,
    *,
    y: Y = None,
    x: X = None,
    split: SplitColumn = None,
    test: Share = 0.2,
    seed: Seed = 0,
    standardise: Standardise = True,
) -> Task:
    """Load a Parquet file."""
    return _task(path, "read_parquet", (y, x, split), (test, seed), standardise=standardise)


def _task(
    path: Path,
    reader: str,
    columns: tuple[str | None, tuple[str, ...] | None, str | None],
    draw: tuple[float, int],
    *,
    standardise: bool,
) -> Task:
    from mgraph.data import tasks

    table = _read(path, reader)
    target, inputs, split = columns
    if target is None:
        raise InputError(f"Say which column of {path} is the target, as in y={list(table)[-1]}; it has {_some(table)}.")
    for name in (target, *([split] if split else [])):
        _require_column(name, table, path)
    names = _chosen(inputs, [n for n in table if n not in (target, split)], path)
    x = np.stack([_numbers(name, table[name], path) for name in names], axis=1).astype(np.float32)
    y, notes = _targets(target, table[target], path)
    rows = _drawn(len(y), *draw) if split is None else _told(split, table[split], path)
    mean = std = None
    if standardise:
        mean, std = x[rows["train"]].mean(0, dtype=np.float64), x[rows["train"]].std(0, dtype=np.float64)
        constant = [name for name, deviation in zip(names, std, strict=True) if deviation == 0]
        if constant:
            notes.append(f"Constant in train, and only shifted: {', '.join(constant[:3])}.")
        std = np.where(std == 0, 1.0, std)
    make = tasks.classification if y.dtype.kind == "i" else tasks.regression
    if y.dtype.kind == "f":
        y = y[:, None]
    how: dict[str, Any] = {"mean": mean, "std": std}
    if y.dtype.kind == "i":
        how["classes"] = int(y.max()) + 1
    task = make(**{name: (x[chosen], y[chosen]) for name, chosen in rows.items()}, **how)
    return replace(task, notes=(*notes, *task.notes))


def _read(path: Path, reader: str) -> dict[str, NDArray[Any]]:
    """Read all columns as arrays, masked where values are missing."""
    if not path.is_file():
        raise NotFoundError(f"The data file {path} does not exist; check the path.")
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        try:
            return dict(connection.execute(f"SELECT * FROM {reader}(?)", [str(path)]).fetchnumpy())
        except duckdb.Error as error:
            why = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
            raise InputError(f"{path} cannot be read as a table: {why[:200]}.") from None


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if listed[12:] else "")


def _require_column(name: str, table: dict[str, NDArray[Any]], path: Path) -> None:
    if name not in table:
        raise InputError(f"{path} has no column {name!r};{suggestion(name, list(table))} it has {_some(table)}.")


def _chosen(wanted: tuple[str, ...] | None, others: list[str], path: Path) -> list[str]:
    """Return the columns of the inputs, in the order of the table."""
    if not others:
        raise InputError(f"{path} has no column besides the target; there is nothing to predict it from.")
    if wanted is None:
        return others
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in others):
            raise InputError(
                f"{path} has no column {pattern!r} for x;{suggestion(pattern, others)} it has {_some(others)}."
            )
    return [name for name in others if any(fnmatchcase(name, pattern) for pattern in wanted)]


def _require_whole(name: str, values: NDArray[Any], path: Path) -> None:
    gone = np.ma.getmaskarray(values)
    if gone.any():
        first = int(np.flatnonzero(gone)[0])
        raise InputError(
            f"Column {name} of {path} has {int(gone.sum())} missing values, the first in row {first + 1}; fill them, "
            "or leave these rows or the column out."
        )


def _numbers(name: str, values: NDArray[Any], path: Path) -> NDArray[Any]:
    _require_whole(name, values, path)
    plain = np.ma.getdata(values)
    if plain.dtype.kind not in "buif":
        raise InputError(
            f"Column {name} of {path} holds no numbers ({plain.reshape(-1)[0]!r}); name the columns of the inputs with "
            f"x=, and make numbers of categories (one column of 0 and 1 for each)."
        )
    return plain


def _targets(name: str, values: NDArray[Any], path: Path) -> tuple[NDArray[Any], list[str]]:
    """Return labels as integers or quantities as floats, and notes for the user."""
    _require_whole(name, values, path)
    plain = np.ma.getdata(values)
    if plain.dtype.kind == "f":
        return plain.astype(np.float32), []
    if plain.dtype.kind in "bui":
        return plain.astype(np.int64), []
    words = [str(value) for value in plain]
    classes = sorted(set(words))
    numbered = ", ".join(f"{word} = {i}" for i, word in enumerate(classes[:8])) + (", …" if classes[8:] else "")
    numbers = {word: i for i, word in enumerate(classes)}
    return np.array([numbers[word] for word in words], np.int64), [f"Labels of column {name}: {numbered}."]


def _drawn(count: int, test: float, seed: int) -> dict[str, NDArray[np.int64]]:
    if not 0.0 < test < 1.0:
        raise InputError(f"test is a share of the rows between 0 and 1, not {test:g}.")
    order = np.random.RandomState(seed).permutation(count)
    cut = max(1, round(count * test))
    return {"train": np.sort(order[cut:]), "test": np.sort(order[:cut])}


def _told(name: str, values: NDArray[Any], path: Path) -> dict[str, NDArray[np.int64]]:
    _require_whole(name, values, path)
    words = np.array([str(value) for value in np.ma.getdata(values)])
    odd = sorted(set(words) - set(_SPLITS))
    if odd or not {"train", "test"} <= set(words):
        raise InputError(
            f"Column {name} of {path} says of every row whether it is train, valid or test; "
            + (f"it has {str(odd[0])!r}." if odd else "train and test must be there.")
        )
    return {split: np.flatnonzero(words == split) for split in _SPLITS if (words == split).any()}
