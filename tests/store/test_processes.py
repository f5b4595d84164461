"""Is the process that noted its number still the one that has it?"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from mgraph_store.index.processes import is_alive, may_run

HERE = platform.node()


def test_this_process_runs_and_one_that_ended_does_not() -> None:
    assert is_alive(os.getpid())
    assert may_run(HERE, os.getpid(), datetime.now(UTC))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_alive(child.pid)
    assert not may_run(HERE, child.pid, datetime.now(UTC))


@pytest.mark.parametrize("pid", [0, -1, 2**40])
def test_numbers_that_no_process_has(pid: int) -> None:
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_process_that_nobody_waited_for_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie until it is waited for
    assert not is_alive(child.pid)
    child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_another_process_with_the_same_number_is_another_one() -> None:
    assert not may_run(HERE, os.getpid(), datetime.now(UTC) - timedelta(days=300))


def test_elsewhere_it_cannot_be_known() -> None:
    assert may_run("another-machine", 1, datetime.now(UTC))
    assert may_run(HERE, None, datetime.now(UTC))
