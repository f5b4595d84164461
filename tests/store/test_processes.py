"""Is the process that noted itself still the one that has its number?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mgraph_store.index.processes import Process, is_alive

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")


def _noted(pid: int) -> Process:
    """What a process of that number, which began when this one did, would have noted."""
    return Process.present()._replace(pid=pid)


def test_this_process_runs_and_one_that_ended_does_not() -> None:
    assert is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_alive(child.pid)
    assert _noted(child.pid).alive is False


@linux
def test_a_process_is_known_by_its_start_and_no_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    for clock in ("time", "time_ns", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: pytest.fail("a clock was asked"))
    here = Process.present()
    assert here.alive is True
    assert here.start is not None
    assert here._replace(start=here.start - 1).alive is False  # another one that has the number now


@pytest.mark.parametrize("pid", [0, -1, 2**40])
def test_numbers_that_no_process_has(pid: int) -> None:
    assert not is_alive(pid)


@linux
def test_a_process_that_nobody_waited_for_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie until it is waited for
    assert not is_alive(child.pid)
    child.wait()


def test_what_cannot_be_seen_from_here_is_not_known() -> None:
    here = Process.present()
    assert Process("another-machine", 1).alive is None
    assert here._replace(boot="another boot").alive is None
    assert here._replace(pid=None).alive is None


@linux
def test_containers_count_processes_anew_and_names_of_hosts_say_nothing() -> None:
    here = Process.present()
    assert here._replace(numbers=1).alive is None
    assert here._replace(numbers=1).on_this_machine
    assert here._replace(host="renamed").alive is True
    assert not Process("another-machine", 1).on_this_machine
