"""Whatever a graph's directory holds: no command leaves it, hangs, or ends in anything but an answer or a sentence.

The quick part runs with the tests, the long one with ``make stress``; ``MGRAPH_FAULT_SEED`` chooses other faults.
"""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from faultkit import directories

SEED = 1000 * int(os.environ.get("MGRAPH_FAULT_SEED", "0"))
STORED = Path(__file__).parents[1] / "data" / "v1.mgraph.zip"

LOOKING = (["ls"], ["check", "--deep"], ["du"])
CHANGING = (["gc", "--older-than", "0"], ["mv", "a", "z"], ["check", "--repair"], ["copy", "COPY"], ["ls"])


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small graph with everything that a graph can hold, made without training."""
    place = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(STORED) as archive:
        archive.extractall(place)
    return place / "v1.mgraph"


def play(source: Path, place: Path, seed: int, commands: tuple[list[str], ...]) -> None:
    draw = random.Random(seed)
    canary, graph = place / "canary", place / "home" / "g.mgraph"
    directories.make_canary(canary)
    graph.parent.mkdir()
    shutil.copytree(source, graph)
    before = directories.pictured(canary)
    what = [directories.mutate(graph, canary, draw) for _ in range(draw.choice((1, 1, 2)))]
    commands = tuple([str(place / "copy.mgraph") if word == "COPY" else word for word in c] for c in commands)
    for command, code, said in directories.run(graph, commands, place):
        told = f"seed {seed}, {what}, {command}: {code} {said}"
        assert code in (0, 1, 2), told
        assert "Traceback" not in said, told
        assert "--traceback" not in said, told  # an error that nobody thought of
        assert (code == 2) <= ("Error: " in said), told
    assert directories.pictured(canary) == before, f"seed {seed}, {what}"
    assert {p.name for p in graph.parent.iterdir()} == {"g.mgraph"}, f"seed {seed}, {what}"


def test_a_directory_in_the_place_of_a_journal_file(old: Path, tmp_path: Path) -> None:
    graph = shutil.copytree(old, tmp_path / "g.mgraph")
    (log,) = sorted((graph / "journal").glob("*.log"))[:1]
    log.unlink()
    log.mkdir()
    for _, code, said in directories.run(graph, (["upgrade"],), tmp_path):
        assert code == 2, said
        assert log.name in said
        assert "a directory" in said
    assert log.is_dir()


@pytest.mark.parametrize("count", [2, pytest.param(400, marks=pytest.mark.stress)])
def test_any_entry_may_be_anything(old: Path, tmp_path: Path, count: int) -> None:
    for seed in range(SEED, SEED + count):
        place = tmp_path / str(seed)
        place.mkdir()
        play(old, place, seed, (*LOOKING, ["upgrade"], *CHANGING))
        shutil.rmtree(place)


@pytest.mark.stress
def test_while_it_computes(template: Path, tmp_path: Path) -> None:
    computing = (["show", "line"], ["sweep", "line", "--grid", "3"], ["train", "--epochs", "1", "--name", "new"])
    for seed in range(SEED, SEED + 40):
        place = tmp_path / str(seed)
        place.mkdir()
        play(template, place, seed, (*LOOKING, *computing, *CHANGING))
        shutil.rmtree(place)
