"""A regression, a language model and a multi-label task go wherever a classifier goes, by the metric that is theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

OWN = """
import torch
from torch import nn
from torch.nn import functional as F

from mgraph import Metric


def split(count, seed, make):
    return make(torch.Generator().manual_seed(seed), count)


def splits(make):
    return {"train": split(120, 0, make), "valid": split(60, 1, make), "test": split(60, 2, make)}


# A regression: the mean absolute error, of which less is better.

def line():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def absolute_error(outputs, targets):
    return (outputs - targets).abs().flatten(1).mean(1)


def slopes():
    def make(g, count):
        x = torch.randn(count, 2, generator=g)
        return x, x[:, :1] - 0.5 * x[:, 1:]

    metric = Metric("mae", absolute_error, better="lower", unit="mm")
    return splits(make) | {"loss": F.mse_loss, "metrics": metric}


# A language model: perplexity, the exponential of the mean loss over all tokens, from running sums.

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 6), nn.Linear(6, 5)

    def forward(self, tokens):
        return self.out(torch.tanh(self.embed(tokens))).transpose(1, 2)


def words():
    return Words()


def token_sums(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="sum"), targets.numel()


def text():
    def make(g, count):
        x = torch.randint(5, (count, 4), generator=g)
        return x, (x + 1) % 5

    perplexity = Metric("perplexity", token_sums, better="lower", compute=lambda loss, tokens: (loss / tokens).exp())
    return splits(make) | {"classes": 5, "metrics": [perplexity]}


# Several labels at once: the share of labels that are right.

def tagger():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def right(outputs, targets):
    return ((outputs > 0) == (targets > 0.5)).double().mean(1)


def tags():
    def make(g, count):
        x = torch.randn(count, 4, generator=g)
        return x, (x[:, :3] > 0).float()

    return splits(make) | {"loss": F.binary_cross_entropy_with_logits, "metrics": {"right": right},
                           "better": {"right": "higher"}}
"""


@dataclass(frozen=True)
class Kind:
    """A task: how its network and data are called, its metric, its direction, and whether members can vote."""

    net: str
    data: str
    metric: str
    higher: bool
    votes: bool = True


KINDS = (
    Kind("line", "slopes", "mae", False),
    Kind("words", "text", "perplexity", False),
    Kind("tagger", "tags", "right", True),
)


def of(*quick: str) -> Any:
    """Try a test with a few kinds, which differ in what matters to it; make stress, with the others, too."""
    kinds = [pytest.param(kind, marks=[pytest.mark.stress] * (kind.data not in quick)) for kind in KINDS]
    return pytest.mark.parametrize("made", kinds, ids=lambda kind: kind.data, indirect=True, scope="module")


# Perplexities go the same way in test_forms_of_batches in every run.
EVERYDAY = [pytest.param(kind, marks=[pytest.mark.stress] * (kind.data == "text")) for kind in KINDS]


@pytest.fixture(scope="module", params=EVERYDAY, ids=lambda kind: kind.data)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, commands: Any) -> tuple[Any, Kind]:
    """A graph of four modes of that kind, a line, a curve and a bilinear surface; and the kind."""
    kind: Kind = request.param
    directory = tmp_path_factory.mktemp(kind.data)
    (directory / "own.py").write_text(OWN)
    run = commands(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGRAPH_CONFIG_DIR", str(directory / "config"))
        run("init", "g.mgraph", "--arch", f"own.py:{kind.net}", "--data", f"own.py:{kind.data}")
        for seed, name in enumerate("abcd"):
            run("train", "--seed", seed, "--epochs", 4, "--lr", 0.1, "--name", name)
        run("connect", "a", "b", "--linear", "--grid", 5, "--name", "line")
        run("connect", "a", "b", "--curve", "--epochs", 3, "--lr", 0.02, "--grid", 5, "--name", "curve")
        run("connect", *"abcd", "--linear", "--grid", 3, "--name", "wall")
    return run, kind


@pytest.fixture
def run(made: tuple[Any, Kind], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(made[0].directory / "config"))
    return made[0]


@pytest.fixture
def kind(made: tuple[Any, Kind]) -> Kind:
    return made[1]


def test_listings_have_its_columns_and_sort_by_them(run: Any, kind: Kind) -> None:
    rows = run("ls", "--sort", f"test_{kind.metric}", "--json").rows
    values = [row[f"test_{kind.metric}"] for row in rows if row["kind"] == "mode"]
    assert len(values) == 4
    assert values == sorted(values)
    least = min(values)
    (found,) = run("ls", "--where", f"kind = 'mode' and test_{kind.metric} <= {least!r}", "--json").rows
    assert found[f"test_{kind.metric}"] == least
    assert f"test {kind.metric}" in run("ls").stdout


def test_edges_stand_on_its_cost_and_queries_take_its_name(run: Any, kind: Kind) -> None:
    edges = [e for e in run("show", "line", "--json").row["edges"] if e["metric"] == kind.metric]
    assert {e["split"] for e in edges} == {"train", "valid", "test"}
    assert all(e["barrier"] >= 0 for e in edges)
    swept = json.loads(run("sql", "SELECT * FROM samples WHERE connection = 'line'", "--json").stdout)["rows"]
    along = [row[f"train_{kind.metric}"] for row in swept]
    worst = min(along) if kind.higher else max(along)
    (train,) = (e for e in edges if e["split"] == "train")
    assert train["peak"] == pytest.approx(-worst if kind.higher else worst)
    for command in (("components",), ("route", "a", "b"), ("mst",)):
        found = run(*command, "--metric", kind.metric, "--max-barrier", 1e9, "--json", code=0)
        assert found.document
    assert run("suggest", "--metric", kind.metric, "--json").document
    joined = run("components", "--metric", kind.metric, "--max-barrier", 1e9, "--json").row
    assert [c["size"] for c in joined["components"]] == [4]
    assert run("components", "--max-drop", 1e9, "--json").row["components"][0]["size"] == 4  # of its primary metric
    wrong = run("components", "--metric", "speed", "--max-barrier", 1, code=2)
    assert kind.metric in wrong.stderr


def test_merging_chooses_by_it(run: Any, kind: Kind) -> None:
    name = f"best_{kind.metric}"
    row = run("merge", "wall", "--best", "--name", name, "--force", "--json").row
    assert row["name"] == name
    swept = json.loads(run("sql", "SELECT * FROM samples WHERE connection = 'wall'", "--json").stdout)["rows"]
    values = [r[f"valid_{kind.metric}"] for r in swept]
    (chosen,) = (r for r in run("ls", "--where", f"name = '{name}'", "--json").rows)
    best = max(values) if kind.higher else min(values)
    assert chosen[f"valid_{kind.metric}"] == pytest.approx(best, rel=1e-6)
    assert run("merge", "curve", "--soup", "greedy", "--name", f"soup_{kind.metric}", "--force", "--json").row["name"]


@of("slopes", "tags")  # less is better, and more
def test_tables_and_pictures_show_it(run: Any, kind: Kind, tmp_path: Path) -> None:
    table = run("show", "wall", "--table", "--json").row
    assert table["models"]["quantity"].startswith(f"test {kind.metric}")
    better = max if kind.higher else min
    values = [table["models"][what]["value"] for what in ("best", "oracle")]
    assert better(values) == values[1]
    run("plot", "line", "-o", tmp_path / "line.png")
    run("plot", "wall", "-o", tmp_path / "wall.png")
    assert (tmp_path / "wall.png").stat().st_size > 1000


def test_ensembles_vote_as_the_task_says(run: Any, kind: Kind) -> None:
    row = run("ensemble", "curve", "--grid", 3, "--json").row
    single, corners, *_, whole = row["models"]
    assert {f"valid_{kind.metric}", f"test_{kind.metric}", "valid_loss"} <= set(single) == set(corners) == set(whole)
    assert row["corners_minus_single_verdict"] in ("better", "worse", "even")
    ways = {"mae": "mean of outputs", "perplexity": "mean of softmax outputs", "right": "mean of sigmoid outputs"}
    run("export", "curve", "--ensemble", "--grid", 2, "-o", f"of_{kind.metric}")
    manifest = json.loads((run.directory / f"of_{kind.metric}" / "manifest.json").read_text())
    assert manifest["combine"] == ways[kind.metric]
    assert {"loss", kind.metric} <= set(manifest["test"])


def test_differences_are_paired_and_say_of_what(run: Any, kind: Kind) -> None:
    """By the metric where examples have one; a perplexity is of all at once, so by the loss. More is better."""
    row = run("merge", "line", "--at", 0.5, "--force", "--json").row
    of = "loss" if kind.metric == "perplexity" else kind.metric
    merged, corner = (next(m for m in row["models"] if m["what"] == what) for what in (row["id"], row["against"]))
    sign = 1 if kind.higher else -1
    assert row[f"test_{of}_difference"] == pytest.approx(sign * (merged[f"test_{of}"] - corner[f"test_{of}"]), abs=1e-6)
    assert row[f"test_{of}_difference_standard_error"] > 0


@of("slopes")
def test_auto_connects_within_a_limit_on_it(run: Any, kind: Kind) -> None:
    args = ("connect", "c", "d", "--auto", "--max-barrier", 1e9, "--metric", kind.metric, "--json")
    assert run(*args).row["threshold"]["metric"] == kind.metric
    refused = run("connect", "c", "d", "--auto", "--max-barrier", 1, "--metric", "speed", code=2).stderr
    assert f"measured by loss, {kind.metric}, not by speed" in refused


def test_a_direction_that_is_turned_round_is_refused(commands: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "own.py").write_text(OWN)
    run = commands(tmp_path)
    made = run("init", "g.mgraph", "--arch", "own.py:line", "--data", "own.py:slopes", "--json").row
    assert made["metrics"] == [{"name": "mae", "better": "lower", "unit": "mm", "cost": "mae"}]
    (tmp_path / "own.py").write_text(OWN.replace('absolute_error, better="lower"', 'absolute_error, better="higher"'))
    told = run("train", "--epochs", 1, "--trust", code=2).stderr
    assert "Of the metric mae, lower values were better when space line-slopes was made, and now higher" in told
    # A metric that is new is recorded with the next numbers.
    more = OWN.replace('"metrics": metric}', '"metrics": [metric, Metric("worst", absolute_error, better="lower")]}')
    (tmp_path / "own.py").write_text(more)
    run("train", "--epochs", 1, "--name", "a", "--trust")
    assert [row["name"] for row in run("spaces", "--json").rows[0]["metrics"]] == ["mae", "worst"]
    assert run("ls", "--where", "test_worst > 0", "--json").rows[0]["name"] == "a"


def test_without_a_word_on_votes_an_ensemble_asks_for_one(commands: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "config"))
    own = OWN.replace("F.binary_cross_entropy_with_logits", "lambda o, t: F.binary_cross_entropy_with_logits(o, t)")
    (tmp_path / "own.py").write_text(own)
    run = commands(tmp_path)
    run("init", "g.mgraph", "--arch", "own.py:tagger", "--data", "own.py:tags")
    for seed, name in enumerate("ab"):
        run("train", "--seed", seed, "--epochs", 1, "--name", name)
    run("connect", "a", "b", "--linear", "--no-sweep", "--name", "line")
    runs = len(run("log", "--json").rows)
    assert "add combine= to it" in run("ensemble", "line", code=2).stderr
    assert len(run("log", "--json").rows) == runs
