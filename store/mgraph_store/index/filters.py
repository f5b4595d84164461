"""The small language of ``--where``: comparisons of columns with values, as SQL with bound parameters.

    test_accuracy > 0.9 and (tag = 'good' or name like 'run%') and not seed in (1, 2)

Columns are those of a relation, which may be shortened as far as they can be told apart (``test_acc``); in addition,
``tag`` and ``end`` stand for any of a list's texts, and ``note.KEY`` for a note's value. Operators: ``= != < <= > >=``,
``like`` (``%`` any text, ``_`` one character), ``in (…)``, ``is null``, ``is not null``, ``and`` or a comma, ``or``,
``not``. A text of one word needs no quotes. A comparison with a missing value, or NaN, is neither true nor false, so it
never selects; times are compared with texts like '2026-01-31 12:00'. Only these columns and values reach DuckDB.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from mgraph_store.errors import InputError
from mgraph_store.rows.relations import Field

_TOKEN = (
    r"\s*(?:(?P<number>(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<text>'(?:[^']|'')*'|\"[^\"]*\")"
    r"|(?P<word>[A-Za-z_][\w.-]*)"
    r"|(?P<symbol><=|>=|<>|!=|==|[=<>(),]))"
)
_COMPARE = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_KEYWORDS = {"and", "or", "not", "in", "like", "is", "null", "true", "false"}
_LISTS = {"tag": "tags", "end": "ends"}
_DEEPEST = 50
_LONGEST = 10_000


class Filter(NamedTuple):
    """SQL with ``?`` for its parameters, and the columns that it names."""

    sql: str
    parameters: tuple[Any, ...]
    columns: tuple[str, ...]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(expression: str, fields: Mapping[str, Field]) -> Filter:
    """Turn an expression into SQL.

    Raises
    ------
    InputError
        If it is not an expression of the language, names an unknown column, or compares a column with a value of
        another type; the message says where.
    """
    return _Parser(expression, fields).run()


def names_in(expression: str) -> list[str]:
    """List the columns that an expression names, known or not; ``InputError`` if it cannot be read at all."""
    found, among = [], False
    before = ""
    for token in _tokens(expression):
        word = token.text.lower()
        among = (among or (before == "in" and word == "(")) and word != ")"
        value = among or before == "like" or before in _COMPARE  # a text of one word
        if token.kind == "word" and word not in _KEYWORDS and not value:
            found.append(token.text)
        before = word if token.kind != "text" else ""
    return found


def order(keys: Sequence[str], fields: Mapping[str, Field]) -> str:
    """Turn sort keys, with ``-`` before descending ones, into SQL; missing values come last.

    Raises
    ------
    InputError
        If a key is not a column.
    """
    parts = []
    for key in keys:
        name = key.lstrip("-+")
        field = fields.get(name)
        if field is None:
            raise InputError(unknown(name, fields))
        parts.append(f"{_column(field)} {'DESC' if key.startswith('-') else 'ASC'} NULLS LAST")
    return ", ".join(parts)


def _column(field: Field) -> str:
    """Return a column as SQL; NaN counts as a missing value."""
    return f"nullif(\"{field.name}\"::DOUBLE, 'nan'::DOUBLE)" if field.type == "number" else f'"{field.name}"'


def _tokens(expression: str) -> list[_Token]:
    if len(expression) > _LONGEST:
        raise InputError(f"An expression may have at most {_LONGEST} characters, not {len(expression)}.")
    pattern = re.compile(_TOKEN)  # here, because listings without an expression need not wait for it
    tokens: list[_Token] = []
    at = 0
    while expression[at:].strip():
        match = pattern.match(expression, at)
        if match is None:
            rest = expression[at:].strip()
            raise InputError(f"{expression!r} is not an expression: {rest[:20]!r} has no meaning in it.")
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return tokens


def meant(name: str, fields: Iterable[str]) -> str:
    """Return the only column that begins with a shortened name, ``test_acc``; the name itself if there is none, or
    several."""
    names = list(fields)
    if name in names or name in _LISTS or "_" not in name:
        return name
    longer = [field for field in names if field.startswith(name)]
    return longer[0] if len(longer) == 1 else name


def unknown(name: str, fields: Iterable[str]) -> str:
    """Make the error for a missing column, which lists those that exist."""
    fields = list(dict.fromkeys(fields))
    close = difflib.get_close_matches(name, fields, n=3)
    hint = f"did you mean {' or '.join(close)}" if close else f"there are {', '.join(fields)}"
    return f"There is no column {name!r}; {hint}."


class _Parser:
    """Recursive descent: or, and, not, comparison."""

    def __init__(self, expression: str, fields: Mapping[str, Field]) -> None:
        self._expression, self._fields = expression, fields
        self._tokens, self._next, self._depth = _tokens(expression), 0, 0
        self._parameters: list[Any] = []
        self._columns: list[str] = []

    def run(self) -> Filter:
        sql = self._any_of()
        if self._next < len(self._tokens):
            self._fail("the end, 'and' or 'or'")
        return Filter(sql, tuple(self._parameters), tuple(dict.fromkeys(self._columns)))

    def _any_of(self) -> str:
        parts = [self._all_of()]
        while self._take("or"):
            parts.append(self._all_of())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def _all_of(self) -> str:
        parts = [self._one()]
        while self._take("and") or self._take(","):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def _one(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InputError(f"An expression may be nested at most {_DEEPEST} deep.")
        if self._take("not"):
            sql = f"(NOT {self._one()})"
        elif self._take("("):
            sql = self._any_of()
            self._expect(")")
        else:
            sql = self._comparison()
        self._depth -= 1
        return sql

    def _comparison(self) -> str:
        token = self._peek()
        if token is None or token.kind != "word" or token.text.lower() in _KEYWORDS:
            self._fail("a column")
        self._next += 1
        field, column = self._column(token.text)
        if self._take("is"):
            negated = self._take("not")
            self._expect("null")
            if field.type == "texts":
                return f"(len({column}) {'>' if negated else '='} 0)"
            return f"({column} IS {'NOT ' if negated else ''}NULL)"
        negated = self._take("not")
        if self._take("in"):
            self._expect("(")
            values = [self._value(field)]
            while self._take(","):
                values.append(self._value(field))
            self._expect(")")
            sql = self._among(field, column, values)
        elif self._take("like"):
            sql = self._like(field, column)
        else:
            if negated:
                self._fail("'in' or 'like'")
            return self._compare(field, column)
        return f"(NOT {sql})" if negated else sql

    def _column(self, name: str) -> tuple[Field, str]:
        name = meant(name, self._fields)
        key = name.removeprefix("note.")
        if key and key != name and "notes" in self._fields:
            self._columns.append("notes")
            self._parameters.append(key)
            return Field(name, "note", f"the note {key}"), "map_extract_value(notes, ?)"
        known = _LISTS.get(name, name)
        field = self._fields.get(known)
        if field is None or field.type == "notes":
            raise InputError(unknown(name, self._listed()))
        if field.type == "texts" and known == name:
            single = next(short for short, long in _LISTS.items() if long == name)
            raise InputError(f"{name} has several values; compare any of them: {single} = 'x'.")
        self._columns.append(known)
        return field, _column(field)

    def _listed(self) -> list[str]:
        short = {long: short for short, long in _LISTS.items()} | {"notes": "note.KEY"}
        return [short.get(name, name) for name in self._fields]

    def _compare(self, field: Field, column: str) -> str:
        token = self._peek()
        if token is None or token.text not in _COMPARE:
            self._fail(f"an operator ({', '.join(dict.fromkeys(_COMPARE.values()))}, like, in, is null)")
        self._next += 1
        operator = _COMPARE[token.text]
        if field.type in ("texts", "yes/no") and operator not in ("=", "!="):
            raise InputError(f"{field.name} can only be compared by = or !=, not by {token.text}.")
        value = self._value(field)
        if field.type == "texts":
            self._parameters.append(value)
            return f"({'NOT ' if operator == '!=' else ''}list_contains({column}, ?))"
        self._parameters.append(value)
        if field.type == "note" and not isinstance(value, str):
            return f"(TRY_CAST({column} AS DOUBLE) {operator} ?)"
        return f"({column} {operator} ?)"

    def _among(self, field: Field, column: str, values: list[Any]) -> str:
        if field.type == "texts":
            self._parameters.append(values)
            return f"list_has_any({column}, ?::VARCHAR[])"
        if field.type == "note":
            self._parameters.append([v if isinstance(v, str) else f"{v:g}" for v in values])
            return f"({column} IN (SELECT unnest(?::VARCHAR[])))"
        self._parameters += values
        return f"({column} IN ({', '.join('?' * len(values))}))"

    def _like(self, field: Field, column: str) -> str:
        if field.type not in ("text", "texts", "note"):
            raise InputError(f"{field.name} is a {field.type}; only texts can be compared by like.")
        self._parameters.append(self._value(field))
        if field.type == "texts":
            return f"(len(list_filter({column}, lambda x: x LIKE ?)) > 0)"
        return f"({column} LIKE ?)"

    def _value(self, field: Field) -> Any:
        token = self._peek()
        if token is None:
            self._fail("a value")
        self._next += 1
        value: Any
        if token.kind == "number":
            value = float(token.text)
        elif token.kind == "text":
            value = token.text[1:-1].replace("''", "'") if token.text[0] == "'" else token.text[1:-1]
        elif token.text.lower() in ("true", "false"):
            value = token.text.lower() == "true"
        elif token.kind == "word" and token.text.lower() not in _KEYWORDS and field.type in ("text", "texts", "note"):
            value = token.text
        else:
            self._next -= 1
            self._fail("a number or a 'text' in quotes")
        return _fitting(field, value)

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        token = self._peek()
        if token is None or token.kind == "text" or token.text.lower() != word:
            return False
        self._next += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            self._fail(f"{word!r}")

    def _fail(self, wanted: str) -> NoReturn:
        token = self._peek()
        where = "at its end" if token is None else f"at {self._expression[token.at :][:20]!r}"
        raise InputError(f"{self._expression!r} is not an expression: {where}, {wanted} is expected.")


def _fitting(field: Field, value: Any) -> Any:
    """Check a value's type against a column's, and turn texts into times."""
    if field.type == "time":
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise InputError(f"{field.name} is a time; compare it with a text like '2026-01-31 12:00'.") from None
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    kinds: dict[str, type | tuple[type, ...]] = {
        "number": float,
        "text": str,
        "texts": str,
        "yes/no": bool,
        "note": (str, float),
    }
    if not isinstance(value, kinds[field.type]):
        examples = {"number": "0.5", "text": "'a'", "texts": "'a'", "yes/no": "true", "note": "'a' or 0.5"}
        wanted = examples[field.type]
        raise InputError(f"{field.name} is a {field.type}; compare it with one, like {wanted}, not {value!r}.")
    return value
