"""Factories: a user's own Python function that makes a network or the data, named in a spec.

``package.module:factory`` is imported as Python would; ``file.py:factory`` is read from a file, which may
import its neighbours. A stored spec gives the file relative to the graph directory. Nothing here decides
whether code may run: that is :mod:`mgraph.trust`, asked before :func:`load_factory`. The hash covers the named
file, not what it imports.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mgraph.errors import InputError, MGraphError, NotFoundError, UntrustedError
from mgraph.specs import Spec, suggestion, unknown_parameter

# Data sets named by a path, and the parameter that is one.
_PATH_PREFIXES = ("npz", "imagefolder")
_PATH_PARAM = "root"


@dataclass(frozen=True)
class FactorySource:
    """Where a factory comes from: a file (path relative to the graph directory) or a module (dotted name).

    ``hash`` is the BLAKE2b-128 of the source file's bytes; of the module's name where it has no such file.
    """

    kind: Literal["file", "module"]
    path: str
    attribute: str
    hash: str


def source_of(spec: Spec, *, typed_in: Path, base: Path) -> tuple[Spec, FactorySource | None]:
    """Rewrite a spec as a user typed it in directory ``typed_in`` to the form stored in the graph ``base``.

    Paths of factory files become relative to ``base``, and so do relative paths of data; absolute paths of
    data stay. The second value is None unless the spec names a factory. Nothing is executed. Raises
    NotFoundError if the file or module does not exist.
    """
    if spec.is_factory:
        target, attribute = _split(spec)
        if _is_file(target):
            moved = _relocate(target, typed_in, base, keep_absolute=False)
            spec = Spec(f"{moved}:{attribute}", spec.params)
        return spec, find_source(spec, base=base)
    params = dict(spec.params)
    if isinstance(root := params.get(_PATH_PARAM), str):
        params[_PATH_PARAM] = _relocate(root, typed_in, base)
    name = spec.name
    if spec.prefix in _PATH_PREFIXES and spec.argument:
        name = f"{spec.prefix}:{_relocate(spec.argument, typed_in, base)}"
    return Spec(name, params), None


def locate(path: str, base: Path) -> Path:
    """Find a stored path: relative to ``base``, which need not exist yet; ``~`` is the user's home."""
    return Path(os.path.normpath(base.resolve() / Path(path).expanduser()))


def find_source(spec: Spec, *, base: Path) -> FactorySource:
    """Say what a factory spec names now, with the file's present hash; nothing is executed.

    Paths are relative to ``base``. Raises NotFoundError if the file or module does not exist.
    """
    target, attribute = _split(spec)
    if _is_file(target):
        return FactorySource("file", target, attribute, _hash(_read(locate(target, base))))
    origin = _module_file(target)
    return FactorySource("module", target, attribute, _hash(origin.read_bytes() if origin else target.encode()))


def load_factory(spec: Spec, *, base: Path, expected: str | None = None) -> Callable[..., Any]:
    """Import what a factory spec names; **this runs the user's code**.

    With ``expected``, a hash, UntrustedError is raised if the code is not the one that was trusted. Raises
    NotFoundError if there is no such file, module or attribute, InputError if importing fails.
    """
    target, attribute = _split(spec)
    if _is_file(target):
        module: types.ModuleType = _load_file(locate(target, base), expected)
    else:
        found = find_source(spec, base=base)
        if expected is not None and found.hash != expected:
            raise UntrustedError(f"The module {target} has changed; read it, then add --trust to the command.")
        try:
            module = importlib.import_module(target)
        except Exception as error:
            raise InputError(f"Module {target} cannot be imported: {_say(error)}.") from error
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise NotFoundError(f"{target} has no function {attribute!r};{suggestion(attribute, names)} check the name.")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(f"{attribute!r} in {target} is a {type(factory).__name__}; a factory must be a function.")
    return factory if not _is_file(target) else _in_directory(factory, locate(target, base).parent)


def call_factory(factory: Callable[..., Any], spec: Spec, offered: Mapping[str, Any] | None = None) -> Any:
    """Call a factory with the spec's parameters and those ``offered`` that its signature names.

    Raises InputError for a parameter that it does not have, for one that it misses, and if it raises.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some built-in callables have none
        return _called(factory, spec, dict(spec.params))
    positional, keyword = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_KEYWORD
    variable = (positional, keyword, inspect.Parameter.VAR_POSITIONAL)
    named = [p.name for p in signature.parameters.values() if p.kind not in variable]
    if not any(p.kind is keyword for p in signature.parameters.values()):
        for key in spec.params:
            if key not in named:
                raise unknown_parameter(key, spec.name, named)
    arguments = {k: v for k, v in (offered or {}).items() if k in named and v is not None} | dict(spec.params)
    for p in signature.parameters.values():
        if p.kind in variable[1:]:
            continue
        if p.default is inspect.Parameter.empty and p.name not in arguments:
            raise InputError(f"{spec.name} needs a value for {p.name}; write {spec.name}?{p.name}=….")
    return _called(factory, spec, arguments)


def _called(factory: Callable[..., Any], spec: Spec, arguments: dict[str, Any]) -> Any:
    try:
        return factory(**arguments)
    except MGraphError:
        raise
    except Exception as error:
        raise InputError(f"The factory {spec.name} failed: {_say(error)}.") from error


def _split(spec: Spec) -> tuple[str, str]:
    target, _, attribute = spec.name.rpartition(":")
    if not spec.is_factory or not target or not attribute.isidentifier():
        raise InputError(f"{spec.name!r} names no factory; write file.py:name or package.module:name.")
    return target, attribute


def _is_file(target: str) -> bool:
    return target.endswith(".py") or "/" in target or os.sep in target


def _relocate(path: str, typed_in: Path, base: Path, *, keep_absolute: bool = True) -> str:
    given = Path(path).expanduser()
    if given.is_absolute() and keep_absolute:
        return given.as_posix()
    return Path(os.path.relpath((typed_in / given).resolve(), base.resolve())).as_posix()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"The factory file {path} does not exist; check the path.") from None
    except OSError as error:
        raise InputError(f"The factory file {path} cannot be read: {error.strerror}.") from None


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _module_file(name: str) -> Path | None:
    """Find a module's source as the import system would, but without running its parents."""
    locations, origin = None, None
    parts = name.split(".")
    for i in range(len(parts)):
        full = ".".join(parts[: i + 1])
        # importlib.util.find_spec would import the parents
        finders = [f for f in sys.meta_path if hasattr(f, "find_spec")]
        found = next((s for f in finders if (s := f.find_spec(full, locations))), None)
        if found is None:
            raise NotFoundError(
                f"Module {name} cannot be found; install it, or name its file as path/to/file.py:factory."
            )
        locations, origin = found.submodule_search_locations, found.origin
        if locations is None and i + 1 < len(parts):
            raise NotFoundError(f"Module {name} cannot be found: {full} is no package.")
    path = Path(origin) if origin else None
    return path if path and path.is_file() else None


def _load_file(path: Path, expected: str | None) -> types.ModuleType:
    content = _read(path)
    digest = _hash(content)
    if expected is not None and digest != expected:
        raise UntrustedError(f"The file {path} has changed; read it, then add --trust to the command.")
    # The name tells files of the same name, and versions of the same file, apart.
    where = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=4).hexdigest()
    name = f"_mgraph_factory_{digest[:16]}_{where}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise InputError(f"The factory file {path} cannot be imported: {_say(error)}.") from error
    return module


def _in_directory(factory: Callable[..., Any], directory: Path) -> Callable[..., Any]:
    """Let a factory import its neighbours while it runs, too; its signature stays visible."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with _importable(directory):
            return factory(*args, **kwargs)

    call.__wrapped__ = factory  # type: ignore[attr-defined]
    return call


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Put a directory first on the import path; forget its modules afterwards.

    So two factory files may each have a neighbour called ``layers.py``.
    """
    entry = str(directory.resolve())
    before = set(sys.modules)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(entry)
        for name in set(sys.modules) - before:
            if _lies_in(sys.modules[name], name.partition(".")[0], Path(entry)):
                del sys.modules[name]


def _lies_in(module: types.ModuleType, top: str, directory: Path) -> bool:
    """Tell whether a module was found in the directory itself (not in an environment below it)."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    for place in filter(None, places):
        path = Path(place).resolve()
        if path.is_relative_to(directory) and path.relative_to(directory).parts[:1] in ((top,), (f"{top}.py",)):
            return True
    return False


def _say(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}".rstrip(".: ") if text else type(error).__name__
