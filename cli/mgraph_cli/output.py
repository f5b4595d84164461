"""One renderer for three audiences: tables for people, JSON and CSV for programs. Only data go to stdout.

JSON is ASCII, with everything else escaped in its own way. CSV holds the data as they are, unless it goes to a
terminal, or ``--csv-safe`` asks for cells that are not formulas.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import click

from mgraph import plain_cell, visible
from mgraph_cli.terminal import echo, unguarded

CSV_SAFE = "mgraph.csv_safe"  # key in the command's context: whether cells are made harmless

_BETWEEN, _AROUND = 3, 2  # blanks between columns, and on both sides of a table
_LONGEST_WORD = 24  # characters of a text that are kept together

Row = Mapping[str, Any]


def emit(
    rows: Iterable[Row],
    columns: Sequence[str],
    *,
    form: str = "table",
    title: str = "",
    empty: str = "nothing yet",
    heads: Sequence[str] | None = None,
) -> None:
    """Print rows: a table of ``columns``, or all their fields as JSON or CSV.

    ``heads`` are what the table calls the columns: by default their names, with blanks for underscores.
    """
    rows = list(rows)
    if form == "json":
        bad: list[str] = []
        cleaned = [_clean(row, f"rows[{i}]", bad) for i, row in enumerate(rows)]
        _print_json({"format": 1, "rows": cleaned}, bad)
    elif form == "csv":
        writer = csv.writer(unguarded(sys.stdout), lineterminator="\n")
        fields = list(dict.fromkeys(field for row in rows for field in row)) or list(columns)
        made = _cell_maker()
        writer.writerow(map(made, fields))
        writer.writerows([[made(row.get(f)) for f in fields] for row in rows])
    elif rows:
        _table([{c: row.get(c) for c in columns} for row in rows], columns, title, heads)
    else:
        echo(empty)


def emit_one(row: Row, *, form: str = "table", tables: Mapping[str, Sequence[str]] | None = None) -> None:
    """Print one thing: its plain fields as lines, and the named lists in it as tables."""
    tables = tables or {}
    if form == "json":
        bad: list[str] = []
        _print_json({"format": 1, "row": _clean(row, "row", bad)}, bad)
        return
    if form == "csv":
        emit([{k: v for k, v in row.items() if not isinstance(v, dict | list)}], [], form="csv")
        return
    width = max(len(k) for k in row)
    for key, value in row.items():
        if key in tables or value in (None, [], {}, ""):
            continue
        echo(f"{key.replace('_', ' '):<{width}}  {_plain(value)}")
    for key, columns in tables.items():
        if row.get(key):
            echo()
            _table(row[key], columns, key.replace("_", " "))


def echo_json(document: Any, *, indent: int | None = None, err: bool = False) -> None:
    """Print one JSON document in visible ASCII."""
    text = json.dumps(document, indent=indent).replace(
        "\x7f", "\\u007f"
    )  # the one control character that JSON leaves as it is
    click.echo(text, file=unguarded(sys.stderr if err else sys.stdout))


def note(text: str) -> None:
    """Tell the user something, apart from the data."""
    echo(text, err=True)


def _table(rows: Sequence[Row], columns: Sequence[str], title: str, heads: Sequence[str] | None = None) -> None:
    heads = [visible(head) for head in heads or [column.replace("_", " ") for column in columns]]
    cells = [[visible(_plain(row.get(column))) for row in rows] for column in columns]
    is_plain = _is_plain()
    room = 160 if not sys.stdout.isatty() and "COLUMNS" not in os.environ else _room()
    least = [_least_width(head, column) for head, column in zip(heads, cells, strict=True)]
    natural = [max(map(_width, (head, *column))) for head, column in zip(heads, cells, strict=True)]
    widths = _widths(least, natural, room)
    shown = len(widths)
    right = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns[:shown]]
    table = list(zip(heads, cells, widths, right, strict=False))
    is_whole = natural[:shown] == widths and _width(visible(title)) <= sum(widths)
    said = visible(title)
    text = _plain_table(table, said) if is_plain and is_whole else _rich_table(table, said, room)
    lines = [line.rstrip() for line in text.split("\n")]
    click.echo("\n".join(lines).strip("\n") + "\n", file=unguarded(sys.stdout))  # escaped above; the styles are ours
    if shown < len(columns):
        note(
            f"Note: {', '.join(heads[shown:])} did not fit into {room} characters; --csv and --json print all columns."
        )


_Column = tuple[str, Sequence[str], int, bool]
"""Head and cells of a column, its width, and whether it is set flush right."""


def _is_plain() -> bool:
    """Return whether a table has no styles, and lines that any terminal shows; then Rich need not be imported."""
    styled = sys.stdout.isatty() or any(name in os.environ for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"))
    return not styled and (sys.stdout.encoding or "").lower().startswith("utf")


def _plain_table(table: Sequence[_Column], title: str) -> str:
    """Set a table of which nothing must be broken, with the same characters as :func:`_rich_table`."""
    rule = "─" * (sum(width for _, _, width, _ in table) + _BETWEEN * (len(table) - 1))
    lines = [[_set(head, width, right) for head, _, width, right in table]]
    lines += [[_set(cells[k], width, right) for _, cells, width, right in table] for k in range(len(table[0][1]))]
    head, *body = [f" {(_BETWEEN * ' ').join(line)}" for line in lines]
    return "\n".join([title, "", head, f" {rule}", *body])


def _set(text: str, width: int, right: bool) -> str:
    text = text.rstrip() if right else text
    blanks = " " * (width - _width(text))
    return blanks + text if right else text + blanks


def _rich_table(table: Sequence[_Column], title: str, room: int) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False, title_style="bold")
    for head, _, width, right in table:
        made.add_column(head, justify="right" if right else "left", overflow="fold", width=width)
    for row in zip(*(cells for _, cells, _, _ in table), strict=True):
        made.add_row(*row)
    # Cells are data: brackets and colons in them have no special meaning.
    console = Console(file=unguarded(sys.stdout), highlight=False, markup=False, emoji=False, width=room)
    with console.capture() as captured:
        console.print(made)
    return captured.get()


def _room() -> int:
    from rich.console import Console

    return Console(file=sys.stdout).width


def _width(text: str) -> int:
    """Return how many characters wide a text is on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _least_width(head: str, cells: Sequence[str]) -> int:
    """Return the width below which a column would break a number, a name or a word of its head.

    Text of several words may be broken between these, and a very long one of them anywhere.
    """
    words = [word for cell in cells for word in cell.split()]
    longest = max(map(_width, words), default=0)
    if any(" " in cell for cell in cells):
        longest = min(longest, _LONGEST_WORD)
    return max(longest, *map(_width, head.split()), 1)


def _widths(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Return the widths of the columns, from the left, that fit beside one another; at least one.

    Each has its least width, and of what is left over as much as it can use, in equal parts.
    """
    room -= _AROUND
    totals = list(accumulate(least, lambda total, width: total + width + _BETWEEN))
    widths = list(least[: max(1, sum(total <= room for total in totals))])
    extra = max(0, room - totals[len(widths) - 1])
    order = sorted(range(len(widths)), key=lambda i: natural[i] - widths[i])
    for k, i in enumerate(order):
        gained = min(natural[i] - widths[i], extra // (len(order) - k))
        widths[i] += gained
        extra -= gained
    return widths


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(_plain(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items() if v not in (None, [], {}))
    return str(value)


def _clean(value: Any, path: str, bad: list[str]) -> Any:
    """Replace what JSON cannot hold with null, and remember where."""
    if isinstance(value, Mapping):
        return {k: _clean(v, f"{path}.{k}", bad) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v, f"{path}[{i}]", bad) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        bad.append(path)
        return None
    return value


def _print_json(document: dict[str, Any], bad: list[str]) -> None:
    if bad:
        document["non_finite"] = bad
    echo_json(document, indent=2)


def _cell_maker() -> Callable[[Any], Any]:
    """Return the function that makes a CSV cell: the data as they are, or made harmless."""
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(CSV_SAFE):
        return lambda value: plain_cell(_csv_cell(value))
    if sys.stdout.isatty():
        return lambda value: visible(cell) if isinstance(cell := _csv_cell(value), str) else cell
    return _csv_cell


def _csv_cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | tuple) else value
