"""Whose code may run: the factories that this user has trusted, per graph, spec and file hash (torch-free).

A graph may come from a stranger, so the code that it names runs only after this user named it in ``init`` or
``add-space``, or asked for it with ``--trust``. The memory is ``trust.json`` in the user's configuration
directory (``MGRAPH_CONFIG_DIR`` overrides it), never in the graph.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import platformdirs

from mgraph.errors import InputError, UntrustedError

Triple = tuple[str, str, str]


def trust_file() -> Path:
    """Return the file that remembers."""
    override = os.environ.get("MGRAPH_CONFIG_DIR")
    return Path(override or platformdirs.user_config_dir("mgraph")) / "trust.json"


def trust(graph_path: Path, spec: str, hash: str) -> None:
    """Remember that this user trusts this code in this graph."""
    known = _load()
    triple = _triple(graph_path, spec, hash)
    if triple not in known:
        _save([*known, triple])


def is_trusted(graph_path: Path, spec: str, hash: str) -> bool:
    """Tell whether this user trusted exactly this code in exactly this graph."""
    return _triple(graph_path, spec, hash) in _load()


def require(graph_path: Path, spec: str, hash: str) -> None:
    """Raise UntrustedError, naming the file and what to type, unless the code is trusted."""
    known = _load()
    graph, name, _ = triple = _triple(graph_path, spec, hash)
    if triple in known:
        return
    code = name.partition("?")[0].rpartition(":")[0]
    seen = any((g, s) == (graph, name) for g, s, _ in known)
    state = "has changed since you trusted it" if seen else "is code that you have not trusted yet"
    raise UntrustedError(f"{code}, which graph {graph_path} names, {state}; read it, then add --trust to the command.")


def _triple(graph_path: Path, spec: str, hash: str) -> Triple:
    return str(Path(graph_path).resolve()), spec, hash


def _load() -> list[Triple]:
    path = trust_file()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["trusted"]
        return [(str(e["graph"]), str(e["spec"]), str(e["hash"])) for e in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; delete it, then trust your graphs again with --trust.") from None


def _save(triples: list[Triple]) -> None:
    path = trust_file()
    entries = [{"graph": g, "spec": s, "hash": h} for g, s, h in triples]
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
            f"{path} cannot be written: {error.strerror}; set MGRAPH_CONFIG_DIR to a directory of yours."
        ) from None
