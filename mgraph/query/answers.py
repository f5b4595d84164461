"""The result of a user's SQL, as rows, data frame, Arrow table or file (no torch)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.notebook import InNotebook
from mgraph.shown import plain_cell
from mgraph_store import GraphStore
from mgraph_store.rows.metrics import RECORDED, names_in
from mgraph_store.rows.relations import views

FORMATS = (".csv", ".json", ".parquet")
_PART = 50_000  # rows handed to DuckDB at once


@dataclass(frozen=True)
class QueryResult(InNotebook):
    """Columns with their DuckDB types, and rows in order."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @override
    def _shown(self) -> dict[str, Any]:
        return {"rows": self.records()}

    def __len__(self) -> int:
        return len(self.rows)

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as plain data by column: times as text, decimals as numbers, maps with texts as keys.

        If columns have the same name, all but the first get a number.
        """
        names = self._names()
        return [dict(zip(names, map(_plain, row), strict=True)) for row in self.rows]

    def df(self) -> Any:
        """Return a pandas DataFrame; InputError if pandas is not installed (it is optional)."""
        return _optional("pandas").DataFrame(self.rows, columns=list(self.columns))

    def arrow(self) -> Any:
        """Return a pyarrow Table; InputError if pyarrow is not installed (it is optional)."""
        arrow = _optional("pyarrow")
        names = self._names()
        # A mapping becomes a list of pairs, Arrow's form of a map.
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return arrow.Table.from_pylist(rows) if rows else arrow.table({name: [] for name in names})

    def write(self, path: str | Path, *, overwrite: bool = False, csv_safe: bool = False) -> Path:
        """Write the rows as .csv, .json or .parquet; InputError for another ending, or if the file exists.

        With ``csv_safe``, a spreadsheet takes no text in a .csv for a formula.
        """
        target = Path(path)
        if target.suffix not in FORMATS:
            raise InputError(f"{target.name} must end in {', '.join(FORMATS)}.")
        if target.exists() and not overwrite:
            raise InputError(f"{target} exists already; choose another name, or overwrite it.")
        if not target.parent.is_dir():
            raise InputError(f"There is no directory {target.parent}.")
        cell: Callable[[Any], Any] = plain_cell if csv_safe else _as_it_is
        writers: dict[str, Callable[[Path], None]] = {
            ".csv": partial(self._write_csv, cell=cell),
            ".json": self._write_json,
            ".parquet": self._write_parquet,
        }
        writers[target.suffix](target)
        return target

    def _names(self) -> list[str]:
        names: list[str] = []
        for name in self.columns:
            number = 1
            unique = name
            while unique in names:
                number += 1
                unique = f"{name}_{number}"
            names.append(unique)
        return names

    def _write_csv(self, path: Path, cell: Callable[[Any], Any]) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(cell, self._names()))
            for record in self.records():
                values = (json.dumps(v) if isinstance(v, list | dict) else v for v in record.values())
                writer.writerow(map(cell, values))

    def _write_json(self, path: Path) -> None:
        rows = [{k: _finite(v) for k, v in record.items()} for record in self.records()]
        path.write_text(json.dumps({"format": 1, "rows": rows}, indent=2) + "\n")

    def _write_parquet(self, path: Path) -> None:
        import duckdb

        names = [_quoted(name) for name in self._names()]
        declared = ", ".join(f"{n} {t}" for n, t in zip(names, self.types, strict=True))
        with duckdb.connect(":memory:", config={"threads": "1"}) as con:
            con.execute(f"CREATE TABLE answer ({declared})")
            kinds = [duckdb.type(f"{t}[]") for t in self.types]
            filled = ", ".join("unnest(?)" for _ in kinds)  # whole columns: row by row takes minutes
            for part in (self.rows[i : i + _PART] for i in range(0, len(self.rows), _PART)):
                columns = zip(zip(*part, strict=True), kinds, strict=True)
                con.execute(f"INSERT INTO answer SELECT {filled}", [duckdb.Value(list(c), k) for c, k in columns])
            con.execute(f"COPY answer TO '{str(path).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)")


def ask(store: GraphStore, sql: str, *, max_seconds: float | None = None) -> QueryResult:
    """Run one SQL statement that only reads a graph's tables and views; see :mod:`mgraph_store.rows.relations`.

    Raises InputError for any other statement, and for one that reaches beyond the graph or takes too long.
    """
    limits: dict[str, Any] = {} if max_seconds is None else {"limit_seconds": max_seconds}
    found = store.query_guarded(sql, **limits)
    return QueryResult(found.columns, found.types, found.rows)


def list_views(store: GraphStore) -> list[dict[str, str]]:
    """List the views of a graph that SQL can use, with their columns, some of which are its metrics."""
    with store.reading() as reader:
        recorded = [row[0] for sql in RECORDED.values() for row in reader.query(sql.format(db="main"))[1]]
    return [
        {"view": view, "column": f.name, "type": f.type, "unit": f.unit, "meaning": f.meaning}
        for view, relation in views(names_in(recorded)).items()
        for f in relation.fields
    ]


def _as_it_is(value: Any) -> Any:
    return value


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"{module} is not installed; install it to use this: pip install {module}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
