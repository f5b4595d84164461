"""A graph to explore, one to sweep, and ways to look at what that leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Stop:
    """A reporter that counts points, and presses Ctrl-C after some."""

    def __init__(self, after: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.after, self.error, self.seen = after, error, []

    def __call__(self, progress: Any) -> None:
        self.seen.append(progress)
        if len(self.seen) == self.after:
            raise self.error


@pytest.fixture(scope="session")
def reporter() -> type[Stop]:
    return Stop


@pytest.fixture(scope="session")
def tables() -> Callable[..., dict[str, list[Any]]]:
    """Read all rows of some kinds."""

    def read(g: Any, *kinds: type[Any]) -> dict[str, list[Any]]:
        with g.session.store.reading() as reader:
            return {kind.__name__: reader.all(kind) for kind in kinds}

    return read


@pytest.fixture(scope="session")
def four(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A graph of four modes and nothing else."""
    import mgraph

    def fill(place: Path) -> None:
        g = mgraph.create(place / "g.mgraph", arch="mlp?bn=true&hidden=8,", data="digits", device="cpu")
        for seed, name in enumerate("abcd"):
            g.train(seed=seed, epochs=2, lr=0.1, name=name)

    return made_once("explore", fill) / "g.mgraph"


@pytest.fixture
def four_modes(four: Path, tmp_path: Path) -> Any:
    """A copy of it, opened."""
    import mgraph

    return mgraph.open(shutil.copytree(four, tmp_path / "explore" / "g.mgraph"), device="cpu")


@pytest.fixture(scope="session")
def unswept(four: Path, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The same with a connection of every shape, none of them swept."""
    import mgraph

    def fill(place: Path) -> None:
        g = mgraph.open(shutil.copytree(four, place / "g.mgraph"), device="cpu")
        methods = mgraph.METHODS
        g.connect("a", "b", method=mgraph.Linear(), name="line", sweep=False)
        g.connect("a", "b", method=methods["chain"](bends=2, epochs=1), name="chain", sweep=False)
        g.connect(*"abcd", method=mgraph.Linear(), name="wall", sweep=False)
        g.connect(*"abc", method=methods["simplex"](), name="tri", sweep=False)
        g.connect(*"abcd", method=methods["simplex"](), name="tetra", sweep=False)

    return made_once("unswept", fill) / "g.mgraph"


@pytest.fixture
def g(unswept: Path, tmp_path: Path) -> Any:
    """A copy of it, opened."""
    import mgraph

    return mgraph.open(shutil.copytree(unswept, tmp_path / "sweeps" / "g.mgraph"), device="cpu")


@pytest.fixture
def beside(g: Any, commands: Any) -> Any:
    """Run commands beside the copy."""
    return commands(g.path.parent)
