"""Running a user's SQL on the index without risk.

One statement, of a kind that only reads according to DuckDB's own parser, on a read-only connection with access to
files, extensions, Python variables and settings off. It runs in a separate process, with little in its environment and
without the right to write a file: DuckDB does not count all memory against its limit, and some functions do not notice
an interruption (an edit distance of long texts ran on for a minute), but a process can be bounded and ended. That
matters to other processes too, because no writer gets in while it reads.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import duckdb

from mgraph_store.errors import CorruptError, InputError, MGraphError, StoreError
from mgraph_store.rows.metrics import RECORDED, names_in
from mgraph_store.rows.relations import view_statements

READING_KINDS = ("SELECT", "EXPLAIN")
"""Kinds of statements that are run: SELECT includes FROM, WITH, VALUES, DESCRIBE, SHOW and SUMMARIZE."""

LIMIT_SECONDS = 10.0
LIMIT_ROWS = 1_000_000
LIMIT_MEMORY = 1 << 30  # bytes, for DuckDB; the process may have half as much again

_NO_EXTENSIONS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}
_BATCH = 10_000
_GRACE = 2.0  # seconds beyond the limit, to start, and to stop when interrupted
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")
_MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from mgraph_store.index.sql import main; main()"


class Answer(NamedTuple):
    """What a query returned: names and DuckDB types of the columns, and the rows in order."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def check_statement(sql: str) -> duckdb.Statement:
    """Return the one statement in a text, which must only read, as DuckDB parsed it.

    Raises
    ------
    InputError
        If it is not SQL, is not exactly one statement, or does more than read.
    """
    try:
        sql.encode()
        statements = duckdb.extract_statements(sql)
        kinds = [s.type.name for s in statements]
    except UnicodeEncodeError:
        raise InputError("The SQL is not valid Unicode.") from None
    except ValueError:  # a kind of statement that the Python module does not know
        kinds = ["UNKNOWN"]
    except duckdb.Error as error:
        raise InputError(_sentence(error)) from None
    if not kinds:
        raise InputError("There is no SQL statement: give one, such as SELECT count(*) FROM nodes.")
    if len(kinds) > 1:
        raise InputError(f"There are {len(kinds)} SQL statements: give one at a time.")
    if kinds[0] not in READING_KINDS:
        what = "a statement of several steps" if kinds[0] == "MULTI" else f"a statement of kind {kinds[0]}"
        raise InputError(f"This is {what}, which may do more than read: only SELECT and the like are run.")
    return statements[0]


def without_zones(types: Iterable[Any]) -> None:
    """Refuse times with a zone: their meaning depends on the session, and not every DuckDB can pass them to Python.

    Raises
    ------
    InputError
        If one of a query's column types contains such times.
    """
    if any("TIMESTAMP WITH TIME ZONE" in str(kind) for kind in types):
        raise InputError("The query returns times with a zone: cast them, `…::TIMESTAMP`.")


def run_guarded(
    index: Path,
    sql: str,
    parameters: Sequence[Any] = (),
    *,
    max_seconds: float = LIMIT_SECONDS,
    limit_rows: int = LIMIT_ROWS,
    limit_memory: int = LIMIT_MEMORY,
) -> Answer:
    """Run a user's SQL on the file ``index``; the caller holds the graph's lock.

    ``parameters`` (texts, numbers, None, lists of them) replace ``?``. Times are UTC without a zone.

    Raises
    ------
    InputError
        If the SQL is wrong, does more than read, or exceeds a limit.
    StoreError
        If the index cannot be read.
    """
    if not (math.isfinite(max_seconds) and max_seconds > 0):
        raise InputError(f"The time limit must be a number of seconds > 0, not {max_seconds}.")
    task = {
        "index": str(index),
        "sql": sql,
        "parameters": list(parameters),
        "seconds": max_seconds,
        "rows": limit_rows,
        "memory": limit_memory,
    }
    try:
        document = json.dumps(task).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise InputError(f"The parameters of a query are texts, numbers, None and lists of them: {error}.") from None
    import subprocess

    with subprocess.Popen(
        [sys.executable, "-P", "-c", _MAIN, str(Path(__file__).parents[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for us
    ) as process:
        try:
            # The process interrupts itself; this is for what cannot be interrupted.
            out, err = process.communicate(document, timeout=max_seconds + _GRACE)
        except subprocess.TimeoutExpired:
            raise _too_long(max_seconds) from None
        finally:
            process.kill()
    return _restore(out, err, process.returncode, max_seconds)


def _environment() -> dict[str, str]:
    given = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    if "PYTHONPATH" in given:  # an empty part of it would mean the working directory
        given["PYTHONPATH"] = os.pathsep.join(filter(None, given["PYTHONPATH"].split(os.pathsep)))
    return given


def main() -> None:
    """Run the task given on standard input, and write its answer or error to standard output as JSON."""
    task = json.load(sys.stdin)
    try:
        result: dict[str, Any] = _run(**task)
    except (MGraphError, MemoryError) as error:
        text = str(error) if isinstance(error, MGraphError) else _no_memory(task["memory"])
        result = {"error": text, "corrupt": isinstance(error, CorruptError)}
    try:
        text = json.dumps(result)
    except MemoryError:
        text = json.dumps({"error": _no_memory(task["memory"]), "corrupt": False})
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)  # without waiting for DuckDB to tidy up


def _run(index: str, sql: str, parameters: list[Any], seconds: float, rows: int, memory: int) -> dict[str, Any]:
    try:
        con = open_guarded(Path(index), memory)
    except duckdb.Error as error:
        raise CorruptError(f"{index} cannot be read ({_sentence(error).rstrip('.')}).") from None
    _confine(seconds, memory)
    statement = check_statement(sql)  # here, because a deeply nested text keeps the parser busy for a long time
    timer = threading.Timer(seconds, con.interrupt)
    timer.daemon = True
    timer.start()
    deadline = time.monotonic() + seconds
    found: list[list[Any]] = []
    try:
        con.execute(statement, parameters)
        description = [(d[0], str(d[1])) for d in con.description or ()]
        without_zones(kind for _, kind in description)
        convert = [None if kind in _NATIVE else _plain for _, kind in description]
        while batch := con.fetchmany(_BATCH):
            found += ([f(v) if f else v for f, v in zip(convert, row, strict=True)] for row in batch)
            if len(found) > rows:
                raise InputError(f"The answer has more than {rows} rows: aggregate, or add a LIMIT.")
            if time.monotonic() > deadline:
                raise _too_long(seconds)
    except duckdb.InterruptException:
        raise _too_long(seconds) from None
    except duckdb.OutOfMemoryException:
        raise MemoryError from None
    except duckdb.Error as error:
        raise InputError(_sentence(error)) from None
    return {"columns": [name for name, _ in description], "types": [kind for _, kind in description], "rows": found}


def open_guarded(index: Path, memory: int = LIMIT_MEMORY) -> duckdb.DuckDBPyConnection:
    """Open an index so that a query can only read it; settings are fixed, in an order that DuckDB accepts."""
    con = duckdb.connect(str(index), read_only=True, config={"threads": "1", **_NO_EXTENSIONS})
    for setting in (
        f"memory_limit = '{memory}B'",
        "temp_directory = ''",
        "enable_progress_bar = false",  # it would be drawn into the answer
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        con.execute(f"SET {setting}")
    recorded = " UNION ALL ".join(RECORDED.values()).format(db="main")
    metrics = names_in(row[0] for row in con.execute(recorded).fetchall())
    for statement in view_statements(index.stem, metrics):
        con.execute(statement)
    return con


def _confine(seconds: float, memory: int) -> None:
    """Irrevocably give up what a query does not need: writing files, a lot of memory, a lot of time."""
    bounds = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: memory + memory // 2 + (256 << 20),
        resource.RLIMIT_CPU: math.ceil(seconds + _GRACE),
    }
    for what, bound in bounds.items():
        _, hard = resource.getrlimit(what)
        allowed = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (allowed, allowed))


def _restore(out: bytes, err: bytes, code: int, seconds: float) -> Answer:
    try:
        answer = json.loads(out)
    except ValueError:
        if code == -24:  # SIGXCPU
            raise _too_long(seconds) from None
        lines = err.decode(errors="replace").strip().splitlines()
        raise StoreError(f"The query ended the process that ran it ({lines[-1] if lines else f'{code=}'}).") from None
    if "error" in answer:
        raise (CorruptError if answer["corrupt"] else InputError)(answer["error"])
    rows = [tuple(_value(v) if isinstance(v, (list, dict)) else v for v in row) for row in answer["rows"]]
    return Answer(tuple(answer["columns"]), tuple(answer["types"]), rows)


# Between the processes, values are JSON. What JSON lacks is a pair [tag, text], a list ["list", …].
_UNTAG: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time_of_day.fromisoformat,
    "timedelta": lambda seconds: timedelta(seconds=seconds),
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": bytes.fromhex,
    "list": lambda values: [_value(v) for v in values],
    "dict": lambda pairs: {_value(k): _value(v) for k, v in pairs},
}
_NATIVE = {"VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for kind, tag, write in _TAG:
        if isinstance(value, kind):
            return [tag, write(value)]
    return str(value)


_TAG: tuple[tuple[type | tuple[type, ...], str, Callable[[Any], Any]], ...] = (
    (datetime, "datetime", datetime.isoformat),
    (date, "date", date.isoformat),
    (time_of_day, "time", time_of_day.isoformat),
    (timedelta, "timedelta", timedelta.total_seconds),
    (Decimal, "decimal", str),
    (UUID, "uuid", str),
    ((bytes, bytearray, memoryview), "bytes", lambda v: bytes(v).hex()),
    ((list, tuple), "list", lambda v: [_plain(x) for x in v]),
    (dict, "dict", lambda v: [[_plain(k), _plain(x)] for k, x in v.items()]),
)


def _value(value: Any) -> Any:
    return _UNTAG[value[0]](value[1]) if isinstance(value, list) else value


def _too_long(seconds: float) -> InputError:
    return InputError(f"The query took longer than {seconds:g} s and was stopped: make it cheaper, or allow more time.")


def _no_memory(memory: int) -> str:
    return f"The query needs more than {memory >> 20} MiB of memory and was stopped: make it cheaper."


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split("\n\n")[0].split())
