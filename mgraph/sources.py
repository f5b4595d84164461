"""The source of user code: which files a factory consists of, read once and hashed (nothing here is executed).

The code that a spec names is its own file *and* everything it imports from its own directory, directly or through a
neighbour, as found in the syntax tree: every ``import`` statement counts, including those inside functions. What runs
later (:mod:`mgraph.usercode`) is exactly the text that was read here, never a ``.pyc`` beside it.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

_MOST = 256  # most modules of an installed package that are hashed; there is no limit for the user's own
_OURS = frozenset({"mgraph", "mgraph_cli", "mgraph_store", "torch", "torchvision", "numpy"})


@dataclass(frozen=True)
class SourceFile:
    """One module: its file (None for a directory without ``__init__.py``) and the bytes that were read."""

    path: Path | None
    content: bytes
    is_package: bool

    @property
    def is_native(self) -> bool:
        """Whether it is an extension module, which has no source to run."""
        return self.path is not None and self.path.name.endswith(tuple(EXTENSION_SUFFIXES))


@dataclass(frozen=True)
class Code:
    """A module, by its dotted name below the directories ``roots``, with everything it imports from there.

    ``files`` are by dotted name. ``installed`` code is imported as usual, everything else from the text here.
    """

    roots: tuple[Path, ...]
    name: str
    files: Mapping[str, SourceFile]
    installed: bool = False

    @property
    def main(self) -> SourceFile:
        """The module itself."""
        return self.files[self.name]

    @cached_property
    def digests(self) -> dict[str, str]:
        """BLAKE2b-128 of every file, under names that do not depend on where the code is."""
        return {_label(self.name, name, file): digest(file.content) for name, file in sorted(self.files.items())}

    @cached_property
    def hash(self) -> str:
        """The identity of the code: the file's own digest if there is only one, else the digest of all digests.

        The list begins with a NUL, which no Python source may contain, so no single file can pass for a list.
        """
        if len(self.files) == 1:
            return digest(self.main.content)
        return digest("\0".join(["", *(f"{name}={found}" for name, found in self.digests.items())]).encode())


def digest(content: bytes) -> str:
    """Return the BLAKE2b-128 of some bytes in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def gather(roots: Sequence[Path], name: str, main: SourceFile, *, installed: bool = False) -> Code:
    """Read a module, already found as ``main``, and everything it imports from the directories ``roots``.

    Of an installed package, only modules of the same top-level package count, and at most 256 of them.
    """
    files = {name: main}
    look = cache(_look)  # most names begin with those of packages that were just found
    inside = name.partition(".")[0] if installed else None
    queue = deque([name])
    for parent in _prefixes(name)[:-1]:  # running a module runs its packages first
        if (found := find(roots, parent, look)) is not None:
            files[parent] = found
            if not installed:
                queue.append(parent)
    while queue and not (installed and len(files) >= _MOST):
        current = queue.popleft()
        file = files[current]
        if file.is_native:
            continue
        package = current if file.is_package else current.rpartition(".")[0]
        for wanted in _imports(file.content, package):
            for prefix in _prefixes(wanted):
                if inside is not None and prefix.partition(".")[0] != inside:
                    break
                if prefix in files:
                    continue
                if (found := find(roots, prefix, look)) is None:
                    break  # an attribute, or a module from elsewhere
                files[prefix] = found
                queue.append(prefix)
    return Code(tuple(roots), name, files, installed)


def find(roots: Sequence[Path], name: str, look: _Look | None = None) -> SourceFile | None:
    """Read the module with a dotted name below some directories; None if none of them has it."""
    look = look or _look
    places = tuple(roots)
    found: SourceFile | None = None
    for part in name.split("."):
        if not part.isidentifier():
            return None
        step = look(places, part)
        if step is None:
            return None
        path, places = step
        found = SourceFile(path, b"", bool(places))
    assert found is not None
    if found.path is None:
        return found
    try:
        return SourceFile(found.path, found.path.read_bytes(), found.is_package)
    except OSError:
        return None


def beside(roots: Sequence[Path], top: str) -> bool:
    """Return whether one of the directories has a module with this top-level name."""
    return top.isidentifier() and _look(tuple(roots), top) is not None


@lru_cache(maxsize=1024)
def is_installed(top: str) -> bool:
    """Return whether a top-level name belongs to Python itself or to an installed package."""
    if top in sys.stdlib_module_names or top in sys.builtin_module_names or top in _OURS:
        return True
    return PathFinder.find_spec(top, [entry for entry in sys.path if lies_installed(Path(entry))]) is not None


def lies_installed(path: Path) -> bool:
    """Return whether a path belongs to this Python or to the packages installed for it."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return any(path.is_relative_to(place) for place in places if place)


def is_ours(top: str) -> bool:
    """Return whether a top-level name is mgraph itself or one of its dependencies, which are never loaded twice."""
    return top in _OURS


_Places = tuple[Path, ...]
_Look = Callable[[_Places, str], tuple[Path | None, _Places] | None]


def _look(places: _Places, part: str) -> tuple[Path | None, _Places] | None:
    """Find one name in directories, in Python's order: its file, and where its submodules are."""
    bare: list[Path] = []
    for place in places:
        folder = place / part
        if (package := folder / "__init__.py").is_file():
            return package, (folder,)
        for suffix in (*EXTENSION_SUFFIXES, ".py"):
            if (file := place / f"{part}{suffix}").is_file():
                return file, ()
        if folder.is_dir():
            bare.append(folder)
    return (None, tuple(bare)) if bare else None


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _label(main: str, name: str, file: SourceFile) -> str:
    if name == main:
        return "main"  # renaming the file changes nothing
    end = "/" if file.path is None else "/__init__.py" if file.is_package else file.path.suffix
    return name.replace(".", "/") + end


def _imports(content: bytes, package: str) -> Iterator[str]:
    """Yield the dotted names that a source's import statements may refer to, each once."""
    seen: set[str] = set()
    for level, module, names in _statements(content):
        if level:
            parts = package.split(".") if package else []
            if level - 1 > len(parts):
                continue
            module = ".".join([*parts[: len(parts) - (level - 1)], *([module] if module else [])])
        for name in [module, *(f"{module}.{n}" if module else n for n in names)]:
            if name and name not in seen:
                seen.add(name)
                yield name


@lru_cache(maxsize=4096)
def _statements(content: bytes) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Return every import statement as its level, module and names."""
    if b"import" not in content:
        return ()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()  # running it fails too, or what it imports is refused then
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in _walked(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(a.name for a in node.names if a.name != "*")))
    return tuple(found)


def _walked(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what is not an expression, in the order of ``ast.walk``: no statement stands in an expression."""
    todo = deque([tree])
    while todo:
        node = todo.popleft()
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            todo.extend(getattr(node, block, ()))
        yield node
