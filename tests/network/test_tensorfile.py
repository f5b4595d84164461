"""safetensors files written in chunks are those that safetensors itself reads."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from mgraph.errors import InputError
from mgraph.network.checkpoints import state_dict
from mgraph.network.tensorfile import stream_safetensors
from mgraph_store.rows.layout import Layout, TensorSpec

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")
ROLES = ("parameter", "parameter", "frozen", "statistic", "buffer")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    tensors = [TensorSpec("first", (3,), draw(st.sampled_from(DTYPES[:4])), "parameter")]
    for i in range(draw(st.integers(0, 6))):
        role = draw(st.sampled_from(ROLES))
        dtype = draw(st.sampled_from(DTYPES[:4] if role == "parameter" else DTYPES))
        tensors.append(TensorSpec(f"t{i}.ü", draw(shapes), dtype, role))
    tied = draw(st.lists(st.sampled_from(tensors), unique=True, max_size=2))
    return Layout(tuple(tensors), {f"tied.{t.name}": t.name for t in tied})


@settings(max_examples=15 * MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts(), seed=st.integers(0, 99))
def test_any_layout_reads_back_as_its_state_dict(tmp_path: Path, layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = rng.standard_normal(layout.size).astype(np.float32)
    buffers = layout.pack_buffers({t.name: rng.integers(0, 2, t.shape) for t in layout.buffers})
    cuts = sorted({0, layout.size, *rng.integers(0, layout.size, 3).tolist()})
    chunks = list(itertools.pairwise(cuts))
    random.Random(seed).shuffle(chunks)

    def stream(write: Any) -> None:
        for a, b in chunks:
            write(a, parameters[a:b])

    file = tmp_path / "x.safetensors"
    stream_safetensors(file, layout, stream, buffers, {"who": "ü"}, overwrite=True)
    found, expected = load_file(file), state_dict(layout, parameters, buffers)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"who": "ü"}


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    layout = Layout((TensorSpec("a", (3,), "float32", "parameter"),))
    file = tmp_path / "x.safetensors"

    def full(write: Any) -> None:
        write(0, np.ones(2, np.float32))
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        stream_safetensors(file, layout, full, {})
    assert not list(tmp_path.iterdir())
    file.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        stream_safetensors(file, layout, lambda write: write(0, np.ones(3, np.float32)), {})
    assert file.read_text() == "precious"


def test_a_type_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    layout = Layout((TensorSpec("a", (3,), "complex64", "buffer"),))
    with pytest.raises(InputError, match=r"a is of type complex64.*\.pt"):
        stream_safetensors(tmp_path / "x.safetensors", layout, lambda write: None, {})


def test_numbers_begin_aligned_and_leave_no_gap(tmp_path: Path) -> None:
    layout = Layout(
        (
            TensorSpec("odd", (3,), "uint8", "buffer"),
            TensorSpec("w", (3,), "float32", "parameter"),
            TensorSpec("n", (), "int64", "statistic"),
        )
    )
    file = tmp_path / "x.safetensors"
    buffers = {"int64": np.array([1, 2, 3, 4])}
    stream_safetensors(file, layout, lambda write: write(0, np.ones(3, np.float32)), buffers)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert {n: t["data_offsets"] for n, t in header.items()} == {"n": [0, 8], "w": [8, 20], "odd": [20, 23]}
    assert len(data) == 8 + length + 23
