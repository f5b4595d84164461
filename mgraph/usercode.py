"""Running user code: the one place where a module named by somebody is imported.

It is run from the source text that was hashed (:mod:`mgraph.sources`), as a private package of which every neighbour is
a submodule. So ``import layers`` in ``net.py`` means the file beside it, for this code alone: no library ever finds a
neighbour, two factories may each have a ``layers.py``, and the import path stays as it is. Installed packages take
precedence over neighbours of the same name. A neighbour that the hash does not cover is refused by name.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.util
import re
import sys
import threading
import types
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from typing import Any

from typing_extensions import override

from mgraph.errors import MGraphWarning
from mgraph.sources import Code, SourceFile, beside, digest, is_installed

_PREFIX = "_mgraph_code_"
_loaded: dict[str, Code] = {}
_lock = threading.RLock()


class ShadowedFileWarning(MGraphWarning):
    """A file beside the user's code has the name of an installed module, and the latter is imported."""


def run(code: Code) -> types.ModuleType:
    """Import code and return its module, the same one for the same text in the same place; **this runs it**.

    Exceptions that it raises pass through, and then nothing of it is left behind.
    """
    if code.installed:
        return importlib.import_module(code.name)
    where = digest("\0".join([*map(str, code.roots), code.name]).encode())
    package = f"{_PREFIX}{code.hash[:16]}_{where[:8]}"
    with _lock:
        if package not in _loaded:
            _loaded[package] = code
            parent = types.ModuleType(package)
            parent.__path__ = []
            sys.modules[package] = parent
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.append(_Finder())
    try:
        return importlib.import_module(f"{package}.{code.name}")
    except BaseException:
        with _lock:
            _loaded.pop(package, None)
            for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
                del sys.modules[name]
        raise


def plainly(text: str) -> str:
    """Remove the names of private packages from an error's text."""
    return re.sub(rf"{_PREFIX}[0-9a-f_]+\.", "", text)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds submodules of private packages, and refuses user code that would bypass them."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package in _loaded:
            return self._private(_loaded[package], package, fullname, name)
        code = _asking() if path is None else None
        if code is not None and beside(code.roots, fullname):
            raise ImportError(_uncovered(fullname, code))
        return None

    @staticmethod
    def _private(code: Code, package: str, fullname: str, name: str) -> ModuleSpec | None:
        file = code.files.get(name)
        if file is None:
            top, _, rest = name.partition(".")
            places = [root / top for root in code.roots] if rest else code.roots
            for part in rest.split(".")[:-1] if rest else ():
                places = [place / part for place in places]
            if beside(places, name.rpartition(".")[2]):
                raise ImportError(_uncovered(name, code))
            return None
        if file.is_native:
            return importlib.util.spec_from_file_location(
                fullname, file.path, loader=ExtensionFileLoader(fullname, str(file.path))
            )
        origin = None if file.path is None else str(file.path)
        spec = ModuleSpec(fullname, _Loader(package, file), origin=origin, is_package=file.is_package)
        spec.has_location = file.path is not None
        return spec


class _Loader(importlib.abc.InspectLoader):
    """Runs source held in memory."""

    def __init__(self, package: str, file: SourceFile) -> None:
        self._package, self._file = package, file

    @override
    def get_source(self, fullname: str) -> str:
        """Return the text, for tracebacks."""
        return importlib.util.decode_source(self._file.content)

    @override
    def is_package(self, fullname: str) -> bool:
        """Return whether it has submodules."""
        return self._file.is_package

    @override
    def exec_module(self, module: types.ModuleType) -> None:
        """Run the text, with its own ``import``."""
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _importer(self._package)}
        exec(compile(self._file.content, str(self._file.path), "exec", dont_inherit=True), vars(module))


def _importer(package: str) -> Any:
    """Make the ``__import__`` of a private package, which looks for neighbours first and imports the rest as usual."""
    code = _loaded[package]

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        top = name.partition(".")[0]
        if level or not beside(code.roots, top) or _is_shadowed(top, code):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        private = f"{package}.{name}"
        if fromlist:
            return builtins.__import__(private, globals, locals, fromlist, 0)
        importlib.import_module(private)
        return sys.modules[f"{package}.{top}"]

    return import_


def _is_shadowed(top: str, code: Code) -> bool:
    if not is_installed(top):
        return False
    if top in code.files and top != code.name:
        warnings.warn(
            f"{code.main.path} imports {top}, which is an installed module and also a file beside it: the installed "
            f"one is used. Rename the file if you mean that.",
            ShadowedFileWarning,
            stacklevel=3,
        )
    return True


def _asking() -> Code | None:
    """Return the user code that is performing an import now, if there is any."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "importlib":
        frame = frame.f_back
    if frame is None:
        return None
    return _loaded.get(str(frame.f_globals.get("__name__", "")).partition(".")[0])


def _uncovered(name: str, code: Code) -> str:
    return (
        f"{name} is beside {code.main.path} but is imported in a way that its text does not show, so nobody was "
        f"asked to trust it; import it by a statement, as in `import {name}`"
    )
