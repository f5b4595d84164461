"""Networks of points, for one's own use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mgraph.errors import InputError


def accuracy(graph: Any, module: torch.nn.Module) -> float:
    """Measure a module in plain PyTorch on the test split."""
    test = graph.session.workspace(graph.session.space()).task.test
    x, y = test.examples(torch.arange(len(test)), device=torch.device("cpu"))
    with torch.no_grad():
        return float((module(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("which", ["mode", "merged", "sample"])
def test_a_model_computes_what_its_point_was_measured_at(graph: Any, which: str) -> None:
    s = graph.connection("s").swept()
    inside = next(i for i in s.node_ids if graph.node(i).kind == "sample")
    point = graph.node({"mode": "a", "merged": "m", "sample": inside}[which])
    module = point.model()
    assert not module.training
    assert next(module.parameters()).device.type == "cpu"
    assert accuracy(graph, module) == pytest.approx(point.evaluate("test")["accuracy"].value)
    state = point.state_dict()
    assert set(module.state_dict()) == set(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    if which == "sample":
        swept = s.values["test", "accuracy"][s.node_ids.index(point.id)]
        assert accuracy(graph, module) == pytest.approx(swept)


def test_a_model_is_ones_own(graph: Any) -> None:
    a = graph.node("a")
    before = a.evaluate("test")["loss"].value
    first, second = a.model(), a.model()
    first.train()
    with torch.no_grad():
        for tensor in [*first.parameters(), *first.buffers()]:
            tensor.zero_()
    assert a.evaluate("test")["loss"].value == before
    graph.node("b").evaluate("test")
    assert accuracy(graph, second) == pytest.approx(a.evaluate("test")["accuracy"].value)
    assert all(parameter.requires_grad for parameter in second.parameters())


def test_a_device_that_is_not_there_is_refused(graph: Any) -> None:
    with pytest.raises(InputError, match="There is no device 'gpu'"):
        graph.node("a").model(device="gpu")
