"""Factories: a user's own Python functions that make a network or the data, named in a spec.

``package.module:factory`` is found as Python would find it, with the working directory last; ``file.py:factory`` is a
file, which a stored spec gives relative to the graph directory. The spec alone decides whether it names code
(:func:`names_code`), wherever it occurs. :func:`load_factory` is the only way to run the code, and asks for consent
(:mod:`mgraph.trust`) with the hash of what it has read; :mod:`mgraph.sources` says what that hash covers.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mgraph import captured, usercode
from mgraph.builtin import BASE, CONFIGS, FILES, PRETRAINED, ROOT
from mgraph.errors import InputError, MGraphError, NotFoundError
from mgraph.sources import Code, SourceFile, find, gather, is_ours, lies_installed
from mgraph.specs import PREFIXES, Spec, suggestion, unknown_parameter
from mgraph.trust import Consent


@dataclass(frozen=True)
class FactorySource:
    """Where a factory comes from: a file (path relative to the graph directory) or a module (dotted name).

    ``hash`` identifies the code: the BLAKE2b-128 of the source file's bytes if it imports no neighbour, of the module's
    name if there is no such file, else of all its files. ``files`` are their digests, with ``main`` first.
    """

    kind: Literal["file", "module"]
    path: str
    attribute: str
    hash: str
    files: Mapping[str, str] = field(default_factory=dict)


def names_code(text: str | Spec) -> bool:
    """Return whether a spec, metric or loss names the user's code; a text that is not a spec names none."""
    try:
        return Spec.parse(text).is_factory
    except InputError:
        return False


def source_of(spec: Spec, *, typed_in: Path, base: Path) -> tuple[Spec, FactorySource | None]:
    """Rewrite a spec as a user typed it in directory ``typed_in`` to the form stored in the graph ``base``.

    Paths of factory files become relative to ``base``, and so do relative paths of data; absolute paths of data stay.
    The second value is None unless the spec names a factory. Nothing is executed. Raises NotFoundError if the file or
    module does not exist.
    """
    if spec.is_factory:
        target, attribute = _split(spec)
        if _is_file(target):
            moved = _relocate(target, typed_in, base, keep_absolute=False)
            spec = Spec(f"{moved}:{attribute}", spec.params)
        return spec, find_source(spec, base=base)
    params = dict(spec.params)
    for key in (ROOT, BASE) if spec.prefix in PRETRAINED else (ROOT,):
        if isinstance(root := params.get(key), str):
            params[key] = _relocate(root, typed_in, base)
    name = spec.name
    if (path := path_in(spec, typed_in)) is not None:
        name = _with_argument(spec.prefix, _relocate(path, typed_in, base))
    return Spec(name, params), None


def path_in(spec: Spec, base: Path | None = None) -> str | None:
    """Return the path that the argument of a built-in is; None if it is a name, or there is none.

    ``base`` is where a path would be, see :func:`names_file`.
    """
    always = spec.prefix in FILES or spec.prefix in PRETRAINED
    is_path = always or (spec.prefix in CONFIGS and names_file(spec.argument, base))
    return spec.argument if spec.argument and is_path else None


def with_path(spec: Spec, path: str) -> Spec:
    """Replace the path in the argument of a built-in."""
    return Spec(_with_argument(spec.prefix, path), spec.params)


def _with_argument(prefix: str, path: str) -> str:
    plain = prefix not in CONFIGS - PRETRAINED or path.startswith((".", "/"))
    return f"{prefix}:{path if plain else f'./{path}'}"


def names_file(argument: str, base: Path | None = None) -> bool:
    """Return whether an argument is a path rather than a name: it begins like one, ends in ``.json``, or has a ``/``.

    With ``base``, ``owner/name`` is a path only if it exists there, because names on Hugging Face's hub look like this.
    """
    if argument.startswith((".", "/", "~")) or argument.endswith(".json"):
        return True
    return "/" in argument and (base is None or argument.count("/") > 1 or locate(argument, base).exists())


def locate(path: str, base: Path) -> Path:
    """Find a stored path: relative to ``base``, which need not exist yet; ``~`` is the user's home."""
    return Path(os.path.normpath(base.resolve() / Path(path).expanduser()))


def find_source(spec: Spec, *, base: Path) -> FactorySource:
    """Return what a factory spec names now, with the current hash of its code; nothing is executed.

    Paths are relative to ``base``. Raises NotFoundError if the file or module does not exist.
    """
    target, attribute = _split(spec)
    code = _read_code(target, base)
    return FactorySource("file" if _is_file(target) else "module", target, attribute, code.hash, code.digests)


def load_factory(spec: Spec, *, base: Path, consent: Consent) -> Callable[..., Any]:
    """Import what a factory spec names, if ``consent`` allows it; **this runs the user's code**.

    Exactly the code for which consent was asked is run: the files are read once. Raises UntrustedError without consent,
    NotFoundError if there is no such file, module or attribute, InputError if importing fails.
    """
    target, attribute = _split(spec)
    code = _read_code(target, base)
    consent.ask(str(spec), code.hash, code.digests)
    try:
        module = usercode.run(code)
    except (Exception, SystemExit) as error:
        what = f"The factory file {code.main.path}" if _is_file(target) else f"Module {target}"
        raise InputError(f"{what} cannot be imported: {_say(error)}.") from error
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise NotFoundError(f"{target} has no function {attribute!r};{suggestion(attribute, names)} check the name.")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(f"{attribute!r} in {target} is a {type(factory).__name__}; a factory must be a function.")
    made: Callable[..., Any] = factory
    return made


def call_factory(factory: Callable[..., Any], spec: Spec, offered: Mapping[str, Any] | None = None) -> Any:
    """Call a factory with the spec's parameters and those ``offered`` that its signature names.

    Raises InputError for an unknown parameter, for a missing one, and if the factory itself raises.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some built-in callables have no signature
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
        raise InputError(
            f"{spec.name!r} does not name a factory;{_meant(spec.prefix)} write file.py:name or package.module:name."
        )
    return target, attribute


def _meant(prefix: str) -> str:
    """Suggest a built-in, if something similar stands before a colon."""
    known = suggestion(prefix, PREFIXES)
    return known.replace("'?", ":…'?")


def _is_file(target: str) -> bool:
    return target.endswith(".py") or "/" in target or os.sep in target


def _relocate(path: str, typed_in: Path, base: Path, *, keep_absolute: bool = True) -> str:
    given = Path(path).expanduser()
    if given.is_absolute() and keep_absolute:
        return given.as_posix()
    return Path(os.path.relpath((typed_in / given).resolve(), base.resolve())).as_posix()


def _read_code(target: str, base: Path) -> Code:
    return _file_code(locate(target, base)) if _is_file(target) else _module_code(target)


def _file_code(path: Path) -> Code:
    """Read a factory file and its neighbours: those in its directory, then in the current one if that is above it."""
    directory, here = path.parent.resolve(), Path.cwd().resolve()
    above = [here] if directory != here and directory.is_relative_to(here) else []
    name = path.stem if path.stem.isidentifier() else "main"
    return gather([directory, *above], name, SourceFile(path, _read(path), path.name == "__init__.py"))


def _read(path: Path) -> bytes:
    if (held := captured.pending(path)) is not None:
        return held
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"The factory file {path} is not a regular file; name a file of Python source.")
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"The factory file {path} does not exist; check the path.") from None
    except OSError as error:
        raise InputError(f"The factory file {path} cannot be read: {error.strerror}.") from None


def _module_code(name: str) -> Code:
    """Find a module as the import system would, then in the working directory, without running its parents."""
    parts = name.split(".")
    found = _on_the_path(name)
    if found is None:
        here = Path.cwd()
        if (main := find([here], name)) is None:
            raise NotFoundError(
                f"Module {name} cannot be found;{_meant(name)} install it, or name its file as path/to/file.py:factory."
            )
        return gather([here], name, main)
    path, is_package = found
    if path is None:
        return Code((), name, {name: SourceFile(None, name.encode(), False)}, installed=True)
    root = path.parents[len(parts) - (0 if is_package else 1)]
    main = find([root], name)
    if main is None or main.path != path:  # found by a custom importer
        return Code((), name, {name: SourceFile(path, _read(path), is_package)}, installed=True)
    return gather([root], name, main, installed=lies_installed(path) or is_ours(parts[0]))


def _on_the_path(name: str) -> tuple[Path | None, bool] | None:
    """Return a module's file (None: it has none), and whether it is a package; None if it is not on the path."""
    locations, origin = None, None
    parts = name.split(".")
    for i in range(len(parts)):
        full = ".".join(parts[: i + 1])
        # importlib.util.find_spec would import the parents
        finders = [f for f in sys.meta_path if hasattr(f, "find_spec")]
        found = next((s for f in finders if (s := f.find_spec(full, locations))), None)
        if found is None:
            return None
        locations, origin = found.submodule_search_locations, found.origin
        if locations is None and i + 1 < len(parts):
            raise NotFoundError(f"Module {name} cannot be found: {full} is not a package.")
    path = Path(origin) if origin else None
    return (path if path is not None and path.is_file() else None), locations is not None


def _say(error: BaseException) -> str:
    text = usercode.plainly(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}".rstrip(".: ") if text else type(error).__name__
