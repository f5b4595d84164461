"""Graph directories as an enemy or an accident leaves them: an entry is a link, a pipe, not ours, cut, spoilt, gone.

The commands run in a process of their own, which must come to an end; what lies outside the graph must be as before.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faultkit.crash import start

SECONDS = 120.0
MORE_ENTRIES = ("index.duckdb.wal", "states", "states/rabcdefghijkl", "damaged", "tensors.json", "tmp/tabcdefgh")
KINDS = ("file", "folder", "nowhere", "within", "up", "hard", "pipe", "other", "cut", "flip", "gone", "closed")


def make_canary(path: Path) -> None:
    """Make a directory of somebody's files, among them some that look like those of a graph."""
    for name in ("thesis.tex", "folder/run.log", "folder/0123456789abcdef.log", "folder/deep/results.csv", "zarr.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("mine")
        os.utime(path / name, (1, 1))


def pictured(path: Path) -> dict[str, Any]:
    """Describe all below a directory: kinds, times, content."""
    found = {}
    for p in sorted(path.rglob("*")):
        status = p.lstat()
        found[str(p)] = (status.st_mode, status.st_size, status.st_mtime, p.read_bytes() if p.is_file() else None)
    return found


def mutate(graph: Path, canary: Path, draw: random.Random) -> str:
    """Change one entry of a graph; what was done, in words."""
    entries = [str(p.relative_to(graph)) for p in sorted(graph.rglob("*")) if not p.is_symlink()]
    name = draw.choice([*entries, *MORE_ENTRIES, *(e for e in entries if "/" not in e)])
    place = graph / name
    kind = draw.choice(KINDS)
    if kind in ("cut", "flip"):
        _spoil(place, kind, draw)
    elif kind == "closed":
        if place.exists():
            place.chmod(0)
    else:
        _replace(place, kind, graph, canary)
    return f"{name}: {kind}"


def _spoil(place: Path, kind: str, draw: random.Random) -> None:
    if not place.is_file() or place.stat().st_size == 0:
        return
    data = bytearray(place.read_bytes())
    if kind == "cut":
        del data[draw.randrange(len(data)) :]
    else:
        for _ in range(draw.choice((1, 1, 20))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    place.write_bytes(bytes(data))


def _replace(place: Path, kind: str, graph: Path, canary: Path) -> None:
    was_folder = place.is_dir()
    with contextlib.suppress(FileNotFoundError):
        (shutil.rmtree if was_folder else os.remove)(place)
    place.parent.mkdir(exist_ok=True)
    targets = {
        "file": canary / "thesis.tex",
        "folder": canary / "folder",
        "nowhere": canary / "missing",
        "within": graph / "journal",
        "up": graph.parent,
    }
    if kind in targets:
        place.symlink_to(targets[kind])
    elif kind == "hard":
        place.hardlink_to(canary / "thesis.tex")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "other":
        if was_folder:
            place.write_bytes(b"x")
        else:
            place.mkdir()


def run(graph: Path, commands: Sequence[Sequence[str]], scratch: Path) -> list[tuple[str, int, str]]:
    """Run commands on a graph in a process of their own: command, exit code, what was said. It must end by itself."""
    answer = scratch / "answer.json"
    answer.unlink(missing_ok=True)
    process = start(_run, graph, [list(c) for c in commands], answer)
    process.join(SECONDS)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    assert not hung, f"{graph} keeps a command for ever"
    assert process.exitcode == 0, f"{graph} ends the process: {process.exitcode}"
    return [(command, code, said) for command, code, said in json.loads(answer.read_bytes())]


def _run(graph: Path, commands: list[list[str]], answer: Path) -> None:
    from mgraph_cli.main import cli

    os.environ["MGRAPH_LOCK_TIMEOUT"] = "5"
    done = []
    for command in commands:
        out, code = io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                cli.main([*command, "--graph", str(graph)], prog_name="mgraph")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        done.append((" ".join(command), code, out.getvalue()))
    answer.write_text(json.dumps(done))
