"""Chunks dealt out to a few threads, which read, verify or sum them at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

THREADS = 2
"""How many threads work at a time: while one waits for the disk or verifies a checksum, the other adds or copies."""


def deal(starts: range, work: Callable[[Iterator[int]], None], threads: int = THREADS, *, here: bool = False) -> None:
    """Give ``work`` the starts of chunks, in several threads at a time, each start to one of them.

    After an error, which is raised, or Ctrl-C, it returns when the chunks under way are done. With ``here``, the
    calling thread is one of them, which saves starting one; not where Ctrl-C must not break into the work, such as
    Zarr's. It comes to the main thread only, so any other one is always one of them.
    """
    here = here or threading.current_thread() is not threading.main_thread()
    stop = threading.Event()
    lock = threading.Lock()
    left = iter(starts)
    errors: list[BaseException] = []

    def dealt() -> Iterator[int]:
        while not stop.is_set():
            with lock:
                start = next(left, None)
            if start is None:
                return
            yield start

    def until_done(done: threading.Event) -> None:
        under_way.append(done)  # by itself, for Ctrl-C may come before its start is known
        try:
            work(dealt())
        except BaseException as error:
            stop.set()
            errors.append(error)
        finally:
            done.set()

    # Threads are started one by one, for a pool takes several times as long to start and end, which counts where an
    # array is read. Each says itself that it is done: a join that Ctrl-C breaks off takes its thread for ended.
    under_way: list[threading.Event] = []
    started: list[threading.Event] = []
    try:
        for _ in range(max(1, min(threads, len(starts))) - here):
            done = threading.Event()
            threading.Thread(target=until_done, args=(done,)).start()
            started.append(done)
        if here:
            work(dealt())
        for done in started:
            done.wait()
    finally:
        stop.set()
        for done in under_way:
            done.wait()
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # it refers to this frame, and so must not be referred to from here
