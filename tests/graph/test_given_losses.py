"""Losses and augmentations given as functions: recorded by a name, or refused with what to do."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn import functional as F

import mgraph
from mgraph.errors import InputError

CODE = """
from torch.nn import functional as F

def doubled(outputs, targets):
    return 2 * F.cross_entropy(outputs, targets)

def upside_down(x, generator=None):
    return x.flip(2)

class Holder:
    @staticmethod
    def inside(outputs, targets):
        return doubled(outputs, targets)
"""


@pytest.fixture
def losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of the user's, imported as a script beside it would."""
    (tmp_path / "mylosses.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mylosses")
    sys.modules.pop("mylosses")


@pytest.fixture
def g(tmp_path: Path) -> Any:
    return mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")


def loss_of(point: Any) -> Any:
    return point.describe()["run"]["settings"]["loss"]


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_a_function_is_the_same_as_its_name(g: Any, losses: Any) -> None:
    given = g.train(epochs=1, loss=losses.doubled, name="a")
    named = g.train(epochs=1, loss="mylosses.py:doubled", name="b", seed=0)
    assert given.digest == named.digest != g.train(epochs=1, name="c").digest
    assert loss_of(given) == loss_of(named) == "mylosses.py:doubled"


def test_a_library_s_function_has_a_name(g: Any) -> None:
    point = g.train(epochs=1, loss=F.multi_margin_loss)
    assert loss_of(point) == "torch.nn.functional:multi_margin_loss"
    assert mgraph.TrainSettings(loss=F.cross_entropy).loss == "torch.nn.functional:cross_entropy"


def test_every_method_takes_one(losses: Any) -> None:
    for method in mgraph.METHODS.values():
        if "loss" in {info.name for info in method.infos()}:
            made = method(loss=losses.doubled)
            assert made.loss == "mylosses.py:doubled"
            job = mgraph.ConnectJob(ends=("a", "b"), method=made)
            assert mgraph.ConnectJob.from_json(job.to_json()) == job


def test_so_does_an_augmentation(losses: Any) -> None:
    settings = mgraph.TrainSettings(augment=losses.upside_down)
    assert settings.augment == "mylosses.py:upside_down"
    assert mgraph.TrainJob.from_json(mgraph.TrainJob(space="s", settings=settings).to_json()).settings == settings


def of_this_function(factor: float) -> Any:
    def scaled(outputs: Any, targets: Any) -> Any:
        return factor * F.cross_entropy(outputs, targets)

    return scaled


def inside() -> Any:
    def tripled(outputs: Any, targets: Any) -> Any:
        return 3 * F.cross_entropy(outputs, targets)

    return tripled


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: lambda o, t: o.sum(), "a lambda has no name"),
        (lambda losses: partial(losses.doubled), "a functools.partial has no name"),
        (lambda _: nn.CrossEntropyLoss(), "it is an object, not a function"),
        (lambda _: nn.CrossEntropyLoss, "it is a class"),
    ],
)
def test_what_has_no_name_is_refused_with_what_to_do(g: Any, losses: Any, make: Any, reason: str) -> None:
    with pytest.raises(InputError, match=f"^loss was given as .*{reason}.*top of a file.*loss='file.py:name'"):
        g.train(epochs=1, loss=make(losses))
    assert not g.runs()


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_a_function_without_a_name_is_kept_by_its_source(g: Any, losses: Any, tmp_path: Path) -> None:
    """One that is made inside another, a class's, and one of a module that nobody else can import."""
    nowhere = types.ModuleType("nowhere")
    file = tmp_path / "unseen" / "nowhere.py"
    file.parent.mkdir()
    file.write_text(CODE)
    exec(compile(CODE, str(file), "exec"), vars(nowhere))
    for number, function in enumerate((inside(), losses.Holder.inside, nowhere.doubled)):
        point = g.train(epochs=1, seed=number, loss=function)
        named = loss_of(point)
        assert named.startswith(f"{g.path}/code/{function.__name__}-")
    again = mgraph.open(g.path, trust=True, device="cpu").train(epochs=1, seed=2, loss=named)
    assert again.digest == point.digest


def test_a_function_that_uses_what_it_was_made_with_is_refused(g: Any) -> None:
    with pytest.raises(InputError, match="scaled uses factor of the function that it was made in"):
        g.train(epochs=1, loss=of_this_function(2.0))
    assert not g.runs()


def test_a_function_of_the_running_script_is_refused(tmp_path: Path, python: Any) -> None:
    script = """
import mgraph
def mine(outputs, targets):
    return outputs.sum()
try:
    mgraph.TrainSettings(loss=mine)
except mgraph.MGraphError as error:
    print(error)
"""
    assert "defined in the running script or notebook" in python(script, cwd=tmp_path)


def test_a_function_that_was_replaced_is_refused(losses: Any) -> None:
    before = losses.doubled
    losses.doubled = lambda o, t: o.sum()
    with pytest.raises(InputError, match="mylosses has no such function"):
        mgraph.TrainSettings(loss=before)
