"""Chunks dealt out to a few threads, which read, verify or sum them at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

THREADS = 2
"""How many threads work at a time: while one waits for the disk or verifies a checksum, the other adds or copies."""


def deal(starts: range, work: Callable[[Iterator[int]], None], threads: int = THREADS, *, here: bool = False) -> None:
    """Give ``work`` the starts of chunks, in several threads at a time, each start to one of them.

    After an error, which is raised, or Ctrl-C, it returns when the chunks under way are done. With ``here``, the
    calling thread is one of them, which saves starting one; not where Ctrl-C must not break into the work, such as
    Zarr's.
    """
    stop = threading.Event()
    lock = threading.Lock()
    left = iter(starts)

    def dealt() -> Iterator[int]:
        while not stop.is_set():
            with lock:
                start = next(left, None)
            if start is None:
                return
            yield start

    def until_done() -> None:
        try:
            work(dealt())
        except BaseException:
            stop.set()
            raise

    others = max(1, min(threads, len(starts)) - here)
    with ThreadPoolExecutor(others) as pool:
        try:
            working = [pool.submit(until_done) for _ in range(others)]
            if here:
                until_done()
            for future in working:
                future.result()
        finally:
            stop.set()
