"""add-mode with several files: the good ones are kept, the bad ones named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run(template: Path, tmp_path: Path, commands: Any) -> Any:
    """Checkpoints of three runs beside a copy of the template, the last of them damaged."""
    run = commands(tmp_path)
    shutil.copytree(template, tmp_path / "g.mgraph")
    for number, name in enumerate("ab"):
        folder = tmp_path / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        run("export", name, "-o", folder / "last.pt")
    (tmp_path / "runs" / "run2").mkdir()
    (tmp_path / "runs" / "run2" / "last.pt").write_bytes(b"no checkpoint")
    return run


def files(run: Any, *numbers: int) -> list[Path]:
    return [run.directory / "runs" / f"run{number}" / "last.pt" for number in numbers]


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_good_files_are_kept_and_bad_ones_named(run: Any) -> None:
    done = run("add-mode", *files(run, 0, 2, 1), "--name", "from-{parent}", "--json", code=2)
    rows = {Path(row["file"]).parent.name: row for row in done.rows}
    assert [rows[f"run{n}"]["name"] for n in range(3)] == ["from-run0", "from-run1", None]
    assert rows["run0"]["test_loss"] > 0
    assert "run2" in rows["run2"]["problem"] or "last.pt" in rows["run2"]["problem"]
    assert "1 of 3 files could not be added, the first of them" in done.stderr
    names = {row["name"] for row in run("ls", "--json").rows}
    assert {"from-run0", "from-run1"} <= names


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_all_good_is_all_well(run: Any) -> None:
    table = run("add-mode", *files(run, 0, 1), "--name", "{stem}-{number}").stdout
    assert "last-1" in table
    assert "last-2" in table
    assert "problem" not in table


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_a_directory_stands_for_its_checkpoints(run: Any) -> None:
    """As the Trainer of transformers leaves them; in the order of their steps."""
    for step, number in ((5, 0), (10, 1), (15, 2)):
        checkpoint = run.directory / "out" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        shutil.copy(files(run, number)[0], checkpoint / "pytorch_model.bin")
        (checkpoint / "optimizer.pt").write_bytes(b"beside it")
    told = run("add-mode", "out", "--name", "one", code=2).stderr
    assert "out holds several checkpoints (checkpoint-5/pytorch_model.bin, checkpoint-10" in told
    assert "--name '{parent}-{stem}', to add all" in told
    done = run("add-mode", "out", "--name", "{parent}", "--json", code=2)
    assert [row["name"] for row in done.rows] == ["checkpoint-5", "checkpoint-10", None]
    assert "1 of 3 files could not be added, the first of them out/checkpoint-15" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--name", "{stem}"), "Two files would be called last"),
        (("--name", "{date}"), "may hold {stem}, {parent} and {number}, and no other field"),
        (("--curve",), "--curve and --chain are for one file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_added(run: Any, options: tuple[str, ...], says: str) -> None:
    before = len(run("ls", "--json").rows)
    assert says in run("add-mode", *files(run, 0, 1), *options, code=2).stderr
    assert len(run("ls", "--json").rows) == before
