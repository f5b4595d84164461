"""A metric measured batch by batch is the metric of the whole, whatever its form; the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgraph.data.making import make_task
from mgraph.data.metrics import as_metrics
from mgraph.errors import InputError
from mgraph.evaluate.known import BESIDE
from mgraph.evaluate.metric_names import _BUILT_IN, resolve_metrics
from mgraph.evaluate.metrics import example_scores, judge
from mgraph.evaluate.running import start
from mgraph.metric import LOSS, Metric, from_json, primary_of, to_json

G = torch.Generator().manual_seed(0)
OUT, Y = torch.randn(40, 3, generator=G), torch.arange(40) % 3
SIZES = st.lists(st.integers(1, 15), min_size=1, max_size=6)


def batches(sizes: list[int], out: Tensor = OUT, y: Tensor = Y) -> list[tuple[Tensor, Tensor]]:
    """Cut outputs and targets into batches of these sizes and a last one of what is left."""
    cuts = [c for c in np.cumsum(sizes).tolist() if c < len(y)]
    return list(zip(torch.tensor_split(out, cuts), torch.tensor_split(y, cuts), strict=True))


def measured(metric: Metric, parts: list[tuple[Tensor, Tensor]]) -> Any:
    running = start(metric, sum(len(y) for _, y in parts))
    for out, y in parts:
        running.add(out, y)
    return running.result()


def margin(out: Tensor, y: Tensor) -> Tensor:
    return out.gather(1, y[:, None])[:, 0] - out.mean(1)


def sums(out: Tensor, y: Tensor) -> tuple[Tensor, int]:
    return torch.nn.functional.cross_entropy(out, y, reduction="sum"), len(y)


FORMS = (
    Metric("margin", margin, better="higher"),
    Metric("perplexity", sums, better="lower", compute=lambda loss, count: (loss / count).exp()),
    Metric("spread", lambda out, y: out.std(), better="lower"),
    Metric("spread", lambda out, y: out.std(), better="lower", whole=True),
)


@pytest.mark.parametrize("metric", FORMS, ids=["examples", "sums", "one number", "whole"])
@given(sizes=SIZES)
@settings(max_examples=15, deadline=None)
def test_batches_do_not_matter(metric: Metric, sizes: list[int]) -> None:
    if metric.compute is None and metric.name == "spread" and sizes[0] == 1:
        sizes[0] = 2  # of one example alone, a number could be its own
    whole, found = measured(metric, [(OUT, Y)]), measured(metric, batches(sizes))
    assert found.value == pytest.approx(whole.value, rel=1e-6)
    assert found.count == whole.count == 40
    assert (found.standard_error is None) == (metric.name != "margin")


def test_a_function_that_takes_only_a_whole_split_gets_one() -> None:
    def ranks(out: Tensor, y: Tensor) -> Tensor:
        assert len(y) == 40
        return out[:, 0].argsort().argsort().double()

    assert measured(Metric("ranks", ranks), batches([7, 7])).value == pytest.approx(19.5)


def test_outputs_that_are_too_many_are_refused_at_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph.evaluate.running.WHOLE_BYTES", 40 * (3 * 4 + 8) - 1)
    for metric in FORMS[:2]:
        measured(metric, batches([10]))
    with pytest.raises(InputError, match=r"The metric spread needs the outputs of a whole split at once.*compute="):
        start(FORMS[2], 40).add(OUT[:10], Y[:10])


@pytest.mark.parametrize(
    ("function", "compute", "message"),
    [
        (lambda out, y: (1 / 0, 1), lambda a, b: a, "The metric odd failed: ZeroDivisionError"),
        (lambda out, y: tuple(torch.ones(1 + len(y))), lambda *a: 1.0, "the same running sums for every batch"),
        (lambda out, y: (out.sum(0), 1), lambda a, b: a, r"gives torch.float64 of shape \[3\] for a split"),
        (lambda out, y: out.sum() if len(y) == 7 else out[:, 0], None, "one number for some batches"),
    ],
)
def test_what_is_no_metric_is_refused(function: Any, compute: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measured(Metric("odd", function, compute=compute), batches([10, 7]))


def test_costs_and_choices() -> None:
    high, up, low = Metric("f", margin, "higher", 1.0), Metric("g", margin, "higher"), Metric("h", margin, "lower")
    assert [m.cost(0.75) for m in (high, up, low)] == [0.25, -0.75, 0.75]
    assert [m.sign for m in (high, up, low)] == [1.0, 1.0, -1.0]
    none = Metric("x", margin)
    for use in (lambda: none.cost(1.0), lambda: none.sign):
        with pytest.raises(InputError, match="It is not known whether a higher or lower x is better"):
            use()
    assert [primary_of(m).name for m in ([none, low, high], [none], [])] == ["h", LOSS.name, LOSS.name]
    for wrong in ({"name": "a b"}, {"name": "x", "better": "up"}, {"name": "x", "best": 1.0}):
        with pytest.raises(InputError):
            Metric(function=margin, **wrong)  # type: ignore[arg-type]


@given(st.text(max_size=40) | st.sampled_from(["null", "3", "[3]", '[{"name": 3}]', '[{"name": "x", "best": "y"}]']))
@settings(max_examples=15, deadline=None)
def test_what_is_recorded_is_read_back_and_nonsense_says_nothing(text: str) -> None:
    given = (Metric("f", margin, "higher", 1.0, "%", cost_name="wrong"), Metric("x", margin))
    assert [m.stored() for m in from_json(to_json(given))] == [m.stored() for m in given]
    assert from_json(text) in ((), from_json("[]"))


def test_directions_of_what_users_give() -> None:
    def f1(out: Tensor, y: Tensor) -> Tensor:
        return margin(out, y)

    known, told, none = as_metrics({"f1": f1, "speed": margin, "odd": margin}, {"speed": "lower"})
    assert [(m.name, m.better, m.best) for m in (known, told, none)] == [
        ("f1", "higher", 1.0),
        ("speed", "lower", None),
        ("odd", None, None),
    ]
    assert [m.name for m in as_metrics([f1, told])] == ["f1", "speed"]
    assert as_metrics(None) == ()
    for what, better, message in (
        ({"loss": f1}, None, "The name loss is taken"),
        ([f1, f1], None, "The name f1 is taken"),
        ({"f1": 3}, None, "The metric f1 is a int"),
        ({"f1": f1}, {"f2": "lower"}, "better names f2, and the task's metrics are: f1"),
    ):
        with pytest.raises(InputError, match=message):
            as_metrics(what, better)  # type: ignore[arg-type]


def test_examples_are_scored_by_the_primary_metric_else_by_the_loss() -> None:
    x = np.zeros((40, 3), np.float32)
    data: dict[str, Any] = {"train": (x, Y), "valid": (x, Y), "test": (x, Y)}
    less = make_task(**data, metrics=[Metric("margin", margin, "lower")])
    found = example_scores(less, batches([9]), 40)
    assert found is not None
    assert found[0].name == "margin"
    assert torch.equal(found[1], -margin(OUT, Y).double())
    by_loss = example_scores(make_task(**data, metrics=FORMS[1]), batches([9]), 40)
    assert by_loss is not None
    assert by_loss[0] is LOSS
    numbers = judge(less, batches([9]), 40)
    assert -float(by_loss[1].mean()) == pytest.approx(numbers["loss"].value)
    unknown = make_task(**data, metrics=FORMS[1], loss=lambda out, y: out.mean(), combine="none")
    assert example_scores(unknown, batches([9]), 40) is None


def test_what_help_lists_is_what_there_is() -> None:
    assert set(_BUILT_IN) == {"accuracy", *BESIDE}
    assert {m.better for m in _BUILT_IN.values()} == {"higher", "lower"}


def test_metrics_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    x = np.zeros((40, 3), np.float32)
    task = make_task(
        train=(x, Y), test=(x, Y), metrics={"f1": classification.MulticlassF1Score(num_classes=3, average="macro")}
    )
    (f1,) = task.metrics
    assert (f1.better, f1.best) == ("higher", 1.0)
    label = OUT.argmax(1)
    by_hand = [
        2 * float(((label == c) & (c == Y)).sum()) / float((label == c).sum() + (c == Y).sum()) for c in range(3)
    ]
    for _ in range(2):  # what one split leaves behind does not reach the next
        assert measured(f1, batches([11, 5])).value == pytest.approx(np.mean(by_hand))
    named, error = resolve_metrics(
        ["torchmetrics:MulticlassAccuracy?num_classes=3&average=micro", "torchmetrics:regression.MeanAbsoluteError"],
        task,
    )
    assert measured(named, batches([11])).value == pytest.approx(float((label == Y).double().mean()))
    assert (named.name, named.better, error.better) == ("MulticlassAccuracy", "higher", "lower")
    labels = as_metrics(classification.MultilabelAccuracy(num_labels=3))[0]
    targets = (OUT > 0.3).float()  # floats, as losses of several labels want them
    assert measured(labels, batches([9], OUT, targets)).value > 0.5
    with pytest.raises(InputError, match="it must give one real number"):
        measured(as_metrics(classification.MulticlassF1Score(num_classes=3, average=None))[0], batches([9]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchmetrics:MulticlasF1Score", "torchmetrics has no metric 'MulticlasF1Score'; did you mean"),
        ("torchmetrics:classification.Metric", "has no metric 'Metric'"),
        ("torchmetrics:text.BERTScore", "has no metric 'BERTScore'"),
        ("torchmetrics:utilities.data.dim_zero_cat", "There is no metric 'torchmetrics:utilities.data.dim_zero_cat'"),
        ("torchmetrics:MulticlassF1Score", "cannot be made: TypeError"),
    ],
)
def test_only_metrics_that_compute_with_what_they_are_given_can_be_named(spec: str, message: str) -> None:
    pytest.importorskip("torchmetrics")
    x = np.zeros((40, 3), np.float32)
    with pytest.raises(InputError, match=message):
        resolve_metrics([spec], make_task(train=(x, Y), test=(x, Y)))
