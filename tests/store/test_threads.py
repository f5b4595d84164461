"""Chunks that are dealt out to threads are all done, each once, or those under way are waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from mgraph_store.tensors.threads import deal


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_each_chunk_is_dealt_once(count: int, threads: int, here: bool) -> None:
    done: list[int] = []
    workers = set[threading.Thread]()

    def work(dealt: Iterator[int]) -> None:
        workers.add(threading.current_thread())
        done.extend(dealt)

    deal(range(0, 10 * count, 10), work, threads, here=here)
    assert sorted(done) == list(range(0, 10 * count, 10))
    assert len(workers) <= threads
    assert here or threading.current_thread() not in workers


@pytest.mark.parametrize("here", [False, True])
def test_an_error_stops_the_dealing_and_is_raised(here: bool) -> None:
    done: list[int] = []

    def work(dealt: Iterator[int]) -> None:
        for start in dealt:
            done.append(start)
            raise ValueError(f"chunk {start}")

    with pytest.raises(ValueError, match=r"chunk \d"):
        deal(range(100), work, here=here)
    assert 1 <= len(done) <= 2


@pytest.mark.parametrize("first", [0, 1, 2])  # at once, so that the other thread may not have been started yet
def test_ctrl_c_returns_when_the_chunks_under_way_are_done(first: int) -> None:
    begun: list[int] = []
    ended: list[int] = []
    main = threading.main_thread().ident
    assert main is not None

    def work(dealt: Iterator[int]) -> None:
        for start in dealt:
            begun.append(start)
            if start == first:
                signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.1)
            ended.append(start)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            deal(range(50), work)
        assert first in ended
        assert sorted(ended) == sorted(begun)
        time.sleep(0.3)
        assert len(begun) == len(ended) <= first + 2
    finally:
        signal.signal(signal.SIGINT, before)
