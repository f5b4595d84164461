"""Foreign checkpoints in, state dicts out: every way to be wrong is said, and nothing is run."""

import copy
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mgraph.errors import InputError, LayoutMismatchError, NonFiniteError, NotFoundError
from mgraph.network.checkpoints import (
    Options,
    fit_content,
    fit_to_layout,
    read_content,
    state_dict,
    write_pt,
    write_safetensors,
)
from mgraph.network.layout import layout_of, tensors_from_module


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("coarse", torch.ones(2, dtype=torch.float16))
        self.register_buffer("flags", torch.tensor([True, False]))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def layout(net):
    return layout_of(net)


def seeded(make):
    """Build a network as a space does: its start is drawn from a seed."""

    def build(seed):
        with torch.random.fork_rng():
            torch.manual_seed(1000 + seed)
            return make()

    return build


def take(path, make=Net, **options):
    """Read a file and fit it onto a network."""
    return fit_content(read_content(path), seeded(make), layout_of(make()), Options(**options), path.name)


def tensors_of(path, make=Net, **options):
    """Return what a file is once it is in the network, as a state dict."""
    fitted = take(path, make, **options)
    return state_dict(layout_of(make()), fitted.parameters, fitted.buffers)


def fit(state, make=Net, **options):
    from mgraph.network.checkpoints import Content

    return fit_content(Content(state, (), ()), seeded(make), layout_of(make()), Options(**options), "m.pt")


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_what_is_written_reads_back_and_loads(tmp_path, net, layout, suffix):
    fitted = fit_to_layout(net.state_dict(), layout)
    assert fitted.notes == []
    state = state_dict(layout, fitted.parameters, fitted.buffers)
    path = tmp_path / f"m{suffix}"
    (write_safetensors if suffix == ".safetensors" else write_pt)(path, state)
    again = read_content(path).value
    assert same(again, net.state_dict())
    assert same(tensors_of(path), net.state_dict())
    Net().load_state_dict(again, strict=True)
    assert _names(tmp_path) == [path.name]


def test_parameters_are_in_canonical_order(net, layout):
    fitted = fit_to_layout(net.state_dict(), layout)
    want = torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()
    assert fitted.parameters.dtype == np.float32
    assert np.array_equal(fitted.parameters, want)
    arrays = tensors_from_module(net, layout.tensors)
    assert all(np.array_equal(layout.buffer_views(fitted.buffers)[t.name], arrays[t.name]) for t in layout.buffers)


def test_aliases_can_be_left_out_and_are_tied(net, layout):
    fitted = fit_to_layout(net.state_dict(), layout)
    full = state_dict(layout, fitted.parameters, fitted.buffers)
    short = state_dict(layout, fitted.parameters, fitted.buffers, include_aliases=False)
    assert set(full) - set(short) == {"head.weight"}
    assert full["head.weight"] is full["embedding.weight"]


def test_a_state_dict_is_a_copy(net, layout):
    fitted = fit_to_layout(net.state_dict(), layout)
    fitted.parameters.flags.writeable = False
    state_dict(layout, fitted.parameters, fitted.buffers)["head.bias"].zero_()
    assert np.array_equal(layout.parameter_views(fitted.parameters)["head.bias"], net.head.bias.detach())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: OrderedDict(s),
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"model_state": s},
        lambda s: {"epoch": 1, "model": {"model_state_dict": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"module._orig_mod.module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "pytorch-lightning_version": "2.2.0"},
        lambda s: {"module": s, "ds_version": "0.14"},
        lambda s: {"params": s},
        lambda s: {"net": s, "acc": 93.0},
        lambda s: [s, 3],
        lambda s: {"a": {"b": {"c": {"anything": s}}}},
        lambda s: {f"base_model.model.{k}": v for k, v in s.items()},
        lambda s: {k.replace("norm.", "norm._orig_mod."): v for k, v in s.items()},
        lambda s: {f"backbone.{k}".replace("norm.", "module.norm._orig_mod."): v for k, v in s.items()},
        lambda s: {part: {k.partition(".")[2] or k: s[k] for k in s if k.startswith(part)} for part in PARTS} | rest(s),
        lambda s: {"model": s, "optimizer": {"state": {"exp_avg": {k: v * 0 for k, v in s.items()}}}},
    ],
)
def test_wrappers_and_prefixes(tmp_path, net, wrap):
    torch.save(wrap(net.state_dict()), tmp_path / "m.pt")
    assert same(tensors_of(tmp_path / "m.pt"), net.state_dict())


PARTS = ("embedding", "norm", "head")


def rest(state):
    return {k: v for k, v in state.items() if not k.startswith(PARTS)}


def test_a_network_whose_own_name_is_module(tmp_path):
    outer = nn.Module()
    outer.module = nn.Linear(2, 2)
    layout = layout_of(outer)
    for prefix in ("", "module.", "module._orig_mod."):
        torch.save({prefix + k: v for k, v in outer.state_dict().items()}, tmp_path / "m.pt")
        fitted = fit_content(read_content(tmp_path / "m.pt"), lambda _: copy.deepcopy(outer), layout, Options(), "m.pt")
        assert np.array_equal(fitted.parameters[:4], outer.module.weight.detach().flatten())


def test_the_old_file_format_reads(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert same(tensors_of(tmp_path / "m.pt"), net.state_dict())


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, new_format):
    content = {"state_dict": {"a": torch.zeros(1)}, "bomb": Bomb(tmp_path / "boom")}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(InputError, match=r"pickled code \(\w*\.?mkdir\), which is never run; save its state_dict"):
        read_content(tmp_path / "m.pt")
    assert not (tmp_path / "boom").exists()
    (tmp_path / "p.pt").write_bytes(pickle.dumps(content["bomb"]))
    with pytest.raises(InputError):
        read_content(tmp_path / "p.pt")
    assert not (tmp_path / "boom").exists()


def test_a_whole_pickled_module_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"holds a pickled torch\.nn\.modules\.linear\.Linear.*never run"):
        take(tmp_path / "m.pt")


def damaged(tmp_path):
    state = {"a": torch.randn(200)}
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    write_safetensors(tmp_path / "s.safetensors", state)
    for name in ("new.pt", "old.pt", "s.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for keep in (1, 7, 30, len(whole) // 2, len(whole) - 5):
            yield name, whole[:keep]
        yield name, b"hello, this is not a checkpoint"
        yield name, b"PK\x03\x04abc"
        yield name, pickle.dumps([1, 2])


def test_damaged_files_are_refused(tmp_path):
    cases = list(damaged(tmp_path))
    for name, content in cases:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} (is no|holds)"):
            take(tmp_path / name)
    assert len(cases) == 24


@given(st.binary(max_size=60))
def test_no_bytes_lead_to_another_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.pt", "any.safetensors"):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError):
            take(folder / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a single tensor"),
        ({}, "empty dict"),
        ({"model": {}}, "holds a dict without a dict of tensors"),
        ({"epoch": 3}, "not a state dict; save model"),
        ({"a": torch.zeros(1), "b": "x"}, "has 1 tensor that the network does not have, first a"),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": torch.zeros(1)}}}}}}}}}, "not a state dict"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, says):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match=says):
        take(tmp_path / "m.pt")


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        read_content(tmp_path / "none.pt")
    (tmp_path / "dir.pt").mkdir()
    with pytest.raises(InputError, match="is not a file"):
        read_content(tmp_path / "dir.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(InputError, match="is empty"):
        read_content(tmp_path / "empty.pt")


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (lambda s: s.pop("head.bias"), LayoutMismatchError, r"lacks 1 tensor .* first head\.bias"),
        (lambda s: [s.pop("head.bias"), s.pop("norm.bias")], LayoutMismatchError, r"2 tensors .* first norm\.bias"),
        (lambda s: s.update(new=torch.zeros(1)), LayoutMismatchError, "has 1 tensor .* first new"),
        (
            lambda s: s.update({"head.bias": torch.zeros(5)}),
            LayoutMismatchError,
            r"head\.bias has shape \[5\] in the checkpoint, expected \[4\]",
        ),
        (lambda s: s.update({"head.bias": torch.zeros(4, 1)}), LayoutMismatchError, "shape"),
        (lambda s: s.update({"head.bias": torch.zeros(4).long()}), LayoutMismatchError, "int64 .* expected float32"),
        (lambda s: s.update({"head.bias": torch.zeros(4).bool()}), LayoutMismatchError, "is bool"),
        (
            lambda s: s.update({"head.bias": torch.zeros(4, dtype=torch.complex64)}),
            LayoutMismatchError,
            "is complex64",
        ),
        (lambda s: s.update({"head.bias": torch.zeros(4).double()}), LayoutMismatchError, "float64.*--cast"),
        (lambda s: s.update(coarse=torch.zeros(2)), LayoutMismatchError, "coarse is float32.*--cast"),
        (lambda s: s.update(flags=torch.ones(2).long()), LayoutMismatchError, "flags is int64 .* expected bool"),
        (
            lambda s: s.update({"norm.num_batches_tracked": torch.tensor(1.0)}),
            LayoutMismatchError,
            "expected int64",
        ),
        (
            lambda s: s.update({"head.weight": s["head.weight"] + 1}),
            LayoutMismatchError,
            r"head\.weight and embedding\.weight are tied",
        ),
        (
            lambda s: s.update({"head.bias": torch.tensor([0, torch.nan, torch.inf, 1])}),
            NonFiniteError,
            r"head\.bias has 2 of 4 values",
        ),
        (
            lambda s: s.update({"norm.running_var": torch.full((3,), torch.nan)}),
            NonFiniteError,
            r"norm\.running_var has 3",
        ),
    ],
)
def test_what_does_not_fit(net, edit, error, says):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    edit(state)
    with pytest.raises(error, match=says):
        fit(state)


def test_half_precision_is_widened_and_noted(net, layout):
    state = {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in net.state_dict().items()}
    fitted = fit_to_layout(state, layout)
    assert fitted.notes == ["bfloat16 to float32: 7 tensors, first embedding.weight"]
    assert np.array_equal(layout.parameter_views(fitted.parameters)["head.bias"], state["head.bias"].float().numpy())


def test_doubles_are_cast_when_told(net, layout):
    state = {k: v.double() if v.dtype == torch.float32 else v for k, v in net.state_dict().items()}
    fitted = fit_to_layout(state, layout, cast=True)
    assert fitted.notes == ["float64 to float32: 7 tensors, first embedding.weight"]
    assert np.array_equal(fitted.parameters, fit_to_layout(net.state_dict(), layout).parameters)
    state["head.bias"] = torch.full((4,), 1e300, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=r"head\.bias has 4"):
        fit_to_layout(state, layout, cast=True)


def test_either_name_of_a_tied_tensor_will_do(net, layout):
    want = fit_to_layout(net.state_dict(), layout).parameters
    for absent in ("head.weight", "embedding.weight"):
        state = dict(net.state_dict())
        del state[absent]
        assert np.array_equal(fit(state).parameters, want)


def test_checkpoints_from_before_the_batch_counter(net):
    state = dict(net.state_dict())
    del state["norm.num_batches_tracked"]
    fitted = fit(state)
    assert fitted.notes == ["1 tensor absent and set to 0, first norm.num_batches_tracked"]
    assert fitted.buffers["int64"].dtype == np.int64


def test_tensors_in_any_memory_order(layout, net):
    state = dict(net.state_dict())
    state["embedding.weight"] = state["head.weight"] = state["embedding.weight"].t().contiguous().t()
    want = fit_to_layout(net.state_dict(), layout).parameters
    assert np.array_equal(fit_to_layout(state, layout).parameters, want)


@pytest.mark.parametrize(("write", "suffix"), [(write_pt, "pt"), (write_safetensors, "safetensors")])
def test_writing_is_careful(tmp_path, write, suffix):
    path = tmp_path / f"m.{suffix}"
    write(path, {"a": torch.zeros(2)})
    with pytest.raises(InputError, match="exists already"):
        write(path, {"a": torch.ones(2)})
    assert read_content(path).value["a"].sum() == 0
    write(path, {"a": torch.ones(2)}, overwrite=True)
    assert read_content(path).value["a"].sum() == 2
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write(tmp_path / "none" / path.name, {"a": torch.zeros(2)})
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        write(path / path.name, {"a": torch.zeros(2)})
    with pytest.raises(InputError, match="is a directory"):
        write(tmp_path, {"a": torch.zeros(2)})
    assert _names(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _names(folder):
    return [p.name for p in folder.iterdir()]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    write_pt(path, {"a": torch.zeros(2)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_pt(path, {"a": torch.ones(2)}, overwrite=True)
    assert read_content(path).value["a"].sum() == 0
    assert _names(tmp_path) == ["m.pt"]


def test_metadata_travels_with_safetensors(tmp_path):
    from safetensors import safe_open

    write_safetensors(tmp_path / "m.safetensors", {"a": torch.zeros(2)}, {"node": "m123"})
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata() == {"node": "m123"}
