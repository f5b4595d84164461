"""What the tests themselves stand on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from warm import Server


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_server_ends_though_a_process_that_was_forked_meanwhile_holds_its_socket() -> None:
    server = Server(modules=())
    if (child := os.fork()) == 0:  # as processes that load data are
        time.sleep(600)
        os._exit(0)
    try:
        server.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
