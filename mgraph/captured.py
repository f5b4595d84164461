"""Capture the source of functions and classes that no other process can import, with all they need (torch-free).

A notebook's ``def net(): …`` lives in ``__main__``. The names it refers to are found in its source and in the module
where it was defined: modules and importable names become imports, plain values become assignments, and functions and
classes of the same module are captured with it. The text is kept below the graph, as ``code/NAME-DIGEST.py``, and from
then on is a file like any other of the user's: hashed, trusted, and read back in every process. What cannot be written
down is refused.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import importlib.util
import inspect
import linecache
import os
import symtable
import sys
import tempfile
import textwrap
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from mgraph.errors import InputError
from mgraph.sources import digest
from mgraph.specs import Spec

FOLDER = "code"
_pending: dict[Path, bytes] = {}


def spec_of(function: Any, graph: Path) -> str:
    """Return the spec by which a graph names a function, a class or a ``functools.partial`` of one.

    This is ``package.module:name`` if every process can import it. Otherwise its source is captured, to be written by
    :func:`write` once the graph exists. Raises InputError, saying why, for something that has no name or refers to what
    cannot be written down.
    """
    params: dict[str, Any] = {}
    while isinstance(function, partial):
        if function.args:
            raise InputError("Of a functools.partial only keywords can be recorded; give arguments by name.")
        params = function.keywords | params
        function = function.func
    if not isinstance(function, types.FunctionType | type):
        raise InputError(f"A {type(function).__name__} cannot be named; give a function or a class.")
    name = function.__qualname__
    if name == "<lambda>":
        raise InputError("A lambda has no name to record; write it as a function: def net(): …")
    _check_params(params, name)
    if _is_importable(function):
        return str(Spec(f"{function.__module__}:{name}", params))
    text = capture(function)
    file = graph / FOLDER / f"{function.__name__}-{digest(text.encode())[:8]}.py"
    _pending[_place(file)] = text.encode()
    return str(Spec(f"{file}:{function.__name__}", params))


def pending(path: Path) -> bytes | None:
    """Return a captured source that is not written yet; None if there is none with that path."""
    return _pending.get(_place(path))


def write(graph: Path) -> None:
    """Write the sources captured for a graph, whose directory exists now, each completely or not at all.

    Raises InputError if the directory cannot be written.
    """
    folder = _place(graph / FOLDER)
    for path in [p for p in _pending if p.parent == folder]:
        try:
            folder.mkdir(exist_ok=True)
            _write_whole(path, _pending[path])
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}; the captured source belongs there."
            ) from None
        del _pending[path]


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".py")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def capture(function: types.FunctionType | type) -> str:
    """Return the text of a module that defines a function or class with everything it refers to.

    Raises InputError if it has no source, is nested in another function and uses its variables, or refers to a value
    that is neither importable nor plain.
    """
    found = _Capture(function)
    found.add(function.__name__, function)
    return found.text()


class _Capture:
    """Collects imports, assignments and definitions, each before whatever needs it."""

    def __init__(self, wanted: types.FunctionType | type) -> None:
        self._wanted, self._home = wanted.__qualname__, wanted.__module__
        self._imports: dict[str, str] = {}
        self._body: dict[str, str] = {}
        self._future = False  # annotations are not evaluated when it runs

    def text(self) -> str:
        head = f'"""{self._wanted}, captured with what it refers to."""'
        if self._future:
            head += "\n\nfrom __future__ import annotations"
        imports = "\n".join(self._imports[name] for name in sorted(self._imports))
        return "\n\n".join(part for part in (head, imports, *(t for t in self._body.values() if t)) if part) + "\n"

    def add(self, name: str, value: Any) -> None:
        """Give a name the meaning that it has in the module of the captured object."""
        if name in self._imports or name in self._body:
            return
        if isinstance(value, types.ModuleType):
            whole = value.__name__ == name
            self._imports[name] = f"import {name}" if whole else f"import {value.__name__} as {name}"
        elif (
            isinstance(value, types.FunctionType | type)
            and value.__module__ == self._home
            and not _is_importable(value)
        ):
            self._define(name, value)
        elif (named := _importable_name(value)) is not None:
            module, attribute = named
            self._imports[name] = f"from {module} import {attribute}" + ("" if attribute == name else f" as {name}")
        elif _is_plain(value):
            self._body[name] = f"{name} = {value!r}"
        else:
            raise InputError(
                f"{self._wanted} uses {name}, a {type(value).__name__} that cannot be written down with it; make it "
                f"inside the function, give it as a parameter, or put both into a file."
            )

    def _is_neighbour(self, value: Any) -> TypeGuard[types.FunctionType | type]:
        """Return whether something was defined in the same module, which cannot be imported."""
        ours = isinstance(value, types.FunctionType | type) and value.__module__ == self._home
        return ours and not _is_importable(value)

    def _define(self, name: str, value: types.FunctionType | type) -> None:
        source = _source(value)
        if isinstance(value, types.FunctionType) and value.__code__.co_freevars:
            raise InputError(
                f"{value.__qualname__} uses {', '.join(value.__code__.co_freevars)} of the function that it was made "
                "in; give these as parameters, or define it at the top."
            )
        self._body[name] = ""  # so that recursion on self-references ends
        known = _namespace(value)
        bodies = [value] if isinstance(value, types.FunctionType) else list(_functions(value))
        later = any(f.__code__.co_flags & __future__.annotations.compiler_flag for f in bodies)
        self._future |= later
        for free in sorted(_free_names(source)):
            if free in known and free != name:
                self.add(free, known[free])
            elif free != name and not later and not hasattr(builtins, free):
                raise InputError(f"{value.__qualname__} uses {free}, which is defined nowhere.")
        del self._body[name]
        self._body[name] = source if value.__name__ == name else f"{source}\n{name} = {value.__name__}"


def _check_params(params: dict[str, Any], name: str) -> None:
    for key, value in params.items():
        plain = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, bool | int | float | str) for part in plain):
            raise InputError(f"{key} of {name} is a {type(value).__name__}; what is recorded is a number or a text.")


def _place(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (links are followed neither here nor when it is read)


def _is_importable(function: Any) -> bool:
    """Return whether another process finds this very object by its module and name."""
    module = getattr(function, "__module__", None)
    if not isinstance(module, str) or module == "__main__" or "." in function.__qualname__:
        return False
    loaded = sys.modules.get(module)
    if getattr(loaded, function.__name__, None) is not function:
        return False
    try:
        return importlib.util.find_spec(module) is not None and not module.startswith("_mgraph_code_")
    except (ImportError, ValueError):
        return False


def _importable_name(value: Any) -> tuple[str, str] | None:
    """Return module and name of something that can be imported; None if it cannot."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or not name.isidentifier():
        return None
    home = sys.modules.get(module)  # the module that made a value is loaded
    return (module, name) if getattr(home, name, None) is value else None


def _is_plain(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


def _namespace(value: types.FunctionType | type) -> dict[str, Any]:
    if isinstance(value, types.FunctionType):
        return value.__globals__
    for function in _functions(value):  # the module may be none that is loaded, as in a notebook of another kind
        return function.__globals__
    home = sys.modules.get(value.__module__)
    return {} if home is None else vars(home)


def _functions(cls: type) -> Iterator[types.FunctionType]:
    for value in vars(cls).values():
        bare = inspect.unwrap(value.__func__ if isinstance(value, classmethod | staticmethod) else value)
        if isinstance(bare, types.FunctionType) and bare.__module__ == cls.__module__:
            yield bare


def _source(value: types.FunctionType | type) -> str:
    """Return a definition's source, including that of a notebook's class, which :mod:`inspect` finds only from 3.13."""
    try:
        if isinstance(value, type):
            return _source_of_class(value)
        return textwrap.dedent(inspect.getsource(value)).rstrip()
    except (OSError, TypeError):
        raise InputError(
            f"The source of {value.__qualname__} cannot be found, as of what was typed at a prompt; put it into a "
            f"file, and name it as 'file.py:{value.__name__}'."
        ) from None


def _source_of_class(cls: type) -> str:
    method = next(_functions(cls), None)
    if method is None:
        return textwrap.dedent(inspect.getsource(cls)).rstrip()
    lines = linecache.getlines(method.__code__.co_filename)
    text = "".join(lines)
    for node in ast.walk(ast.parse(text)):
        inside = isinstance(node, ast.ClassDef) and node.lineno <= method.__code__.co_firstlineno <= (
            node.end_lineno or 0
        )
        if inside and isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip()
    raise OSError(cls.__qualname__)


def _free_names(source: str) -> set[str]:
    """Return the global names that a definition refers to, in its body, defaults, decorators, bases and annotations."""
    table = symtable.symtable(source, "captured", "exec")
    found = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    tables = list(table.get_children())
    while tables:
        inner = tables.pop()
        found |= {s.get_name() for s in inner.get_symbols() if s.is_global() and s.is_referenced()}
        tables += inner.get_children()
    return found
