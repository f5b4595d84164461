"""Predictions as files: .csv and .parquet with one row per example, or .npz with arrays."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError, NameTakenError

FORMATS = (".parquet", ".csv", ".npz")


def check_file(path: Path, *, overwrite: bool = False) -> None:
    """Raise InputError for a file that cannot be written, by its ending or directory; NameTakenError if it exists."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name} must end in {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist; create it first.")
    if path.exists() and not overwrite:
        raise NameTakenError(f"{path} exists; choose another name or add --overwrite.")


def check_shape(path: Path, votes: NDArray[Any]) -> None:
    """Raise InputError for predictions that a table cannot hold: several numbers per class."""
    if path.suffix != ".npz" and votes.ndim > 2:
        raise InputError(
            f"Each example has predictions of shape {list(votes.shape[1:])}, which a table cannot hold; write .npz."
        )


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays of N rows each, completely or not at all; a table has a column for each, or for each of their
    columns.

    Raises InputError if the file cannot be written.
    """
    building = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        if path.suffix == ".npz":
            np.savez_compressed(building, allow_pickle=False, **dict(arrays))
        else:
            _write_table(building, _columns(arrays))
        building.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        building.unlink(missing_ok=True)


def _columns(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
        else:
            columns |= {f"{name}_{i}": np.ascontiguousarray(array[:, i]) for i in range(array.shape[1])}
    return columns


def _write_table(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    import duckdb

    place = str(path).replace("'", "''")
    how = "FORMAT parquet" if path.suffix == ".parquet" else "FORMAT csv, HEADER"
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        connection.register("predictions", columns)
        try:
            connection.execute(f"COPY predictions TO '{place}' ({how})")
        except duckdb.Error as error:
            raise OSError(None, " ".join(str(error).split())) from error
