"""Reading rows: records by column, things by name or identifier, and plain SQL."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from mgraph_store.errors import AmbiguousError, InputError, NotFoundError
from mgraph_store.index.changes import snapshot
from mgraph_store.index.sql import without_zones
from mgraph_store.index.unfolding import can_unfold, unfolded
from mgraph_store.rows.blockviews import source
from mgraph_store.rows.records import Connection, Node, Space
from mgraph_store.rows.schema import TABLE_OF, columns
from mgraph_store.rows.selecting import conditions, rows_to_records, tensor_keys
from mgraph_store.rows.statements import parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray

R = TypeVar("R")

_ORDER = ("created", "started", "position")  # then in the order written
_FINDABLE: dict[str, type[Node] | type[Connection]] = {"node": Node, "connection": Connection}
_SHOWN = 5
_AT_ONCE = 10_000  # rows


class Reader:
    """One short read of the index, from :meth:`GraphStore.reading`; no writer gets in while it lasts."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._con = connection

    def all(
        self,
        record: type[R],
        /,
        *,
        where: str = "",
        parameters: Sequence[Any] = (),
        order: str = "",
        limit: int | None = None,
        **equals: Any,
    ) -> list[R]:
        """Read records: ``reader.all(Node, kind="mode", run_id=None, space_id=["a…", "a…"])``.

        Keyword arguments filter by equality; None means IS NULL, a list means IN. ``where`` is a further SQL condition
        with ``?`` for ``parameters``; ``order`` is SQL too (default: by time, then in the order written).

        Raises
        ------
        InputError
            If a column or the SQL is wrong.
        """
        names = [c.name for c in columns(record)]
        by = [name for name in _ORDER if name in names]
        if not (where or order) and limit is None and can_unfold(record, equals):
            rows = unfolded(lambda sql, given: self._execute(sql, given, "fetchall"), record, equals)
            return rows_to_records(record, _in_order(rows, names, by))
        parts, values = conditions(record, equals)
        if where:
            parts.append(f"({where})")
        if limit is not None and not order:
            order = ", ".join([*by, "rowid"])
        sql = "SELECT {}, rowid FROM {}{}{}{}".format(
            ", ".join(f'"{name}"' for name in names),
            source(TABLE_OF[record]),
            f" WHERE {' AND '.join(parts)}" if parts else "",
            f" ORDER BY {order}" if order else "",
            "" if limit is None else f" LIMIT {int(limit)}",
        )
        rows = self._execute(sql, [*values, *parameters]).fetchall()
        if not order:  # to sort a few rows takes DuckDB as long as to find them
            rows = _in_order(sorted(rows, key=itemgetter(-1)), names, by)
        return rows_to_records(record, [row[:-1] for row in rows])

    def get(self, record: type[R], /, **equals: Any) -> R:
        """Read the one record with these values.

        Raises
        ------
        NotFoundError, AmbiguousError
            If there is none, or there are several.
        """
        found = self.all(record, **equals)
        what = ", ".join(f"{name} {value}" for name, value in equals.items())
        if not found:
            raise NotFoundError(f"Nothing in {TABLE_OF[record]} has {what}.")
        if len(found) > 1:
            raise AmbiguousError(f"Several of {TABLE_OF[record]} have {what}.")
        return found[0]

    def find(self, text: str, kinds: Sequence[str] = ("node", "connection")) -> Node | Connection:
        """Look up a node or connection by exact name, exact id, or id prefix of at least four characters.

        Raises
        ------
        NotFoundError
            If nothing matches; the message names what is close, or of the other kind.
        AmbiguousError
            If a prefix matches several; the message lists them.
        """
        matches = self._matches(text)
        exact = [m for m in matches if text in m[1:3]]
        wanted = [m for m in exact or matches if m[0] in kinds]
        if len(wanted) == 1:
            found: Node | Connection = self.get(_FINDABLE[wanted[0][0]], id=wanted[0][1])
            return found
        if wanted:
            raise AmbiguousError(f"{text!r} could be {_listed(wanted)}: type more of it.")
        if matches:
            raise NotFoundError(f"{text!r} is {_listed(matches)}, but a {' or '.join(kinds)} is expected.")
        names = [
            row[0]
            for kind in kinds
            for row in self._execute(
                f"SELECT name FROM {TABLE_OF[_FINDABLE[kind]]} WHERE name IS NOT NULL", []
            ).fetchall()
        ]
        raise NotFoundError(f"No {' or '.join(kinds)} is called {text!r}{_hint(text, names)}.")

    def find_node(self, text: str) -> Node:
        """Look up a node; errors as :meth:`find`."""
        node = self.find(text, ("node",))
        assert isinstance(node, Node)
        return node

    def find_connection(self, text: str) -> Connection:
        """Look up a connection; errors as :meth:`find`."""
        connection = self.find(text, ("connection",))
        assert isinstance(connection, Connection)
        return connection

    def find_space(self, text: str | None = None) -> Space:
        """Look up a space by name, id or id prefix; None stands for the only one.

        Raises
        ------
        InputError
            If None is given and there is not exactly one; the message lists them.
        NotFoundError, AmbiguousError
            As :meth:`find`.
        """
        spaces = self.all(Space)
        names = [s.name for s in spaces]
        if text is None:
            if len(spaces) == 1:
                return spaces[0]
            if not spaces:
                raise NotFoundError("The graph has no space yet: add one first.")
            raise InputError(f"The graph has {len(spaces)} spaces, say which: {', '.join(names)}.")
        found = [s for s in spaces if text in (s.name, s.id)]
        if not found and len(text) >= 4:
            found = [s for s in spaces if s.id.startswith(text)]
        if not found:
            raise NotFoundError(f"No space is called {text!r}{_hint(text, names)}.")
        if len(found) > 1:
            listed = _listed([("space", s.id, s.name) for s in found])
            raise AmbiguousError(f"{text!r} could be {listed}: type more of it.")
        return found[0]

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
        """Run SQL and return its columns as arrays; a column that contains NULL is a masked array.

        Raises
        ------
        InputError
            If the SQL is wrong or would write.
        """
        import numpy as np  # which those who read records need not have loaded

        columns_of: dict[str, NDArray[Any]] = self._execute(sql, parameters, "fetchnumpy")
        return {name: np.ma.asarray(v) if np.ma.isMaskedArray(v) else v for name, v in columns_of.items()}

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run SQL and return column names and rows, in order; times are in UTC without a zone.

        Raises
        ------
        InputError
            If the SQL is wrong or would write.
        """
        rows: list[tuple[Any, ...]] = self._execute(sql, parameters, "fetchall")
        return [d[0] for d in self._con.description or ()], rows

    def each(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of :meth:`query`, of which only some are in memory; ask nothing else meanwhile."""
        result = self._execute(sql, parameters)
        while rows := result.fetchmany(_AT_ONCE):
            yield from rows

    def tensor_keys(self, *, of: Sequence[str] | None = None, without: Sequence[str] = ()) -> set[str]:
        """List the keys of tensor objects that rows refer to: all, ``of`` some nodes, or of all ``without`` some."""
        return tensor_keys(self._con, of=of, without=without)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection itself, for what upkeep does with all rows."""
        return self._con

    def snapshot(self) -> dict[str, Any]:
        """Describe the whole index, as in the first record of a journal."""
        return snapshot(self._con)

    def _matches(self, text: str) -> list[tuple[str, str, str | None]]:
        # Everything that a text can mean: (node or connection, id, name).
        sql = " UNION ALL ".join(
            f"SELECT '{kind}', id, name FROM {TABLE_OF[record]} "
            "WHERE name = $text OR id = $text OR ($prefix AND starts_with(id, $text))"
            for kind, record in _FINDABLE.items()
        )
        rows = self._con.execute(sql, {"text": text, "prefix": len(text) >= 4}).fetchall()
        return sorted(((kind, identifier, name) for kind, identifier, name in rows), key=lambda match: match[1])

    def _execute(self, sql: str, parameters: Sequence[Any], fetch: str = "") -> Any:
        try:
            statement = parsed(self._con, sql)
            if statement is None or statement.type.name != "SELECT":
                raise InputError("This is not a single SELECT statement: only those are run here.")
            result = self._con.execute(statement, list(parameters))
            without_zones(d[1] for d in result.description or ())
            return getattr(result, fetch)() if fetch else result
        except (duckdb.ProgrammingError, duckdb.NotSupportedError, duckdb.DataError) as error:
            raise InputError(" ".join(str(error).split("\n\n")[0].split())) from None
        except duckdb.PermissionException as error:
            raise InputError(" ".join(str(error).split("\n\n")[0].split())) from None


def _in_order(rows: list[tuple[Any, ...]], names: Sequence[str], by: Sequence[str]) -> list[tuple[Any, ...]]:
    """Sort rows in the order written by some columns, NULL last."""
    places = [names.index(name) for name in by]
    return sorted(rows, key=lambda row: [(row[i] is None, row[i]) for i in places]) if places else rows


def _listed(matches: Sequence[tuple[str, str, str | None]]) -> str:
    shown = [f"{kind} {identifier}" + (f" ({name})" if name else "") for kind, identifier, name in matches]
    more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return ", ".join(shown[:_SHOWN] + more)


def _hint(text: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(text, names, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"[:-1]
    return f"; there are {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}" if names else ""
