"""Threads that use one graph, or several: each gets the numbers that it would get alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import mgraph
from mgraph.alone import alone, our_turn

rounds = pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.stress)])


def _together(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Start jobs in a thread each, at the same moment, and return what they return."""
    start = threading.Barrier(len(jobs))

    def begin(job: Callable[[], Any]) -> Any:
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(begin, jobs))


@rounds
@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_trained_in_threads_a_mode_is_that_of_its_seed(unswept: Path, g: Any, tmp_path: Path, rounds: int) -> None:
    other = mgraph.create(tmp_path / "other.mgraph", arch="mlp?hidden=6,", data="digits", device="cpu")

    def train(graph: Any, seed: int) -> str:
        digest: str = graph.train(seed=seed, epochs=1).digest
        return digest

    which = [(g, 11), (other, 11), (g, 12), (other, 12)]
    alone = [train(*one) for one in which]
    for _ in range(rounds):
        assert _together([lambda one=one: train(*one) for one in which]) == alone  # type: ignore[misc]


@rounds
def test_measured_in_threads_each_mode_has_its_own_numbers(graph: Any, rounds: int) -> None:
    def measure(name: str) -> Any:
        return {metric: m.value for metric, m in graph.node(name).evaluate("test").items()}

    names = list("abcd") * 3
    alone = [measure(name) for name in names]
    assert len({repr(numbers) for numbers in alone}) == 4
    for _ in range(rounds):
        assert _together([lambda n=n: measure(n) for n in names]) == alone  # type: ignore[misc]


def test_sweeps_trainings_and_questions_at_the_same_time(unswept: Path, g: Any) -> None:
    def sweep(name: str) -> list[float]:
        values: list[float] = g.connection(name).sweep(3, reuse=False).values["train", "loss"].tolist()
        return values

    def ask() -> int:
        return sum(len(g.nodes()) for _ in range(5))

    alone = [sweep(name) for name in ("line", "chain", "tri")]
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    found = _together([lambda: sweep("line"), lambda: sweep("chain"), lambda: sweep("tri"), ask, ask])
    assert found[:3] == alone
    assert found[3] == found[4] == 20
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_who_waits_for_another_thread_can_be_interrupted(graph: Any) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with our_turn():
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.node("a").evaluate("test")
        assert not done.is_set()
    finally:
        done.set()
        holder.join()
    assert graph.node("a").evaluate("test")["loss"].value > 0  # nobody kept the turn


def test_what_computes_may_call_what_computes() -> None:
    @alone
    def inner(x: int) -> int:
        return x + 1

    @alone
    def outer(x: int) -> int:
        return inner(x) * 2

    assert outer(1) == 4
