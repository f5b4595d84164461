"""Experiments run from end to end at the scale tiny, through the command and from Python."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph.durations import spoken
from mgraph.errors import InputError
from mgraph.progress import Progress
from mgraph.repro import costing, ledger, running
from mgraph.repro.registry import EXPERIMENTS
from mgraph_store import GraphStore, Run, new_id


@pytest.fixture(autouse=True)
def _quick_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing, "SECONDS", 0.01)


def test_the_table_is_printed_written_and_kept(done: Path, commands: Any) -> None:
    run = commands(done)
    shown = run("repro", "s-simplex", "--graph", "repro-s-tiny.mgraph", "--show", "--json").rows
    by_quantity = {row["quantity"]: row for row in shown}
    assert (by_quantity["mean"]["published"], by_quantity["mean"]["source"]) == ("not legible", "figure 3")
    assert 0 < by_quantity["lowest"]["ours"] <= by_quantity["mean"]["ours"] <= by_quantity["highest"]["ours"] <= 100
    assert {row["status"] for row in shown} == {"run"}
    with (done / "repro-s-tiny.s-simplex.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["ours"]) for row in written] == [row["ours"] for row in shown]
    text = (done / "repro-s-tiny.s-simplex.md").read_text()
    assert text.startswith("# s-simplex: ")
    assert "say nothing about the paper" in " ".join(text.split())
    # It is an ordinary graph: the numbers are those of its connection, and other commands answer from it.
    graph = mgraph.open(done / "repro-s-tiny.mgraph", device="cpu")
    data = graph.connection("cnn-0-simplex").swept()
    assert by_quantity["mean"]["ours"] == pytest.approx(100 * data.values["test", "accuracy"].mean())
    assert [row["name"] for row in graph.nodes()] == ["cnn-0-a", "cnn-0-b", "cnn-0-c"]
    assert [run["command"] for run in graph.runs()].count("repro") == 1


def test_seeds_and_cost_are_told(done: Path) -> None:
    graph = mgraph.open(done / "repro-s-tiny.mgraph", device="cpu")
    run = mgraph.Reproduction("s-simplex", graph=graph.path)
    assert "Seeds of the modes: 0, 1, 2." in run.table().notes
    assert not any(note.startswith("Wall time") for note in run.table().notes)  # of tiny networks it says nothing
    took = ledger.costs(run.lab, run.rows)
    assert took.endswith(" with 1 CPU thread")
    seconds = [row["seconds"] for row in graph.runs() if row["command"] == "train"]
    assert f"train {spoken(sum(seconds))}" in took


def test_what_is_done_is_not_done_again(done: Path, commands: Any) -> None:
    run = commands(done)
    before = len(mgraph.open(done / "repro-s-tiny.mgraph").runs())
    again = run("repro", "s-simplex", "--device", "cpu")
    assert "to run" not in again.stderr
    assert "Wrote " in again.stdout
    assert len(mgraph.open(done / "repro-s-tiny.mgraph").runs()) == before
    assert run("repro", "s-simplex", "--estimate").stdout == "Everything has been run.\n"
    # Another experiment of the paper takes the modes that are there.
    rest = {row["row"]: row for row in run("repro", "s-table2", "--only", "3x3", "--estimate", "--json").rows}
    assert 0 < rest["3x3"]["nbytes"] < 9 * 4 * 10**5


def test_bad_input_is_refused_by_name(done: Path, commands: Any) -> None:
    run = commands(done)
    told = [
        (("repro", "s-tabel2"), "Did you mean s-table2"),
        (("repro", "s-table2", "--only", "3x4"), "has no row '3x4'. Did you mean"),
        (("repro", "s-table2", "--scale", "huge"), "The scale is tiny, small, paper"),
        (("repro", "s-table2", "--scale", "small", "--graph", "repro-s-tiny.mgraph"), "at the scale tiny, not small"),
        (("repro", "g-table2", "--graph", "repro-s-tiny.mgraph"), "is a graph of something else"),
        (("repro", "s-table2", "--scale", "small", "--data", "nowhere"), "download it from"),
        (("repro", "s-table2", "--only", "3x3", "--budget", "1ms"), "A duration"),
        (("repro", "s-table2", "--only", "3x3", "--budget", "0.001s"), "too small for any row: the shortest, 3x3"),
        (("repro", "g-fig3", "--show"), "There is no graph repro-g-tiny.mgraph yet"),
        (("repro", "g-fig3", "--show", "--estimate"), "exclude each other"),
    ]
    for words, expected in told:
        refused = run(*words, code=2)
        assert expected in refused.stderr, words
        assert "Traceback" not in refused.stderr
    assert not list(done.glob("repro-*-small*"))
    assert not (done / "repro-g-tiny.mgraph").exists()


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_budget_that_ends_in_the_middle_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(running, "time", clock)
    seen: list[str] = []

    def late(progress: Progress) -> None:
        seen.append(progress.phase)
        if progress.phase == "curve" and progress.done > 20:
            clock.now = 1e9

    def reproduction(**more: Any) -> Any:
        rows = ("fc-mnist-segment", "fc-mnist-bezier")
        return mgraph.Reproduction("g-table2", only=rows, graph=tmp_path / "g.mgraph", device="cpu", **more)

    table = reproduction(progress=late).run(budget="1h")
    status = {record["row"]: record["status"] for record in table.records}
    assert status["fc-mnist-segment"] == "run"
    assert status["fc-mnist-bezier"].startswith("not run: the budget was used up")
    graph = mgraph.open(tmp_path / "g.mgraph")
    stopped = [run for run in graph.runs() if run["status"] == "interrupted"]
    assert {run["command"] for run in stopped} == {"connect", "repro"}
    assert "not run" in (tmp_path / "g.g-table2.md").read_text()
    clock.now = 0.0
    table = reproduction().run()
    assert {record["status"] for record in table.records} == {"run"}
    runs = {run["id"]: run for run in graph.runs()}
    taken_up = next(run for run in stopped if run["command"] == "connect")
    assert (runs[taken_up["id"]]["status"], runs[taken_up["id"]]["resumed"]) == ("complete", 1)
    bezier = {r["quantity"]: r for r in table.records if r["row"] == "fc-mnist-bezier"}
    segment = {r["quantity"]: r for r in table.records if r["row"] == "fc-mnist-segment"}
    worst = "train loss, max"
    assert bezier[worst]["published"] == 0.0239
    assert bezier[worst]["faithful_difference"] == bezier[worst]["faithful"] - 0.0239
    for variant in ("faithful", "ours"):
        assert bezier[worst][variant] < segment[worst]["ours"]
        assert bezier["train loss, min"][variant] <= bezier["train loss, int"][variant] <= bezier[worst][variant]
        assert bezier["length ratio"][variant] >= 1
    assert segment[worst]["faithful"] is None


def test_an_interrupted_command_says_how_to_go_on(
    done: Path, commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    shutil.copytree(done / "repro-s-tiny.mgraph", tmp_path / "repro-s-tiny.mgraph")
    monkeypatch.setattr("mgraph.graph.graph.Graph.connect", stop)
    told = commands(tmp_path)("repro", "s-fig4", "--only", "before", "--device", "cpu", code=130).stderr
    assert "before goes on where it stopped. Run again: mgraph repro s-fig4 --only before" in told
    (run,) = (r for r in mgraph.open(tmp_path / "repro-s-tiny.mgraph").runs() if r["status"] == "interrupted")
    assert run["command"] == "repro"


def test_what_was_made_otherwise_is_not_taken_for_ours(tmp_path: Path) -> None:
    chosen = mgraph.Reproduction("g-table2", only=["fc-mnist-single"], graph=tmp_path / "g.mgraph", device="cpu")
    net = chosen.rows[0].setups["tiny"].net
    space = chosen.lab.space(net)
    chosen.lab.graph.train(seed=0, epochs=1, lr=0.1, name="fc-0-a", space=space)
    with pytest.raises(InputError, match=r"has a fc-0-a that was made with epochs=1, not 8"):
        chosen.run()


def test_training_in_another_precision_is_told_and_kept_apart(commands: Any, tmp_path: Path) -> None:
    run = commands(tmp_path)
    run("repro", "s-simplex", "--device", "cpu", "--precision", "bf16")
    graph = mgraph.open(tmp_path / "repro-s-tiny.mgraph", device="cpu")
    assert graph.node("cnn-0-a").describe()["info"]["settings"]["precision"] == "bf16"
    assert graph.connection("cnn-0-simplex").swept().sweep.precision == "fp32"
    shown = run("repro", "s-simplex", "--show").stdout  # without saying it again
    assert "on cpu, trained in bf16 and measured in fp32." in " ".join(shown.split())
    refused = run("repro", "s-simplex", "--device", "cpu", "--precision", "fp32", code=2).stderr
    assert "has a cnn-0-a that was made with precision=bf16, not fp32" in " ".join(refused.split())
    refused = run("repro", "g-fig3", "--device", "cpu", "--precision", "tf32", code=2).stderr
    assert "TF32 needs an NVIDIA GPU" in " ".join(refused.split())


@pytest.mark.parametrize("numbers", [5, {"ours": 5}, {"ours": {"mean": [["x", None]]}}, {"ours": {"mean": []}}])
def test_numbers_that_nobody_measured_are_no_traceback(done: Path, commands: Any, tmp_path: Path, numbers: Any) -> None:
    path = tmp_path / "g.mgraph"
    shutil.copytree(done / "repro-s-tiny.mgraph", path)
    store = GraphStore.open(path)
    with store.reading() as reader:
        (run,) = reader.all(Run, command="repro")
    forged = json.dumps(json.loads(run.settings) | {"numbers": numbers})
    with store.transaction() as tx:
        tx.add(replace(run, id=new_id("r"), settings=forged))
    told = commands(tmp_path)("repro", "s-simplex", "--graph", path, "--show", code=1).stderr
    assert "and its numbers cannot be read: no mgraph has written them" in " ".join(told.split())


def test_a_dry_run_tries_every_recipe_and_estimates(commands: Any, tmp_path: Path) -> None:
    run = commands(tmp_path)
    made = run(
        "repro", "g-table2", "--scale", "paper", "--only", "fc-mnist-bezier", "--dry-run", "--device", "cpu", "--json"
    )
    what = [(one["what"], one["batch_size"]) for one in made.row["tried"]]
    assert what == [("training 1", 128), ("curve", 128), ("curve", 64)]
    assert "H200" in made.row["basis"][1]
    assert "assumption" in made.row["basis"][1]
    assert made.row["estimate"][0]["seconds_on_h200"] > 0
    assert list(tmp_path.iterdir()) == []


def test_experiments_are_listed(commands: Any, tmp_path: Path) -> None:
    rows = commands(tmp_path)("repro", "--json").rows
    assert [row["name"] for row in rows] == list(EXPERIMENTS)
    assert json.dumps(rows).count("paper") > len(rows)
    assert "s-table2" in commands(tmp_path)("repro").stdout


@pytest.mark.stress
@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_runs_at_the_scale_tiny(name: str, tmp_path: Path) -> None:
    table = mgraph.Reproduction(name, graph=tmp_path / "g.mgraph", device="cpu").run()
    assert table.records
    assert {record["status"] for record in table.records} == {"run"}
    assert all(file.exists() for file in table.files)


@pytest.mark.stress
@pytest.mark.parametrize("name", [e.name for e in EXPERIMENTS.values() if "paper" in e.scales])
def test_every_recipe_of_the_papers_passes_a_dry_run(name: str, tmp_path: Path) -> None:
    chosen = mgraph.Reproduction(name, scale="paper", graph=tmp_path / "g.mgraph", device="cpu")
    assert chosen.dry_run()
    assert not (tmp_path / "g.mgraph").exists()
