"""Modes from what is in memory: modules and dicts of tensors, under the checks of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mgraph
from mgraph.errors import InputError, LayoutMismatchError, NonFiniteError
from mgraph.operations.modes import SimilarModeWarning

pytestmark = pytest.mark.filterwarnings("ignore::mgraph.operations.importing.StaleStatisticsWarning")


def shaken(graph: Any, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights that are no mode yet."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = graph.node("a").state_dict()
    return {k: v + scale * torch.randn_like(v) if k.endswith("weight") else v for k, v in state.items()}


def test_a_module_and_its_state_dict_are_the_same_mode(graph: Any) -> None:
    module = graph.session.workspace(graph.session.space()).new_module(7)
    module.load_state_dict(state := shaken(graph))
    first = graph.add_mode(module, name="first")
    with pytest.warns(SimilarModeWarning, match="exactly the parameters"):
        second = graph.add_mode(state, name="second")
    assert first.digest == second.digest
    infos = [point.describe()["info"] for point in (first, second)]
    assert [info["origin"] for info in infos] == ["python", "python"]
    assert infos[0]["blake2b"] == infos[1]["blake2b"]
    assert len(infos[0]["blake2b"]) == 32
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert first.ancestry()["origin"]["origin"] == "python"


def test_what_is_given_is_left_alone(graph: Any) -> None:
    module = graph.session.workspace(graph.session.space()).new_module(7).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    stored = graph.add_mode(module, name="x")
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in stored.state_dict().items())


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
@pytest.mark.parametrize(
    ("given", "note"),
    [
        (lambda state: {"epoch": 3, "state_dict": state, "optimizer": object()}, "skipped"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "module"),
        (lambda state: {name: np.asarray(value) for name, value in state.items()}, ""),
        (lambda state: {"raw": nn.ParameterDict(), "model": state}, "model"),
    ],
    ids=["wrapped", "prefixed", "arrays", "beside a module"],
)
def test_what_a_file_may_be_an_object_may_be(graph: Any, given: Any, note: str) -> None:
    state = shaken(graph)
    point = graph.add_mode(given(state), name="x")
    assert point.notes == point.describe()["info"]["notes"]
    assert note in " ".join(point.notes)
    assert torch.equal(point.state_dict()["0.weight"], state["0.weight"])


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda state: _without(state, "0.weight"), LayoutMismatchError, "0.weight"),
        (lambda state: state | {"0.weight": state["0.weight"][:2]}, LayoutMismatchError, r"0\.weight has shape"),
        (lambda state: state | {"0.weight": state["0.weight"].to("meta")}, LayoutMismatchError, "no values"),
        (lambda state: state | {"0.weight": state["0.weight"].to_sparse()}, LayoutMismatchError, "not a dense tensor"),
        (lambda state: state | {"0.weight": state["0.weight"] * float("nan")}, NonFiniteError, r"0\.weight"),
        (lambda state: state | {"0.weight": state["0.weight"].double()}, InputError, "cast"),
        (lambda _: nn.Linear(3, 2), LayoutMismatchError, "weight"),
        (lambda _: {}, InputError, "nothing but an empty dict"),
        (lambda _: 3, InputError, "not of type int"),
        (lambda _: torch.zeros(3), InputError, "not of type Tensor"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(graph: Any, given: Any, error: type, message: str) -> None:
    state, before = shaken(graph), graph.nodes()
    with pytest.raises(error, match=message):
        graph.add_mode(given(state), name="x")
    assert graph.nodes() == before


def test_its_job_cannot_be_written_down(graph: Any, path: Path) -> None:
    job = mgraph.AddObjectJob(space=graph.session.space().id, weights_of=shaken(graph), name="x")
    assert not job.can_be_written
    with pytest.raises(InputError, match=r"add-object job are in memory.*make an AddModeJob"):
        job.to_json()
    assert graph.run(job).name == "x"
    run = graph.runs()[-1]
    assert (run["command"], run["status"], run["resumable"]) == ("add-mode", "complete", False)
