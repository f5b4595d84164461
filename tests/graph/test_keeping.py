"""The checkpointer on disk is the one in memory, but for what ends the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import StoreError
from mgraph.session.keeping import NotSavedWarning, OnDisk
from mgraph.train.state import Checkpointer, InMemory, State
from mgraph_store import new_id
from mgraph_store.states import StateFiles

# Numbers are appended, "save" saves, "stop" ends the process.
STEPS = st.lists(st.integers(0, 9) | st.sampled_from(["save", "stop"]), max_size=12)


def seen(checkpointer: Checkpointer) -> Any:
    return checkpointer.count, [checkpointer.appended(i)["x"].tolist() for i in range(checkpointer.count)]


def resumed_from(checkpointer: Checkpointer) -> Any:
    last = checkpointer.last
    return None if last is None else (last.values, last.arrays["a"].tolist(), last.where)


@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_it_keeps_what_the_one_in_memory_keeps(steps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    graph, run = tmp_path_factory.mktemp("graph"), new_id("r")
    model, disk = InMemory(), OnDisk(StateFiles(graph, run), 0)
    for number, step in enumerate(steps):
        if step == "stop":
            model, disk = model.again(), OnDisk(StateFiles(graph, run), 0)
            assert resumed_from(disk) == resumed_from(model)
        for checkpointer in (model, disk):
            if step == "save":
                checkpointer.save(State({"number": number}, {"a": np.array([number])}, f"step {number}"))
            elif step != "stop":
                checkpointer.append({"x": np.array([step, number])})
        assert seen(disk) == seen(model)


def test_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("mgraph.session.keeping.time.monotonic", lambda: clock)
    checkpointer, slow = (OnDisk(StateFiles(tmp_path, new_id("r")), 30) for _ in range(2))
    clock = 129.9
    assert not checkpointer.due
    clock = 130
    assert checkpointer.due
    assert checkpointer.due
    checkpointer.save(State({}))
    assert not checkpointer.due
    clock = 160
    assert checkpointer.due

    def takes_a_minute(*_: Any, **__: Any) -> None:
        nonlocal clock
        clock += 60

    monkeypatch.setattr(slow._files, "save", takes_a_minute)
    slow.save(State({}))
    clock = 160 + 60 + 599
    assert not slow.due  # a tenth of the time at most
    clock += 1
    assert slow.due


def test_what_could_not_be_saved_is_not_lost_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StateFiles(tmp_path, new_id("r"))
    checkpointer = OnDisk(files, 0)
    checkpointer.append({"x": np.array([1])})

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("No space left.")

    with monkeypatch.context() as patched:
        patched.setattr(files, "append", full)
        with pytest.warns(NotSavedWarning, match="can only be resumed from the state before"):
            checkpointer.save(State({"n": 1}))
        checkpointer.append({"x": np.array([2])})
        checkpointer.save(State({"n": 2}))  # it was said once
    assert files.newest() is None
    assert seen(checkpointer) == (2, [[1], [2]])
    checkpointer.save(State({"n": 3}))
    assert seen(OnDisk(files, 0)) == (2, [[1], [2]])
