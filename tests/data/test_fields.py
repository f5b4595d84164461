"""Batches of several tensors: what is read, divided, joined and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.data import Dataset

from mgraph.calling import call, chosen
from mgraph.data import tasks
from mgraph.data.making import make_task
from mgraph.errors import InputError, NonFiniteError
from mgraph.fields import Fields, divided, examples_in, joined, numbers_in, part_of, shapes_of, tensors_of

RNG = np.random.default_rng(0)
IDS, MASK, LABELS = RNG.integers(9, size=(30, 4)), np.ones((30, 4), np.float32), np.arange(30) % 3


def forms(tensor: torch.Tensor) -> list[Fields]:
    return [tensor, {"a": tensor, "b": tensor[:, None] * 2}, (tensor, tensor * 3)]


@given(st.integers(1, 7), st.data())
def test_what_is_divided_joins_to_the_same(count: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, count))
    for form in forms(torch.arange(count * 2).view(count, 2)):
        parts = divided(form, [cut, count - cut])
        again = joined(parts)
        assert type(again) is type(form)
        assert all(map(torch.equal, tensors_of(again), tensors_of(form)))
        assert [examples_in(part) for part in parts] == [cut, count - cut]
        assert all(map(torch.equal, tensors_of(parts[0]), tensors_of(part_of(form, slice(0, cut)))))


def test_shapes_have_the_form_of_the_fields() -> None:
    one, named, placed = forms(torch.zeros(5, 2))
    assert (shapes_of(one), shapes_of(named), shapes_of(placed)) == ((2,), {"a": (2,), "b": (1, 2)}, ((2,), (2,)))
    assert [numbers_in(shapes_of(form)) for form in (one, named, placed)] == [2, 4, 4]
    assert numbers_in(()) == 1


def test_a_network_is_called_as_its_batch_is_made() -> None:
    def network(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b

    x, y = torch.ones(2), torch.zeros(2)
    assert torch.equal(call(network, {"b": y, "a": x}), x)
    assert torch.equal(call(network, (y, x)), -x)
    assert torch.equal(call(torch.neg, x), -x)


def test_what_counts_of_outputs() -> None:
    logits, more = torch.zeros(1), torch.ones(1)
    assert chosen({"logits": logits, "more": more}, "auto") is logits
    assert chosen({"logits": logits, "more": more}, "more") is more
    assert chosen((logits, more), 1) is more
    assert chosen((logits, more), None) == (logits, more)
    assert chosen(logits, "more") is logits  # there is nothing to choose from
    assert chosen((logits, more), lambda out: out[0]) is logits
    with pytest.raises(InputError, match="outputs='loss' is not among what the network returns: logits, more"):
        chosen({"logits": logits, "more": more}, "loss")
    with pytest.raises(InputError, match=r"outputs=2 .*: 2 things"):
        chosen((logits, more), 2)


def test_arrays_by_name_and_by_place() -> None:
    named = make_task(train=({"ids": IDS, "mask": MASK}, LABELS), test=({"ids": IDS, "mask": MASK}, LABELS))
    x, y = named.test.examples(torch.tensor([3, 1]))
    assert isinstance(x, dict)
    assert torch.equal(x["ids"], torch.as_tensor(IDS[[3, 1]]))
    assert torch.equal(y, torch.as_tensor(LABELS[[3, 1]]))
    assert named.input_shape == {"ids": (4,), "mask": (4,)}
    placed = make_task(train=((IDS, MASK), LABELS), test=((IDS, MASK), LABELS))
    assert placed.input_shape == ((4,), (4,))
    assert len(placed.valid) == 3
    several = make_task(train=(MASK, {"a": LABELS, "b": MASK}), test=(MASK, {"a": LABELS, "b": MASK}), loss=first_field)
    assert several.classes is None
    assert several.metrics == ()


def first_field(outputs: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(outputs, targets["a"])


def test_a_tuple_of_as_many_arrays_as_examples_is_those_examples() -> None:
    pair = (tuple(MASK), LABELS)
    assert make_task(train=pair, test=pair).input_shape == (4,)


def test_the_fingerprint_knows_names_and_values() -> None:
    def print_of(**x: np.ndarray) -> str:
        return make_task(train=(x, LABELS), test=(x, LABELS)).fingerprint

    assert print_of(ids=IDS, mask=MASK) == print_of(ids=IDS.copy(), mask=MASK)
    assert len({print_of(ids=IDS, mask=MASK), print_of(ids=IDS, mark=MASK), print_of(ids=IDS + 1, mask=MASK)}) == 3


class Items(Dataset):
    def __init__(self, make: object) -> None:
        self.make = make

    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> object:
        return self.make(i)


def test_items_of_a_dataset_are_dicts_too() -> None:
    as_pairs = Items(lambda i: ({"ids": IDS[i], "mask": MASK[i]}, int(LABELS[i])))
    as_hugging_face = Items(lambda i: {"ids": IDS[i], "labels": int(LABELS[i]), "mask": MASK[i]})
    prints = set()
    for data in (as_pairs, as_hugging_face):
        task = make_task(train=data, test=data)
        x, y = task.test.examples(torch.tensor([5, 2]))
        assert torch.equal(x["mask"], torch.ones(2, 4))
        assert torch.equal(y, torch.tensor([2, 2]))
        prints.add(task.fingerprint)
    assert len(prints) == 1
    alone = make_task(train=Items(lambda i: {"image": MASK[i], "label": int(LABELS[i])}), test=as_pairs_of_one())
    assert alone.input_shape == (4,)


def as_pairs_of_one() -> Items:
    return Items(lambda i: (MASK[i], int(LABELS[i])))


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        ({"ids": IDS, "mask": MASK[:5]}, InputError, r"x\[mask\] of the train split has 5 examples"),
        ({"ids": IDS, 3: MASK}, InputError, "x of the train split has the key 3"),
        ({}, InputError, "x of the train split is an empty dict"),
        (
            {"ids": IDS, "mask": MASK * np.inf},
            NonFiniteError,
            r"x\[mask\] of the train split has 108 values that are NaN",
        ),
        ({"ids": IDS, "words": np.array(["a"] * 30)}, InputError, r"x\['words'\] of the train split is of type <U1"),
    ],
)
def test_what_cannot_be_used_is_named(x: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_task(train=(x, LABELS), test=(x, LABELS))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda i: ({"ids": IDS[i][: 4 - i]}, 0),
            r"Input 1 of the train split, ids, has shape \[3\], and input 0 \[4\]",
        ),
        (lambda i: ({"ids" if i else "id": IDS[i]}, 0), "Input 1 of the train split has ids, and input 0 id"),
        (lambda i: {"ids": IDS[i], "score": 1}, "it is unknown which is the input"),
    ],
)
def test_items_that_differ_are_named(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_task(train=Items(make), test=Items(make)).fingerprint  # noqa: B018


def test_mean_and_std_are_of_a_single_tensor() -> None:
    with pytest.raises(InputError, match="mean is of inputs that are one tensor"):
        make_task(train=({"a": MASK}, LABELS), test=({"a": MASK}, LABELS), mean=0.5)


def test_a_language_model_is_asked_for_the_next_token() -> None:
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    split = {"input_ids": IDS[:2], "attention_mask": mask}
    task = tasks.language_model(train=split, test=split, valid=split, vocabulary=9)
    x, y = task.test.examples(torch.tensor([0, 1]))
    assert torch.equal(x["input_ids"], torch.as_tensor(IDS[:2, :3]))
    assert y.tolist() == [IDS[0, 1:].tolist(), [IDS[1, 1], -100, -100]]
    plain = tasks.language_model(train=IDS, test=IDS, vocabulary=9)
    assert plain.input_shape == (3,)
    with pytest.raises(InputError, match=r"input_ids of the train split has shape \[30\]"):
        tasks.language_model(train=IDS[:, 0], test=IDS, vocabulary=9)
    with pytest.raises(InputError, match="has no input_ids; it has tokens"):
        tasks.language_model(train={"tokens": IDS}, test=IDS, vocabulary=9)


def test_the_mean_iou_is_over_classes_that_are_there() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert float(tasks.mean_iou(confusion)) == pytest.approx((3 / 4 + 2 / 3) / 2)
