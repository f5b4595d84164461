"""States of runs: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mgraph_store import Run, new_id
from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.states import StateFiles
from mgraph_store.upkeep.collect import plan_collection

ARRAYS = {"points": np.arange(6, dtype=np.float32).reshape(2, 3), "order": np.arange(4, dtype=np.uint8)}


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    return StateFiles(tmp_path, new_id("r"))


def names(files: StateFiles) -> list[str]:
    return sorted(p.name for p in files.path.iterdir())


@settings(max_examples=15, deadline=None)
@given(
    arrays=st.dictionaries(
        st.text("abc.é/ ", min_size=1, max_size=5),
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]).flatmap(
            lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        max_size=4,
    ),
    values=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ).map(lambda value: {"it": value}),
    turned=st.booleans(),
)
def test_what_is_saved_is_read_bit_for_bit(
    arrays: dict[str, Any], values: dict[str, Any], turned: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = StateFiles(tmp_path_factory.mktemp("graph"), new_id("r"))
    given_arrays = {name: array.T if turned else array for name, array in arrays.items()}
    files.save(values, given_arrays, items=3, where="step 1 of 2")
    found = files.newest()
    assert found is not None
    assert (found.values, found.items, found.where) == (values, 3, "step 1 of 2")
    assert set(found.arrays) == set(arrays)
    for name, array in given_arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


def test_nothing_is_made_before_the_first_state(files: StateFiles) -> None:
    assert (files.newest(), files.summary()) == (None, None)
    files.remove()
    assert not files.path.parent.exists()


def test_the_newest_state_replaces_the_one_before_and_items_stay(files: StateFiles) -> None:
    for index in range(3):
        files.append(index, {"point": np.full(2, index)})
        files.save({"step": index}, ARRAYS, items=index + 1)
    assert names(files) == [*(f"item-00000{i}.safetensors" for i in range(3)), "state-000003.safetensors"]
    found = files.newest()
    assert found is not None
    assert (found.values, found.items) == ({"step": 2}, 3)
    assert [files.item(i)["point"].tolist() for i in range(3)] == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(CorruptError, match="item-000003"):
        files.item(3)
    files.remove()
    assert not files.path.parent.exists()


def test_an_item_beyond_the_state_is_replaced(files: StateFiles) -> None:
    files.append(0, {"point": np.zeros(2)})
    files.append(0, {"point": np.ones(3)})
    assert files.item(0)["point"].tolist() == [1, 1, 1]


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Let every step that a file system sees of a save raise, from the given one on: the process is gone."""
    count = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            if count >= calls:
                raise Killed
            count += 1
            return function(*args, **options)

        return call

    import safetensors.numpy

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.numpy, "save_file", counted(safetensors.numpy.save_file))
        for name in ("flush", "rename", "unlink"):
            patched.setattr(Folder, name, counted(getattr(Folder, name)))
        yield lambda: count < calls


def test_killed_at_any_step_a_whole_state_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for calls in range(20):
        graph = tmp_path / str(calls)
        graph.mkdir()
        files = StateFiles(graph, new_id("r"))
        files.save({"step": 1}, ARRAYS, items=0)
        finished = False
        with killed_after(calls, monkeypatch) as has_finished:
            try:
                files.append(0, {"point": np.zeros(2)})
                files.save({"step": 2}, ARRAYS, items=1)
                finished = has_finished()
            except Killed:
                pass
        found = files.newest()
        assert found is not None
        assert found.values == {"step": found.items + 1}
        assert found.arrays["points"].tobytes() == ARRAYS["points"].tobytes()
        if found.items:
            assert files.item(0)["point"].tolist() == [0, 0]
        seen.add(found.items)
        files.save({"step": 9}, ARRAYS, items=0)  # what was left over is in nobody's way
        assert [n for n in names(files) if n.startswith("state")] in (
            ["state-000002.safetensors"],
            ["state-000003.safetensors"],
        )
        if finished:
            break
    assert finished
    assert seen == {0, 1}


def test_every_flipped_bit_is_noticed(files: StateFiles) -> None:
    files.save({"step": 1}, ARRAYS, items=0, where="here")
    (file,) = files.path.iterdir()
    whole, truth = file.read_bytes(), files.newest()
    assert truth is not None
    for position in range(len(whole)):
        bad = bytearray(whole)
        bad[position] ^= 1 << position % 8
        file.write_bytes(bad)
        with pytest.raises(CorruptError, match="damaged"):
            files.newest()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptError, match="start the run again"):
            files.newest()


def test_a_damaged_state_falls_back_to_the_one_before_if_that_is_there(files: StateFiles) -> None:
    files.save({"step": 1}, ARRAYS, items=0, where="first")
    (first,) = files.path.iterdir()
    kept = first.read_bytes()
    files.save({"step": 2}, ARRAYS, items=0, where="second")
    (second,) = files.path.iterdir()
    first.write_bytes(kept)  # as if it could not be removed
    found = files.newest()
    assert found is not None
    assert found.values == {"step": 2}
    second.write_bytes(second.read_bytes()[:-1])
    found, summary = files.newest(), files.summary()
    assert found is not None
    assert summary is not None
    assert (found.values, summary[0]) == ({"step": 1}, "first")


def test_a_full_disk_leaves_the_state_before(files: StateFiles) -> None:
    files.save({"step": 1}, ARRAYS, items=0)
    before = names(files)
    large = {"points": np.zeros(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StoreError, match="nothing was stored"):
            files.save({"step": 2}, large, items=0)
        with pytest.raises(StoreError, match="nothing was stored"):
            files.append(0, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(files) == before
    found = files.newest()
    assert found is not None
    assert found.values == {"step": 1}


def test_a_disk_that_refuses_is_one_sentence(files: StateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "rename", full)
    with pytest.raises(StoreError, match=r"^No space left for \S+: nothing was stored"):
        files.save({}, ARRAYS, items=0)


def test_a_run_whose_id_is_none_becomes_no_path(tmp_path: Path) -> None:
    for bad in ("..", "../../home", "r", "", "rabc/../../x", "/etc"):
        with pytest.raises(CorruptError, match="is not an id"):
            StateFiles(tmp_path, bad)


def test_states_of_complete_and_of_unknown_runs_are_garbage(graph: Any) -> None:
    runs = [Run(new_id("r"), "train", "{}", status=s) for s in ("running", "interrupted", "failed", "complete")]
    with graph.store.transaction() as tx:
        tx.add(*runs)
    unknown = new_id("r")
    for run_id in (*(r.id for r in runs), unknown):
        graph.store.states(run_id).save({}, ARRAYS, items=0)
    found = plan_collection(graph.store, min_age=0).items
    assert {i.name for i in found if i.kind == "state"} == {runs[3].id, unknown}
