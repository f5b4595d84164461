"""Checkpoints as frameworks write them: what is found in them, what is asked, and what is refused, by name."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from mgraph.errors import InputError, LayoutMismatchError, MGraphError, NotFoundError
from mgraph.network.checkpoints import (
    Content,
    FittedCheckpoint,
    Options,
    find_curve,
    fit_content,
    fit_curve,
    read_content,
)
from mgraph.network.layout import layout_of

State = dict[str, torch.Tensor]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def state_of(make: Callable[[], nn.Module], seed: int = 7) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().state_dict()


def fit(content: Any, make: Callable[[], nn.Module] = mlp, **options: Any) -> FittedCheckpoint:
    """Fit a file, or a content as it would be read, onto a network."""

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(1000 + seed)
            return make()

    read = read_content(content) if isinstance(content, Path) else Content(content, (), ())
    return fit_content(read, build, layout_of(make()), Options(**options), "m.pt")


def values(state: State, make: Callable[[], nn.Module] = mlp) -> np.ndarray[Any, Any]:
    """Return the trainable parameters of a state dict, in canonical order."""
    with torch.no_grad():
        return torch.cat([state[t.name].flatten() for t in layout_of(make()).parameters]).numpy()


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# Objects that are not for us


class Attributes(dict[str, Any]):
    """A dict of another library, as Lightning has one for hyper-parameters."""


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_other_classes_are_skipped_by_name(tmp_path: Path, protocol: int, zipped: bool) -> None:
    state = state_of(mlp)
    content = {
        "state_dict": state,
        "args": argparse.Namespace(lr=0.1, nested=Attributes(a=Attributes())),
        "hyper_parameters": Attributes(lr=0.1),
        "best": np.float64(97.1),
        "where": Path("x"),
        "list": [Attributes(), {3, 4}, (1, "a", None, True, 2.5)],
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    fitted = fit(path)
    assert np.array_equal(fitted.parameters, values(state))
    skipped = " ".join(fitted.source["skipped"])
    assert "args (argparse.Namespace)" in skipped
    assert "Attributes)" in skipped
    assert "scalar" in skipped
    assert any(
        note.startswith("skipped because they are not tensors: args (argparse.Namespace)") for note in fitted.notes
    )


def test_what_pickle_itself_wrote_is_read(tmp_path: Path) -> None:
    state = state_of(mlp)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": state, "args": argparse.Namespace()}))
    assert np.array_equal(fit(tmp_path / "m.pkl").parameters, values(state))


class Calls:
    """Unpickled, it would call a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.made = function, args

    def __reduce__(self) -> Any:
        return self.made


def hostile(marker: str) -> dict[str, Any]:
    return {
        "os.system": Calls(__import__("os").system, f"touch {marker}"),
        "eval": Calls(eval, f"open({marker!r}, 'w')"),
        "open": Calls(open, marker, "w"),
        "subprocess": Calls(subprocess.getoutput, f"touch {marker}"),
        "numpy.save": Calls(np.save, f"{marker}.npy", [1]),
        "torch.save": Calls(torch.save, [1], marker),
        "torch.hub": Calls(torch.hub.download_url_to_file, f"file://{__file__}", marker),
        "path": Calls(Path.touch, Path(marker)),
        "zip": Calls(zipfile.ZipFile, marker, "w"),
    }


@pytest.mark.parametrize("what", hostile(""))
@pytest.mark.parametrize("write", ["zip", "legacy", "pickle"])
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, what: str, write: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "m.pt"
    content = {"state_dict": state_of(plain), "evil": hostile(str(marker))[what]}
    if write == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "zip")
    try:
        said = " ".join(fit(path, plain).source["skipped"])
    except InputError as error:
        said = str(error)
    assert "evil (" in said or "never run" in said
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_tensors_that_code_would_make_are_not_taken(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(state_of(plain))
    state["0.weight"] = Calls(np.ones, (8, 4))
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(LayoutMismatchError, match=r"0\.weight is a numpy.*ones in the checkpoint, not a plain tensor"):
        fit(tmp_path / "m.pt", plain)


OPCODES = st.sampled_from([pickle.REDUCE, pickle.BUILD, pickle.NEWOBJ, pickle.OBJ, pickle.APPENDS, pickle.SETITEMS,
    pickle.MARK, pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.DUP,
    pickle.POP, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.NONE, pickle.BININT1 + b"\x01", pickle.BINPERSID,
    pickle.STACK_GLOBAL, pickle.SHORT_BINUNICODE + b"\x0bcollections", pickle.SHORT_BINUNICODE + b"\x0bOrderedDict",
    b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"csite\nmain\n",
    b"ctorch\nfloat32\n", b"ctorch.storage\n_load_from_bytes\n", b"iargparse\nNamespace\n"])  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPCODES, max_size=25))
def test_any_program_for_the_unpickler_is_read_or_refused(tmp_path: Path, opcodes: list[bytes]) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"\x80\x04" + b"".join(opcodes) + pickle.STOP)
    with pytest.raises(MGraphError):
        fit(path, plain)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 3), "args": argparse.Namespace()}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"K\x02K\x03\x86") == 1
                data = data.replace(b"K\x02K\x03\x86", b"K\xffK\x03\x86")  # a shape of (255, 3)
            new.writestr(name, data)
    read_content(tmp_path / "a.pt")
    with pytest.raises(InputError, match="not a checkpoint, or a damaged one"):
        read_content(tmp_path / "b.pt")


# Several sets of weights


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("state_dict", "state_dict_ema"), ("params", "params_ema"), ("model", "ema"), ("model", "swa_model"),
     ("net", "model_ema"), ("generator", "averaged")],
)  # fmt: skip
def test_of_raw_and_averaged_weights_none_is_guessed(raw: str, averaged: str) -> None:
    a, b = state_of(mlp, 1), state_of(mlp, 2)
    content = {"epoch": 9, raw: a, averaged: prefixed(b, "module.")}
    with pytest.raises(InputError, match=rf"{raw} \(raw\).*{averaged} \(averaged\).*--weights raw or --weights ema"):
        fit(content)
    for asked, want in (("raw", a), ("ema", b), (raw, a), (averaged, b)):
        fitted = fit(content, weights=asked)
        assert np.array_equal(fitted.parameters, values(want))
        assert f"not taken: {averaged if want is a else raw}" in fitted.notes
        assert fitted.source["averaged"] == (want is b)
    with pytest.raises(InputError, match=r"holds no weights 'best'; it has .*\(raw\)"):
        fit(content, weights="best")
    alone = fit({"epoch": 9, averaged: b})
    assert alone.notes == [f"taken from {averaged} (averaged weights)"]


def test_the_same_weights_twice_are_no_choice() -> None:
    state = state_of(mlp)
    content = {"state_dict": state, "state_dict_ema": {k: v.clone() for k, v in state.items()}}
    assert np.array_equal(fit(content).parameters, values(state))


def test_averaged_weights_without_statistics_still_ask() -> None:
    a, b = state_of(mlp, 1), state_of(mlp, 2)
    content = {"model": a, "ema": {k: v for k, v in b.items() if "running" not in k and "num_b" not in k}}
    with pytest.raises(InputError, match="several sets of weights"):
        fit(content)
    with pytest.raises(LayoutMismatchError, match=r"lacks 2 tensors of running statistics.*--recompute-batchnorm"):
        fit(content, weights="ema")
    assert np.array_equal(fit(content, weights="ema", recompute=True).parameters, values(b))


def test_an_average_that_has_no_names_is_said_to_be_left() -> None:
    content = {"state_dict": state_of(mlp), "ema": {"shadow_params": list(state_of(mlp, 2).values())}}
    assert fit(content).notes == ["taken from state_dict", "not taken: ema"]


def test_lightning_swaps_the_average_into_state_dict() -> None:
    a, b = state_of(mlp, 1), state_of(mlp, 2)
    content = {"state_dict": prefixed(b, "model."), "current_model_state": prefixed(a, "model."), "averaging_state": {}}
    assert np.array_equal(fit(content, weights="ema").parameters, values(b))
    assert np.array_equal(fit(content, weights="raw").parameters, values(a))


def test_two_networks_under_prefixes_ask_which() -> None:
    a, b = state_of(mlp, 1), state_of(mlp, 2)
    content = prefixed(a, "student.") | prefixed(b, "teacher.")
    with pytest.raises(InputError, match="--weights student or --weights teacher"):
        fit(content)
    assert np.array_equal(fit(content, weights="teacher").parameters, values(b))


def test_averaged_weights_beside_raw_ones_in_one_dict() -> None:
    a, b = state_of(mlp, 1), state_of(mlp, 2)
    content = a | prefixed(b, "ema.module.") | {"ema.decay": torch.tensor(0.9)}
    with pytest.raises(
        InputError, match=r"\. \(raw\), ema \(averaged\); say which with --weights raw or --weights ema"
    ):
        fit(content)
    assert np.array_equal(fit(content, weights="ema").parameters, values(b))
    fitted = fit(content, weights="raw")
    assert np.array_equal(fitted.parameters, values(a))
    assert fitted.notes[-1].startswith("left out, beside these: ema.module.0.weight, ")


def test_a_part_of_another_network_is_not_taken_unasked() -> None:
    state = prefixed(state_of(mlp), "features.")
    with pytest.raises(InputError, match=r"larger network: 2 of its 9 tensors fit.*--weights features\.3\.?"):
        fit(state, lambda: nn.Linear(8, 2))
    fitted = fit(state, lambda: nn.Linear(8, 2), weights="features.3")
    assert np.array_equal(fitted.parameters[:16], state["features.3.weight"].flatten().numpy())


def test_torchs_own_average_is_recognised() -> None:
    average = AveragedModel(mlp())
    fitted = fit(average.state_dict())
    assert fitted.source["averaged"]
    assert fitted.notes == [
        "taken from the file itself (averaged weights)",
        "module. removed from the names",
        "ignored because the network has none: n_averaged",
    ]


def test_further_parts_of_a_training_module_are_left_out_and_said() -> None:
    content = {"state_dict": prefixed(state_of(mlp), "net.") | {"loss.weight": torch.ones(2)}}
    assert fit(content).notes == [
        "taken from state_dict",
        "prefix net. removed from the names",
        "left out, beside net.: loss.weight",
    ]


# Names and constants that changed


def normed(norm: Callable[..., nn.Module], bias: bool = True) -> nn.Sequential:
    return nn.Sequential(norm(nn.Linear(4, 8, bias=bias)), nn.ReLU(), norm(nn.Linear(8, 2, bias=bias)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("prefix", ["", "model."])
def test_present_names_of_weight_norm_are_spelled_as_a_network_of_the_former_kind_has_them(prefix: str) -> None:
    present = state_of(lambda: normed(weight_norm, True))
    former = lambda: normed(nn.utils.weight_norm, True)  # noqa: E731
    fitted = fit({"state_dict": prefixed(present, prefix)}, former)
    assert "weight normalisation in its former spelling, as the network has it" in fitted.notes
    network, names = former(), (("original0", "weight_g"), ("original1", "weight_v"))
    for new, old in names:
        present = {name.replace(f"parametrizations.weight.{new}", old): value for name, value in present.items()}
    network.load_state_dict(present)
    assert np.array_equal(fitted.parameters, values(network.state_dict(), former))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "model.", "model._orig_mod."])
def test_old_names_of_weight_norm_go_through_the_networks_hooks(prefix: str, bias: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = state_of(lambda: normed(nn.utils.weight_norm, bias))
    fitted = fit({"state_dict": prefixed(old, prefix)}, lambda: normed(weight_norm, bias))
    network = normed(weight_norm, bias)
    network.load_state_dict(old)
    assert np.array_equal(fitted.parameters, values(network.state_dict(), lambda: normed(weight_norm, bias)))
    assert any("brought to the network's present form by its load_state_dict" in note for note in fitted.notes)


def test_spectral_norm_keeps_its_vectors() -> None:
    state = state_of(lambda: normed(spectral_norm))
    fitted = fit(state, lambda: normed(spectral_norm))
    held = np.concatenate([state[t.name].flatten() for t in layout_of(normed(spectral_norm)).buffers])
    assert np.array_equal(fitted.buffers["float32"], held)


class Splits(nn.Module):
    """Once it had one matrix for three; its loading splits it. What it cannot find, it leaves as drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2, 2))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *further: Any) -> None:
        if prefix + "qk" in state_dict:
            state_dict[prefix + "q"], state_dict[prefix + "k"] = (2 * state_dict.pop(prefix + "qk")).chunk(2)
        for name in ("q", "k"):
            state_dict.setdefault(prefix + name, getattr(self, name).detach())
        super()._load_from_state_dict(state_dict, prefix, *further)


def test_what_hooks_compute_counts_but_not_what_they_draw() -> None:
    fitted = fit({"qk": torch.arange(8.0).view(4, 2)}, Splits)
    assert fitted.parameters.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    with pytest.raises(LayoutMismatchError, match=r"lacks 1 tensor of the network, first k, .* random values"):
        fit({"q": torch.ones(2, 2)}, Splits)


class Renames(nn.Module):
    """Its files have names of their own, and its load_state_dict is its own, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> None:  # type: ignore[override]
        super().load_state_dict({f"inner.{k.removeprefix('W_')}": v for k, v in state_dict.items()}, strict)


class Own(nn.Module):
    """Its load_state_dict copies, so that a type is not seen."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def load_state_dict(self, state_dict: Any) -> None:  # type: ignore[override]
        super().load_state_dict(state_dict)


def test_a_load_state_dict_of_ones_own_is_asked_too() -> None:
    state = {"W_weight": torch.arange(8.0).view(2, 4), "W_bias": torch.zeros(2)}
    fitted = fit({"model": state}, Renames)
    assert fitted.parameters.tolist() == [*range(8), 0, 0]
    assert fitted.notes[0] == "taken from model"
    with pytest.raises(LayoutMismatchError, match=r"float64 in the checkpoint.*--cast"):
        fit({"inner.weight": torch.ones(2, 4).double(), "inner.bias": torch.ones(2)}, lambda: Own(nn.Linear(4, 2)))
    with pytest.raises(LayoutMismatchError, match=r"refused the checkpoint: Missing key.*inner\.bias"):
        fit({"model": {"W_weight": torch.ones(2, 4)}}, Renames)


def test_sharded_weights_are_named() -> None:
    with pytest.raises(LayoutMismatchError, match="sharded by FSDP; save a full state dict"):
        fit({"_flat_param": torch.ones(9), "0.bias": torch.ones(8)})


class Positions(nn.Module):
    """Indices, frequencies and a mask: constants, kept in the file or not."""

    def __init__(self, persistent: bool, start: int = 0, drawn: bool = False) -> None:
        super().__init__()
        self.register_buffer("position_ids", torch.arange(4) + start, persistent=persistent)
        self.register_buffer("inv_freq", 1 / (10 ** torch.arange(3.0)), persistent=persistent)
        self.register_buffer("table", torch.randn(3) if drawn else torch.ones(3), persistent=persistent)
        self.layer = nn.Linear(2, 2)


def test_constants_that_one_side_lacks_are_no_obstacle() -> None:
    with_them, without = state_of(lambda: Positions(True)), state_of(lambda: Positions(False))
    fitted = fit(with_them, lambda: Positions(False))
    assert fitted.notes == ["ignored because the network has none: position_ids, inv_freq, table"]
    fitted = fit(without, lambda: Positions(True))
    assert fitted.notes == ["absent, the network's own constants kept: position_ids, inv_freq, table"]
    assert fitted.buffers["int64"].tolist() == [0, 1, 2, 3]
    with pytest.raises(LayoutMismatchError, match="position_ids is a constant of the network and differs"):
        fit(with_them, lambda: Positions(False, start=1))
    with pytest.raises(LayoutMismatchError, match="lacks 1 tensor of the network, first table"):
        fit(without, lambda: Positions(True, drawn=True))


def on_a_base(drawn: bool = False) -> nn.Sequential:
    """A frozen base and a trained head, as of an adapter."""
    base = nn.Linear(4, 4)
    if not drawn:
        nn.init.eye_(base.weight)
        nn.init.zeros_(base.bias)
    return nn.Sequential(base.requires_grad_(False), nn.Linear(4, 2))


def test_a_frozen_base_may_be_absent_if_every_build_has_it() -> None:
    head = {name: tensor for name, tensor in state_of(on_a_base).items() if name.startswith("1.")}
    fitted = fit(head, on_a_base)
    assert fitted.notes == ["absent, the network's own constants kept: 0.weight, 0.bias"]
    assert np.array_equal(fitted.parameters, values(head, on_a_base))
    assert fitted.buffers["float32"].tolist() == [*np.eye(4).flatten().tolist(), 0, 0, 0, 0]
    with pytest.raises(LayoutMismatchError, match=r"lacks 2 tensors of the network, first 0\.weight"):
        fit(head, lambda: on_a_base(drawn=True))


def test_a_weight_too_many_is_refused_and_can_be_left_out() -> None:
    state = state_of(mlp) | {"aux.weight": torch.ones(2, 2)}
    with pytest.raises(
        LayoutMismatchError, match=r"1 tensor that the network does not have, first aux\.weight.*--ignore"
    ):
        fit(state)
    assert np.array_equal(fit(state, ignore=("aux.*",)).parameters, values(state))


def test_a_name_with_and_without_a_wrapper_is_refused() -> None:
    state = state_of(mlp)
    with pytest.raises(LayoutMismatchError, match="twice"):
        fit(state | {"module.3.bias": torch.ones(2)})


# Files


def test_shards_are_joined_by_their_index(tmp_path: Path) -> None:
    state = state_of(mlp)
    names = list(state)
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, held in parts.items():
        save_file({n: state[n] for n in held}, tmp_path / file, {"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: f for f, held in parts.items() for n in held}}))
    (tmp_path / "config.json").write_text("{}")
    for path in (index, tmp_path):
        assert np.array_equal(fit(path).parameters, values(state))
    with pytest.raises(InputError, match=r"shard 1 of 2; give the index"):
        read_content(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match="not an index of shards"):
        read_content(tmp_path / "config.json")
    index.write_text(json.dumps({"weight_map": {names[0]: "../secret.safetensors"}}))
    with pytest.raises(InputError, match="not a file beside it"):
        read_content(index)
    index.write_text(json.dumps({"weight_map": {"other": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(InputError, match="lacks other"):
        read_content(index)
    index.write_text(json.dumps({"weight_map": {"other": "model-00003-of-00003.safetensors"}}))
    with pytest.raises(NotFoundError, match=r"model-00003-of-00003\.safetensors.*not beside it"):
        read_content(index)


def test_shards_of_pickles_are_joined_too(tmp_path: Path) -> None:
    state = state_of(plain)
    files = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for file, held in zip(files, (list(state)[:2], list(state)[2:]), strict=True):
        torch.save({n: state[n] for n in held}, tmp_path / file)
    found = {n: files[i >= 2] for i, n in enumerate(state)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": found}))
    assert np.array_equal(fit(tmp_path, plain).parameters, values(state, plain))


def test_a_directory_holds_one_checkpoint_or_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint"):
        read_content(tmp_path)
    state = state_of(plain)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert np.array_equal(fit(tmp_path, plain).parameters, values(state, plain))
    save_file(state, tmp_path / "model.safetensors")
    assert np.array_equal(fit(tmp_path, plain).parameters, values(state, plain))
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"several checkpoints .*name one"):
        read_content(tmp_path)


def test_directories_of_trainers_are_known(tmp_path: Path) -> None:
    """What the Trainer of transformers writes beside the weights, and where that and Lightning put them."""
    state = state_of(plain)
    last = tmp_path / "output" / "checkpoint-20"
    last.mkdir(parents=True)
    save_file(state, last / "model.safetensors")
    for beside in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth", "training_args.bin"):
        torch.save({"state": {}}, last / beside)
    assert np.array_equal(fit(last, plain).parameters, values(state, plain))
    assert np.array_equal(fit(last.parent, plain).parameters, values(state, plain))
    (last.parent / "checkpoint-10").mkdir()
    assert np.array_equal(fit(last.parent, plain).parameters, values(state, plain))
    save_file(state, last.parent / "checkpoint-10" / "model.safetensors")
    with pytest.raises(InputError, match=r"several checkpoints \(checkpoint-10/\S+, checkpoint-20/\S+\); name one"):
        read_content(last.parent)
    logs = tmp_path / "lightning_logs" / "version_0"
    (logs / "checkpoints").mkdir(parents=True)
    (logs / "hparams.yaml").write_text("{}")
    torch.save({"state_dict": prefixed(state, "model.")}, logs / "checkpoints" / "epoch=1-step=8.ckpt")
    assert np.array_equal(fit(tmp_path / "lightning_logs", plain).parameters, values(state, plain))


def _zip(*names: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return written.getvalue()


def _tar() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5.*Keras"),
        (b"\x93NUMPY\x01\0", "NumPy array"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html><html>", "web page"),
        (b"\x1f\x8b\x08", "gzip; unpack"),
        (_zip("arr_0.npy", "w.npy"), r"NumPy arrays \(\.npz\)"),
        (_zip("config.json", "model.weights.h5"), "Keras"),
        (_zip("m/archive_format", "m/models/model.json"), r"torch\.export"),
        (_zip("m/constants.pkl", "m/data.pkl", "m/code/a.py"), "TorchScript"),
        (_zip("a.txt"), r"without data\.pkl"),
        (_tar(), "tar archive"),
    ],
)
@pytest.mark.parametrize("name", ["model.pt", "model"])
def test_other_formats_are_named_whatever_the_file_is_called(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_content(tmp_path / name)


def test_other_formats_in_directories_are_named(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(InputError, match="dcp_to_torch"):
        read_content(tmp_path)
    (tmp_path / ".metadata").unlink()
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match="TensorFlow"):
        read_content(tmp_path)


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    state = state_of(plain)
    for name in ("epoch=3.ckpt", "model.bin", "weights", "x.safetensors.bak"):
        torch.save(state, tmp_path / name)
        assert np.array_equal(fit(tmp_path / name, plain).parameters, values(state, plain))
        save_file(state, tmp_path / name)
        assert np.array_equal(fit(tmp_path / name, plain).parameters, values(state, plain))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.to_sparse(), "not a dense tensor"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is quantised"),
        (lambda t: t.to(torch.int8), "is int8 in the checkpoint, expected float32"),
        (lambda t: t[:0], r"has shape \[0, 4\].*sharded|has shape \[0, 4\]"),
    ],
)
def test_tensors_that_are_no_plain_weights_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    state = state_of(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state | {"0.weight": spoil(state["0.weight"])}, tmp_path / "m.pt")
        with pytest.raises(LayoutMismatchError, match=rf"0\.weight.*({says})"):
            fit(tmp_path / "m.pt", plain)


# Trained curves


def curve_file(points: list[State], prefix: str = "net.") -> State:
    return {f"{prefix}{name}_{i}": p[name] for name in points[0] for i, p in enumerate(points)}


def curve_of(content: Any, make: Callable[[], nn.Module] = plain) -> Any:
    return find_curve(Content(content, (), ()), lambda _: make(), layout_of(make()))


@pytest.mark.parametrize("family", ["curve", "chain", None])
def test_a_trained_curve_is_recognised_with_its_family(family: str | None) -> None:
    points = [state_of(plain, seed) for seed in range(4)]
    constants = {"curve": {"binom": torch.ones(4), "range": torch.arange(4.0)}, "chain": {"range": torch.arange(4.0)}}
    held = curve_file(points) | prefixed(constants.get(family or "", {}), "coeff_layer.")
    found = curve_of({"epoch": 3, "model_state": held, "optimizer_state": {}})
    assert found is not None
    assert (found.method, found.by_order, found.key) == (family, False, "model_state")
    fitted, _ = fit_curve(found, lambda _: plain(), layout_of(plain()))
    assert [f.parameters.tolist() for f in fitted] == [values(p, plain).tolist() for p in points]


def test_parameters_of_a_curve_with_other_names_match_by_order() -> None:
    points = [state_of(plain, seed) for seed in range(3)]
    renamed = [{k.replace("0.", "fc_part.a.").replace("2.", "fc_part.b."): v for k, v in p.items()} for p in points]
    found = curve_of(curve_file(renamed))
    assert found.by_order
    fitted, notes = fit_curve(found, lambda _: plain(), layout_of(plain()))
    assert [f.parameters.tolist() for f in fitted] == [values(p, plain).tolist() for p in points]
    assert "parameters matched by their order, because the names differ" in notes


def test_other_numbered_names_are_no_curve() -> None:
    points = [state_of(plain, seed) for seed in range(3)]
    held = curve_file(points)
    assert curve_of({k: v for k, v in held.items() if k != "net.0.weight_1"}) is None
    assert curve_of({k: v for k, v in held.items() if "2." not in k}) is None
    assert curve_of(nn.LSTM(4, 8, num_layers=2).state_dict()) is None
