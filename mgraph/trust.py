"""Whose code may run: the factories that this user has trusted, by graph, spec and hash of the code (torch-free).

A graph may come from a stranger, so the code that it names runs only after this user named it in ``init`` or
``add-space``, or asked for it with ``--trust``. This is remembered in ``trust.json`` in the user's configuration
directory (``MGRAPH_CONFIG_DIR`` overrides it), never in the graph. Beside it is the :func:`secret` by which mgraph
knows what it has itself cached in a graph.

Everything that would run code asks a :class:`Consent`. Names passed as arguments of a command or call are the user's
(:data:`NAMED`); names read from a graph are the graph's own (:class:`OfGraph`), even when they are passed to an
operation as arguments again, as ``resume`` does inside :func:`speaking`.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from mgraph.errors import InputError, UntrustedError

Triple = tuple[str, str, str]

_SECRET = 32  # bytes


class Consent(Protocol):
    """The authority that decides whether code may run."""

    @property
    def writes(self) -> bool:
        """Whether data may be downloaded into a directory that a spec names."""

    def ask(self, spec: str, hash: str, files: Mapping[str, str]) -> None:
        """Raise UntrustedError unless this code may run: what names it, its hash, and the digests of its files."""


class _Named:
    writes = True

    def ask(self, spec: str, hash: str, files: Mapping[str, str]) -> None:
        """Consent: whoever names code in a command or call wants it to run."""


NAMED: Consent = _Named()


@dataclass(frozen=True)
class OfGraph:
    """Code named by a graph runs if this user has trusted it, or does so now (``allow``), which is remembered."""

    path: Path
    allow: bool = False

    @property
    def writes(self) -> bool:
        """Whether data may be downloaded into a directory that the graph names: only if the user says so."""
        return self.allow

    def ask(self, spec: str, hash: str, files: Mapping[str, str]) -> None:
        """Look it up, or remember it."""
        if self.allow:
            trust(self.path, spec, hash, files)
        require(self.path, spec, hash, files)


@dataclass(frozen=True)
class OfNewSpace(OfGraph):
    """What the user names while a space is being made, and has just been remembered."""

    @property
    @override
    def writes(self) -> bool:
        """Consent: the user named the directory, too."""
        return True


_speaker: ContextVar[Consent] = ContextVar("speaker", default=NAMED)


def speaker() -> Consent:
    """Return the authority for names that are passed as arguments now."""
    return _speaker.get()


@contextmanager
def speaking(consent: Consent) -> Iterator[None]:
    """Inside this block, names passed as arguments were read from elsewhere, and ``consent`` is asked about them."""
    before = _speaker.set(consent)
    try:
        yield
    finally:
        _speaker.reset(before)


def trust_file() -> Path:
    """Return the file in which trust is remembered."""
    return _directory() / "trust.json"


def secret() -> bytes:
    """Return 32 random bytes that only this user has, by which mgraph knows what it has itself put into a graph.

    They are drawn when they are first wanted. Where they cannot be kept, they are those of this process alone.
    """
    path = _directory() / "secret"
    with suppress(OSError):
        if not path.exists():
            _keep(secrets.token_bytes(_SECRET), path)
        found = path.read_bytes()
        if len(found) == _SECRET:
            return found
    return _of_this_process()


def _keep(content: bytes, path: Path) -> None:
    """Write a file that only this user can read, whole at once, and never in place of another process's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".secret-") as directory, suppress(FileExistsError):
        made = Path(directory) / path.name
        made.touch(mode=0o600)
        made.write_bytes(content)
        os.link(made, path)


@cache
def _of_this_process() -> bytes:
    return secrets.token_bytes(_SECRET)


def _directory() -> Path:
    import platformdirs  # imported here because listing a graph does not need it

    return Path(os.environ.get("MGRAPH_CONFIG_DIR") or platformdirs.user_config_dir("mgraph"))


def trust(graph_path: Path, spec: str, hash: str, files: Mapping[str, str] | None = None) -> None:
    """Remember that this user trusts this code in this graph; ``files`` only help to say later what changed."""
    known = _load()
    triple = _triple(graph_path, spec, hash)
    if triple not in known:
        _save({**known, triple: dict(files or {})})


def is_trusted(graph_path: Path, spec: str, hash: str) -> bool:
    """Return whether this user trusted exactly this code in exactly this graph."""
    return _triple(graph_path, spec, hash) in _load()


def require(graph_path: Path, spec: str, hash: str, files: Mapping[str, str] | None = None) -> None:
    """Raise UntrustedError, naming the file and what to type, unless the code is trusted."""
    known = _load()
    graph, name, _ = triple = _triple(graph_path, spec, hash)
    if triple in known:
        return
    code = name.partition("?")[0].rpartition(":")[0]
    seen = [then for (g, s, _), then in known.items() if (g, s) == (graph, name)]
    state = "is code that you have not trusted yet"
    if seen:
        state = f"has changed since you trusted it{_what_changed(seen[-1], files or {})}"
    raise UntrustedError(f"{code}, which graph {graph_path} names, {state}; read it, then add --trust to the command.")


def _what_changed(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Name the neighbours that have changed, are new or are gone, if the list was kept."""
    if not then or not now:
        return ""
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name) and name != "main")
    said = [
        f"{name} is {'new' if name not in then else 'not found now' if name not in now else 'other'}" for name in names
    ]
    more = f", and {len(said) - 3} more" if len(said) > 3 else ""
    return f" ({', '.join(said[:3])}{more})" if said else ""


def _triple(graph_path: Path, spec: str, hash: str) -> Triple:
    return str(Path(graph_path).resolve()), spec, hash


def _load() -> dict[Triple, dict[str, str]]:
    """Read the file: the recorded files of every triple, oldest first."""
    path = trust_file()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["trusted"]
        return {(str(e["graph"]), str(e["spec"]), str(e["hash"])): dict(e.get("files", {})) for e in entries}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged; delete it, then trust your graphs again with --trust.") from None


def _save(known: Mapping[Triple, Mapping[str, str]]) -> None:
    path = trust_file()
    entries = [{"graph": g, "spec": s, "hash": h, "files": dict(files)} for (g, s, h), files in known.items()]
    text = json.dumps({"format": 1, "trusted": entries}, indent=1)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".trust-", delete=False, encoding="utf-8"
        ) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written: {error.strerror}; set MGRAPH_CONFIG_DIR to a directory of your own."
        ) from None
