"""What notebooks show of graphs, nodes, connections and results: plain HTML tables, small, without styles or scripts.

Names and notes may be a stranger's: every text is made :func:`~mgraph.shown.visible` and escaped, so that it is text
wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from mgraph.errors import MGraphError
from mgraph.shown import visible

MOST_ROWS, MOST_COLUMNS = 20, 12  # of a table
_LONGEST = 300  # characters of a text


class InNotebook:
    """Shown as HTML where a notebook asks for it: the facts and tables of :meth:`_shown`, below a title."""

    def _shown(self) -> Mapping[str, Any]:
        """Return what to show as plain data: lists of rows become tables, all else one line each."""
        raise NotImplementedError

    def _title(self) -> str:
        return type(self).__name__

    def _repr_html_(self) -> str | None:
        """Return it as HTML; None, so that the usual text is shown, if the graph cannot be read any more."""
        try:
            return to_html(self._title(), self._shown())
        except (MGraphError, OSError):
            return None


def to_html(title: str, data: Mapping[str, Any]) -> str:
    """Show plain data as HTML: a title, a table of facts, and a table for each list of rows.

    Of a long table the first 20 rows and 12 columns are shown, and how many there are.
    """
    facts = {key: value for key, value in data.items() if not _is_table(value) and not _is_empty(value)}
    parts = [f"<p><b>{_text(title)}</b></p>"]
    if facts:
        rows = [f"<tr><th>{_said(key)}</th><td>{_cell(value)}</td></tr>" for key, value in facts.items()]
        parts.append(f"<table>{''.join(rows)}</table>")
    parts += [_table(key, value) for key, value in data.items() if _is_table(value)]
    return f"<div>{''.join(parts)}</div>"


def _is_table(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [key for key in columns if not all(_is_empty(row.get(key)) for row in rows)]
    shown = columns[:MOST_COLUMNS]
    head = "".join(f"<th>{_said(key)}</th>" for key in shown)
    body = ("".join(f"<td>{_cell(row.get(key))}</td>" for key in shown) for row in rows[:MOST_ROWS])
    left = [f"{MOST_ROWS} of {len(rows)} rows"] if len(rows) > MOST_ROWS else []
    left += [f"{MOST_COLUMNS} of {len(columns)} columns"] if len(columns) > MOST_COLUMNS else []
    caption = f"{_said(name)}: {', '.join(left)}" if left else _said(name)
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _said(key: str) -> str:
    return _text(str(key).replace("_", " "))


def _cell(value: Any) -> str:
    return _text(_plain(value))


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(one)}" for key, one in value.items() if one is not None)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return " ".join(map(_plain, value))
    return str(value)


def _text(text: str) -> str:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return escape(visible(cut))
