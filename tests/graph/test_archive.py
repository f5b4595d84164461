"""Archiving: rounded copies, what the rounding changed, and what it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mgraph
from mgraph.errors import InputError, NonFiniteError
from mgraph.operations.archiving import kept_bits, rounded

finite = arrays(np.float32, st.integers(1, 30), elements=st.floats(-(2.0**120), 2.0**120, width=32))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("archive") / "g.mgraph"
    g = mgraph.create(path, arch="cnn?bn=true&channels=4,8&hidden=256,", data="digits", device="cpu")
    g.train(seed=0, epochs=2, name="a")
    return g


@given(finite)
def test_bf16_is_what_torch_calls_bf16(values: Any) -> None:
    assert np.array_equal(rounded(values, 7), torch.from_numpy(values).bfloat16().float().numpy())


@given(finite, st.integers(1, 22))
def test_a_kept_number_errs_by_half_of_its_last_bit(values: Any, bits: int) -> None:
    result = rounded(values, bits)
    normal = np.abs(values) >= np.finfo(np.float32).tiny
    assert (np.abs(result - values)[normal] <= np.abs(values[normal].astype(np.float64)) * 2.0 ** -(bits + 1)).all()
    assert not (result.view(np.int32) & ((1 << (23 - bits)) - 1)).any()


def test_the_copy_says_what_was_changed_and_takes_less_space(graph: Any) -> None:
    done = graph.node("a").archive("bf16", name="small")
    original, copy = graph.session.store.read_parameters("a"), graph.session.store.read_parameters("small")
    assert np.array_equal(copy, rounded(original, 7))
    assert not np.array_equal(copy, original)
    assert done.stored_bytes < 0.6 * done.raw_bytes
    # Its statistics are the original's, so a measurement of it now gives the numbers that are stored with it.
    for split in ("train", "valid", "test"):
        now = graph.node("small").evaluate(split)
        assert {m: v.value for m, v in now.items()} == {m: v.value for m, v in done.after[split].items()}
        was = graph.node("a").evaluate(split)
        assert {m: v.value for m, v in was.items()} == {m: v.value for m, v in done.before[split].items()}
    described = graph.node("small").describe()
    assert described["kind"] == "mode"
    assert described["info"]["of"] == graph.node("a").id
    assert described["info"]["lossy"].startswith("bf16: 7 of 23 bits")
    assert described["info"]["changed"] == {f"{r['split']}_{r['metric']}": r["change"] for r in done.changes()}
    assert described["info"]["changed"]["valid_loss"] != 0
    assert graph.check(deep=True).problems == ()


def test_the_original_can_go_and_the_copy_stays(graph: Any) -> None:
    graph.train(seed=1, epochs=1, name="b")
    graph.node("b").archive("bitround:10", name="b-small")
    before = graph.session.store.read_parameters("b-small")
    graph.remove("b")
    assert np.array_equal(graph.session.store.read_parameters("b-small"), before)
    assert graph.check(deep=True).problems == ()


def test_a_sample_gets_statistics_of_its_own(graph: Any) -> None:
    graph.train(seed=2, epochs=1, name="c")
    graph.connect("a", "c", method=mgraph.Linear(), grid=3, name="line")
    sample = graph.connection("line").swept().node_ids[1]
    done = graph.node(sample).archive("bf16", name="middle")
    assert done.node.kind == "merged"
    assert graph.node("middle").evaluate("test")["loss"].value == done.after["test"]["loss"].value


@pytest.mark.parametrize("rounding", ["", "fp8", "bitround", "bitround:0", "bitround:23", "bitround:x", "bf16:3"])
def test_what_is_no_rounding(graph: Any, rounding: str) -> None:
    with pytest.raises(InputError, match="A rounding is bf16 or bitround:N"):
        graph.node("a").archive(rounding)
    assert kept_bits("bitround:22") == 22


def test_what_would_become_infinite_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="too large to be rounded"):
        rounded(np.array([np.finfo(np.float32).max], np.float32), 7)


def test_a_taken_name_is_refused_before_any_work(graph: Any) -> None:
    runs = len(graph.runs())
    with pytest.raises(InputError, match="belongs to"):
        graph.node("a").archive("bf16", name="a")
    assert len(graph.runs()) == runs


def test_on_the_command_line(graph: Any, commands: Any, tmp_path: Path) -> None:
    run = commands(graph.path.parent)
    row = run("archive", "a", "--rounding", "bitround:12", "--name", "twelve", "--json").row
    assert {r["split"] for r in row["changes"]} == {"train", "valid", "test"}
    assert "lossy" in run("show", "twelve").stdout
    assert "archive" in [r["command"] for r in run("log", "--json").rows]
    refused = run("archive", "a", "--rounding", "half", code=2)
    assert (refused.code, refused.stdout) == (2, "")
    assert "A rounding is bf16 or bitround:N" in refused.stderr
