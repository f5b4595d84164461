"""Damaged and made-up checkpoints are read or refused, never run, and never crash the reader."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgraph.errors import MGraphError
from mgraph.network.checkpoints import FittedCheckpoint, Options, fit_content, read_content
from mgraph.network.layout import layout_of


class Net(torch.nn.Module):
    """A matrix, a vector under two names, and a buffer of integers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.w = torch.nn.Parameter(torch.randn(3, 4, generator=draw))
        self.b = self.tied = torch.nn.Parameter(torch.randn(4, generator=draw))
        self.register_buffer("n", torch.tensor(seed))


LAYOUT = layout_of(Net())
STATE = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(4), "n": torch.tensor(3)}
FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def files() -> dict[str, bytes]:
    new, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, new)
    torch.save(STATE, legacy, _use_new_zipfile_serialization=False)
    return {"new.pt": new.getvalue(), "legacy.pth": legacy.getvalue(), "x.safetensors": safetensors.torch.save(STATE)}


FILES = files()


def fit(path: Path) -> FittedCheckpoint:
    return fit_content(read_content(path), Net, LAYOUT, Options(), path.name)


def take(path: Path) -> None:
    """Read a checkpoint; what comes out must fit the layout, or be refused by an error of ours."""
    try:
        fitted = fit(path)
    except MGraphError:
        return
    assert fitted.parameters.shape == (16,)
    assert np.isfinite(fitted.parameters).all()
    assert fitted.buffers["int64"].shape == (1,)


def test_the_files_that_are_spoiled_below_are_good_ones(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        assert fit(tmp_path / name).parameters.tolist() == [*range(12), 1, 1, 1, 1]


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(data=st.data())
def test_spoiled_checkpoints_are_refused_or_read(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        kind = data.draw(st.sampled_from(["flip", "byte", "cut", "insert"]))
        if kind == "flip" and content:
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 200))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=12))
    path = tmp_path / name
    path.write_bytes(content)
    take(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@FUZZ
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(MGraphError):
        fit(path)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.floats() | st.sampled_from(list(STATE.values())),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["w", "b", "n", "tied", "module.w", "state_dict", "model"]) | st.integers(), inner
        )
    ),
    max_leaves=8,
)


@FUZZ
@given(content=VALUES)
def test_any_content_of_a_checkpoint_is_read_or_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "x.pt"
    torch.save(content, path)
    take(path)


TENSORS = st.builds(
    lambda dtype, shape: torch.ones(shape, dtype=dtype),
    st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
    ),
    st.sampled_from([(), (0,), (4,), (3, 4), (4, 3), (12,), (1, 3, 4)]),
)


@FUZZ
@given(state=st.dictionaries(st.sampled_from(["w", "b", "n", "tied", "x", "module.w"]), TENSORS))
def test_any_tensors_fit_or_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "x.pt"
    torch.save(state, path)
    take(path)


class Evil:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> Any:
        return (open, ("evil-was-here", "w"))


@pytest.mark.parametrize("where", ["state", "key", "plain pickle", "inside a zip"])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    if where == "state":
        torch.save({"state_dict": STATE, "evil": Evil()}, path)
    elif where == "key":
        torch.save({(Evil(),): 1} | STATE, path)
    elif where == "plain pickle":
        path.write_bytes(pickle.dumps({"w": Evil()}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
            archive.writestr("archive/version", "3")
    with pytest.raises(MGraphError):
        fit(path)
    assert not (tmp_path / "evil-was-here").exists()
