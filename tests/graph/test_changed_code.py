"""Code that changed with the same layout: numbers of old and new code are never mixed, and never without a word."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph import trust
from mgraph.errors import InputError, UntrustedError
from mgraph.operations.endcheck import EndsDifferWarning
from mgraph.session.code import OtherCodeWarning
from mgraph.session.runs import ResumedWithOtherCodeWarning, RunInterrupted
from mgraph_store import Evaluation, Run, Space, Sweep

NET = """
from torch import nn
from layers import act

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), act(), nn.Linear(4, 10))
"""
RELU, TANH = (f"from torch import nn\n\ndef act():\n    return nn.{name}()\n" for name in ("ReLU", "Tanh"))

pytestmark = pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a graph of a network of one's own: a line between two modes, swept at three points."""
    place = tmp_path_factory.mktemp("own")
    (place / "net.py").write_text(NET)
    (place / "layers.py").write_text(RELU)
    g = mgraph.create(place / "g.mgraph", arch=f"{place / 'net.py'}:net", data="digits", device="cpu")
    for seed in range(2):
        g.train(seed=seed, epochs=1, name=f"m{seed}")
    g.connect("m0", "m1", method=mgraph.Linear(), name="line", grid=3)
    return place


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of it, whose code is trusted."""
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    g = mgraph.open(Path(shutil.copytree(made, tmp_path / "copy")) / "g.mgraph", device="cpu")
    (space,) = rows(g, Space)
    recorded = json.loads(space.factories)[space.arch]
    trust.trust(g.path, space.arch, recorded["hash"], recorded["files"])
    return g


def opened(g: Any, **how: Any) -> Any:
    return mgraph.open(g.path, device="cpu", **how)


def change(g: Any, text: str = TANH) -> None:
    (g.path.parent / "layers.py").write_text(text)


def rows(g: Any, kind: type[Any], **where: Any) -> list[Any]:
    with g.session.store.reading() as reader:
        return list(reader.all(kind, **where))


def test_every_run_records_its_code(own: Any) -> None:
    versions = {run.command: json.loads(run.versions)["code"] for run in rows(own, Run)}
    (space,) = rows(own, Space)
    recorded = json.loads(space.factories)[space.arch]
    assert versions == {command: {"arch": recorded["hash"]} for command in ("train", "connect", "sweep")}
    assert set(recorded["files"]) == {"main", "layers.py"}


def test_a_sweep_takes_no_number_of_other_code(own: Any) -> None:
    change(own)
    changed = r"net.py, which .* has changed since you trusted it \(layers.py is other\)"
    with pytest.raises(UntrustedError, match=changed):
        opened(own).connection("line").sweep(grid=5)
    trusting = opened(own, trust=True)
    both = r"code of ../net.py:net \(now \w{8}, then \w{8}\) is not the one that line, m0, m1 were made with"
    with pytest.warns(EndsDifferWarning, match="on its own"), pytest.warns(OtherCodeWarning, match=both):
        data = trusting.connection("line").sweep(grid=5)
    assert "3 points were measured before with other code and are not reused." in data.notes
    numbers = rows(own, Evaluation, sweep_id=data.sweep.id)
    assert {row.run_id for row in numbers} == {data.sweep.run_id}
    with pytest.warns(EndsDifferWarning, match="on its own"), pytest.warns(OtherCodeWarning):
        again = opened(own).connection("line").sweep(grid=5)
    assert again.notes == ("5 of 5 points were measured before and are reused.",)
    change(own, RELU)
    back = opened(own).connection("line").sweep(grid=3)  # trusted before, and what the ends were made with
    assert back.notes[-1] == "3 of 3 points were measured before and are reused."
    first, *_ = rows(own, Sweep)
    of_first = {row.run_id for row in rows(own, Evaluation, sweep_id=first.id)}
    assert {row.run_id for row in rows(own, Evaluation, sweep_id=back.sweep.id)} == of_first


def test_other_commands_say_so_too(own: Any) -> None:
    change(own)
    g = opened(own, trust=True)
    with pytest.warns(OtherCodeWarning, match="m0 was made"):
        g.node("m0").evaluate()
    with pytest.warns(OtherCodeWarning, match="m0, m1 were made"):
        g.connect("m0", "m1", method=mgraph.Linear(), name="new", sweep=False)
    with pytest.warns(OtherCodeWarning, match="line, m0, m1 were made"):
        g.connection("line").merge(at=0.5)
    a, b = (g.train(seed=seed, epochs=1, name=f"n{seed}") for seed in range(2))
    g.connect(a, b, method=mgraph.Linear(), grid=3)  # all of the new code: nothing to say


def test_on_the_command_line(own: Any, commands: Any) -> None:
    change(own)
    run = commands(own.path.parent)
    assert "layers.py is other" in run("sweep", "line", "--grid", 5, code=2).stderr
    done = run("sweep", "line", "--grid", 5, "--trust")
    assert "Warning: The code of ../net.py:net" in done.stderr
    assert "3 points were measured before with other code" in done.stdout + done.stderr
    assert "code of arch" in run("show", "m0").stdout


def stopped(points: int, work: Any) -> str:
    """Interrupt some work after so many reports; return the run that can go on."""
    seen = []

    def progress(progress: Any) -> None:
        seen.append(progress)
        if len(seen) > points:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted) as caught:
        work(progress)
    return str(caught.value.run_id)


def test_an_interrupted_sweep_is_not_completed_by_other_code(own: Any) -> None:
    run = stopped(2, lambda progress: own.connection("line").sweep(grid=9, progress=progress))
    change(own)
    g = opened(own, trust=True)
    with (
        pytest.warns(OtherCodeWarning),
        pytest.raises(InputError, match=f"Run {run} cannot be resumed: the code of .*net.py:net"),
    ):
        g.resume(run)
    with pytest.warns(EndsDifferWarning, match="on its own"), pytest.warns(OtherCodeWarning):
        data = g.connection("line").sweep(grid=9)
    assert {row.run_id for row in rows(own, Evaluation, sweep_id=data.sweep.id)} == {data.sweep.run_id}
    assert len(data.node_ids) == 9


def test_a_training_goes_on_with_other_code_only_with_a_warning_on_its_record(own: Any) -> None:
    run = stopped(3, lambda progress: own.train(seed=5, epochs=2, name="half", progress=progress))
    change(own)
    with pytest.raises(UntrustedError):
        opened(own).resume(run)
    with pytest.warns(
        ResumedWithOtherCodeWarning, match=rf"Run {run} is resumed with other code: the code of ../net.py:net"
    ):
        mode = opened(own, trust=True).resume(run)
    record = mode.describe()["run"]
    (resumption,) = record["resumptions"]
    assert list(resumption["other"]) == ["code"]
    assert resumption["other"]["code"]["arch"] != record["versions"]["code"]["arch"]
    change(own, RELU)
    with pytest.warns(OtherCodeWarning, match="half was made"):
        opened(own).node("half").evaluate()


def test_a_training_loss_that_changed_is_said_as_well(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.path.parent)
    loss = "from torch.nn import functional as F\n\ndef mine(o, t):\n    return {} * F.cross_entropy(o, t)\n"
    Path("mine.py").write_text(loss.format(1))
    run = stopped(3, lambda progress: own.train(seed=5, epochs=2, name="half", loss="mine.py:mine", progress=progress))
    Path("mine.py").write_text(loss.format(2))
    with pytest.warns(ResumedWithOtherCodeWarning, match="the code of mine.py:mine"):
        opened(own, trust=True).resume(run)


def test_an_open_graph_runs_one_version(own: Any) -> None:
    g = opened(own, trust=True)
    g.node("m0").evaluate()
    change(own)
    with pytest.raises(InputError, match=r"net.py:net changed while this graph was open; open it again"):
        g.train(seed=9, epochs=1)


def test_graphs_of_before_recorded_less(own: Any) -> None:
    """Runs without their code, spaces with the hash of the named file alone, a trust.json without neighbours."""
    store = own.session.store
    (space,) = rows(own, Space)
    entry = json.loads(space.factories)[space.arch]
    file_alone = entry["files"]["main"]
    del entry["files"]
    with store.transaction() as tx:
        for run in rows(own, Run):
            versions = json.loads(run.versions)
            del versions["code"]
            tx.update(replace(run, versions=json.dumps(versions)))
        tx.update(replace(space, factories=json.dumps({space.arch: entry})))
    data = opened(own).connection("line").sweep(grid=3)  # what the space recorded is what runs
    assert data.notes == ("3 of 3 points were measured before and are reused.",)
    with store.transaction() as tx:
        tx.update(replace(space, factories=json.dumps({space.arch: entry | {"hash": file_alone}})))
    memory = Path(os.environ["MGRAPH_CONFIG_DIR"]) / "trust.json"
    trusted = {"graph": str(own.path.resolve()), "spec": space.arch, "hash": file_alone}
    memory.write_text(json.dumps({"format": 1, "trusted": [trusted]}))
    with pytest.raises(UntrustedError, match="has changed since you trusted it"):
        opened(own).node("m0").evaluate()
    with pytest.warns(OtherCodeWarning):  # whether the neighbours are the same, nobody knows
        assert opened(own, trust=True).node("m0").evaluate()["loss"].value > 0


def test_a_loss_of_before_counts_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from helper import F\n\ndef mine(o, t):\n    return 2 * F.cross_entropy(o, t)\n")
    (tmp_path / "helper.py").write_text("from torch.nn import functional as F\n")
    loss = f"{tmp_path / 'mine.py'}:mine"
    g = mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=4,", data="digits", loss=loss, device="cpu")
    (space,) = rows(g, Space)
    entry = json.loads(space.factories)[space.loss]
    old = {k: v for k, v in entry.items() if k != "files"} | {"hash": entry["files"]["main"]}
    with g.session.store.transaction() as tx:
        tx.update(replace(space, factories=json.dumps({space.loss: old})))
    assert opened(g).train(epochs=1).describe()["kind"] == "mode"
    (tmp_path / "mine.py").write_text("from helper import F\n\ndef mine(o, t):\n    return F.cross_entropy(o, t)\n")
    with pytest.raises(InputError, match="not what space"):
        opened(g, trust=True).train(epochs=1)
