"""Tasks whose batches are dicts or tuples of tensors, and networks that return more than logits, go everywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

import mgraph
from mgraph.architectures.lstm import lstm

OWN = '''
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import mgraph


def splits(make):
    return {name: make(torch.Generator().manual_seed(seed), count)
            for seed, (name, count) in enumerate({"train": 96, "valid": 40, "test": 40}.items())}


class Reader(nn.Module):
    """Says of a text whether more even than odd words are in it; the output is a dict, as transformers have it."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        words = torch.tanh(self.embed(input_ids)) * attention_mask[..., None]
        return {"logits": self.head(words.sum(1) / attention_mask.sum(1, keepdim=True)), "words": words}


def reader():
    return Reader()


def texts():
    def make(g, count):
        ids, lengths = torch.randint(6, (count, 5), generator=g), torch.randint(1, 6, (count,), generator=g)
        mask = (torch.arange(5) < lengths[:, None]).float()
        even = ((ids % 2 == 0) * mask).sum(1)
        return {"input_ids": ids, "attention_mask": mask}, (2 * even > mask.sum(1)).long()

    return splits(make)


class Speaker(nn.Module):
    """Logits of the next token, (N, T, 5), of each of the tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 6), nn.Linear(6, 5)

    def forward(self, input_ids, attention_mask):
        return self.out(torch.tanh(self.embed(input_ids)))


def speaker():
    return Speaker()


def stories():
    def make(g, count):
        first = torch.randint(5, (count, 1), generator=g)
        lengths = torch.randint(2, 6, (count,), generator=g)
        mask = (torch.arange(5) < lengths[:, None]).long()
        return {"input_ids": (first + torch.arange(5)) % 5, "attention_mask": mask}

    return mgraph.tasks.language_model(**splits(make), vocabulary=5)


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return {"out": self.two(F.relu(self.norm(self.one(x))))}


def pixels():
    return Pixels()


def blobs():
    def make(g, count):
        x = torch.randn(count, 1, 4, 4, generator=g)
        y = (x[:, 0] > 0).long()
        y[:, 0, : int(count % 3)] = 255
        y[::2, 3] = 255
        return x, y

    return mgraph.tasks.segmentation(**splits(make), classes=2)


class Sum(nn.Module):
    """Adds up two inputs, which come by position."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(2, 6), nn.Linear(3, 6), nn.Linear(6, 1)

    def forward(self, a, b):
        return self.out(torch.tanh(self.one(a) + self.two(b)))


def summing():
    return Sum()


def pairs():
    def make(g, count):
        a, b = torch.randn(count, 2, generator=g), torch.randn(count, 3, generator=g)
        return (a, b), a[:, :1] - 0.5 * b[:, 1:2]

    return mgraph.tasks.regression(**splits(make))


class Marks(nn.Sequential):
    """Which of three labels an example has."""

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def marks():
    return Marks()


def tags():
    def make(g, count):
        x = torch.randn(count, 4, generator=g)
        return x, (x[:, :3] + x[:, 1:] > 0).float()

    return mgraph.tasks.multi_label(**splits(make))


def pages():
    """The text of a directory, as mgraph reads it."""
    from mgraph.data.loading import load_task

    return load_task("text:words?length=5", base=Path(__file__).parent)
'''
WORDS = "the cat saw the dog and the dog saw the cat\n"


@dataclass(frozen=True)
class Kind:
    """A task: how its network and data are called in the file, and its metric; or a spec of the network."""

    net: str
    data: str
    metric: str

    @property
    def arch(self) -> str:
        return self.net if "?" in self.net else f"own.py:{self.net}"


KINDS = (
    Kind("reader", "texts", "accuracy"),
    Kind("speaker", "stories", "perplexity"),
    Kind("pixels", "blobs", "miou"),
    Kind("summing", "pairs", "mae"),
    pytest.param(Kind("marks", "tags", "labels_right"), marks=pytest.mark.stress),
    pytest.param(Kind("lstm?width=6&layers=1", "pages", "perplexity"), marks=pytest.mark.stress),
)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.data)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, commands: Any) -> tuple[Any, Kind]:
    """A graph of three modes of that kind, and the kind."""
    kind: Kind = request.param
    directory = tmp_path_factory.mktemp(kind.data)
    (directory / "own.py").write_text(OWN)
    (directory / "words").mkdir()
    for split, count in (("train", 20), ("valid", 6), ("test", 6)):
        (directory / "words" / f"{split}.txt").write_text(WORDS * count)
    run = commands(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGRAPH_CONFIG_DIR", str(directory / "config"))
        run("init", "g.mgraph", "--arch", kind.arch, "--data", f"own.py:{kind.data}")
        for seed, name in enumerate("abc"):
            run("train", "--seed", seed, "--epochs", 6, "--lr", 0.2, "--batch-size", 16, "--name", name)
    return run, kind


@pytest.fixture
def run(made: tuple[Any, Kind], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(made[0].directory / "config"))
    return made[0]


@pytest.fixture
def kind(made: tuple[Any, Kind]) -> Kind:
    return made[1]


METHODS = {
    "curve": ("--curve", "--epochs", 2, "--lr", 0.05),
    "chain": ("--neb", "-s", "cycles=2x4@0.05"),
    "walk": ("--llpf", "-s", "ticks=4", "-s", "max_steps=40"),
}


# Every form of a batch, and every way to train; the other pairs with make stress.
QUICK = {"texts": ("walk",), "stories": ("chain",), "blobs": ("chain",), "pairs": ("curve",)}


def test_modes_are_connected_swept_and_merged(run: Any, kind: Kind) -> None:
    for method in QUICK.get(kind.data, METHODS):
        connect_sweep_and_merge(run, kind, method)


@pytest.mark.stress
def test_and_so_they_are_by_every_other_method(run: Any, kind: Kind) -> None:
    for method in METHODS:
        if method not in QUICK.get(kind.data, METHODS):
            connect_sweep_and_merge(run, kind, method)


def connect_sweep_and_merge(run: Any, kind: Kind, method: str) -> None:
    run("connect", "a", "b", *METHODS[method], "--grid", 5, "--name", method)
    edges = run("show", method, "--json").row["edges"]
    assert {e["metric"] for e in edges} >= {"loss", kind.metric if kind.metric != "accuracy" else "error"}
    merged = run("merge", method, "--at", 0.5, "--force", "--name", f"m-{method}", "--json").row
    assert merged["name"] == f"m-{method}"
    of = "loss" if kind.metric in ("perplexity", "miou") else kind.metric  # of examples, not of all at once
    assert merged[f"test_{of}_difference_standard_error"] > 0


# A regression's ensemble is measured in test_other_tasks in every run.
MEASURED = [
    pytest.param(k, marks=pytest.mark.stress) if isinstance(k, Kind) and k.data == "pairs" else k for k in KINDS
]


@pytest.mark.parametrize("made", MEASURED, ids=lambda kind: kind.data, indirect=True, scope="module")
def test_a_surface_an_ensemble_and_a_sharpness_are_measured(run: Any, kind: Kind) -> None:
    run("connect", "a", "b", "c", "--simplex", "--grid", 2, "--name", "simplex")
    whole = run("ensemble", "simplex", "--grid", 2, "--json").row["models"][-1]
    assert f"test_{kind.metric}" in whole
    (profile,) = run("sharpness", "a", "-s", "what=profile", "-s", "directions=1", "--json").rows
    assert all(row["max"] >= 0 for row in profile["profile"])


def test_plain_torch_reloads_a_mode_and_measures_the_same(run: Any, kind: Kind) -> None:
    run("export", "a", "-o", "a.safetensors", "--overwrite")
    own: dict[str, Any] = {"__file__": str(run.directory / "own.py")}
    exec(compile(OWN, "own.py", "exec"), own)
    made = own[kind.data]()
    network = own[kind.net]() if kind.net in own else lstm(input_shape=(5,), width=6, layers=1, classes=made.classes)
    network.load_state_dict(load_file(run.directory / "a.safetensors"))
    x, y = next((mgraph.make_task(**made) if isinstance(made, dict) else made).test.batches(1000))
    with torch.no_grad():
        network.eval()
        out = network(**x) if isinstance(x, dict) else network(*x) if isinstance(x, tuple) else network(x)
    (row,) = run("ls", "--where", "name = 'a'", "--json").rows
    assert row[f"test_{kind.metric}"] == pytest.approx(float(by_hand(kind.data, out, y)), rel=1e-5)


def by_hand(data: str, out: Any, y: Any) -> torch.Tensor:
    """The metric of each kind, written down once more."""
    if data == "texts":
        return (out["logits"].argmax(1) == y).double().mean()
    if data in ("stories", "pages"):
        return F.cross_entropy(out.flatten(0, 1), y.flatten()).exp()  # which leaves -100 out
    if data == "tags":
        return ((out > 0) == (y > 0.5)).double().mean()
    if data == "blobs":
        answer, counts = out["out"].argmax(1), y != 255
        both = [((answer == c) & (y == c) & counts).sum() for c in (0, 1)]
        either = [(((answer == c) | (y == c)) & counts).sum() for c in (0, 1)]
        return sum(one / all_of for one, all_of in zip(both, either, strict=True)) / 2
    return (out - y).abs().mean()


def test_the_loss_of_a_text_is_the_mean_over_all_its_tokens(run: Any, kind: Kind) -> None:
    if kind.metric == "perplexity":
        (row,) = run("ls", "--where", "name = 'a'", "--json").rows
        assert row["test_perplexity"] == pytest.approx(2.718281828459045 ** row["test_loss"], rel=1e-6)


def test_a_built_in_network_says_that_it_takes_one_tensor(commands: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "own.py").write_text(OWN)
    told = commands(tmp_path)("init", "g.mgraph", "--arch", "mlp", "--data", "own.py:texts", code=2).stderr
    assert "mlp takes one tensor, and the inputs of these data are several (input_ids, attention_mask)" in told


def test_the_exported_facts_name_every_input(run: Any, kind: Kind) -> None:
    run("export", "b", "-o", "b.safetensors", "--overwrite")
    with safe_open(run.directory / "b.safetensors", "pt") as opened:
        shape = json.loads(opened.metadata()["mgraph"])["data"]["input_shape"]
    expected: dict[str, Any] = {
        "texts": {"input_ids": [5], "attention_mask": [5]},
        "stories": {"input_ids": [4], "attention_mask": [4]},
        "blobs": [1, 4, 4],
        "pairs": [[2], [3]],
        "tags": [4],
        "pages": [5],
    }
    assert shape == expected[kind.data]
