"""Processes that run ``mgraph ARGS`` without the seconds that importing torch takes.

They are forked from a server that has imported all that a command needs and used none of it; from then on each is a
process like any other: it has its own signals, directory and environment, and ends with an exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_MODULES = (
    *("torch", "zarr", "duckdb", "mgraph_cli.main", "mgraph_cli.commands.modes", "mgraph_cli.commands.connect"),
    *("mgraph.graph.graph", "mgraph.operations.modes", "mgraph.operations.sweeps", "mgraph.train.engine"),
)


class Server:
    """The process that the others are forked from."""

    def __init__(self, modules: Sequence[str] = _MODULES) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *modules], pass_fds=[theirs.fileno()]
            )
        self._socket = ours

    def start(self, *args: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Run ``mgraph ARGS`` in a process of its own."""
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 (the process closes them)
        told, tells = os.pipe()
        order = {"args": [str(a) for a in args], "cwd": str(cwd or Path.cwd()), "env": dict(env or os.environ)}
        with os.fdopen(tells, "w"):
            socket.send_fds(self._socket, [json.dumps(order).encode()], [out.fileno(), err.fileno(), tells])
        return Process([str(a) for a in args], os.fdopen(told), out, err)

    def close(self) -> None:
        """End it; processes that still run go on.

        Closing our end would not do: processes forked meanwhile, to load data, may hold it until the tests have ended.
        """
        with self._socket:
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait(60)


class Process:
    """A process as :class:`subprocess.Popen` gives it, as far as the tests ask."""

    def __init__(self, args: list[str], status: IO[str], out: IO[bytes], err: IO[bytes]) -> None:
        self._args, self._status = args, status
        self._files: tuple[IO[bytes], ...] = (out, err)
        self._written = ["", ""]
        self.pid = int(status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; TimeoutExpired if that takes too long."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self._args, timeout or 0)
            with self._status:
                self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end and return what it wrote, on stdout and on stderr."""
        self.wait(timeout)
        for i, file in enumerate(self._files):
            with file:
                file.seek(0)
                self._written[i] = file.read().decode()
        self._files = ()
        out, err = self._written
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _serve(orders: socket.socket, modules: Sequence[str]) -> None:
    from importlib import import_module

    for name in modules:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        text, files, *_ = socket.recv_fds(orders, 1 << 20, 3)
        if not text:
            return
        if os.fork() == 0:
            orders.close()
            _watch(json.loads(text), *files)
        for file in files:
            os.close(file)


def _watch(order: dict[str, Any], out: int, err: int, tells: int) -> None:
    # Between the server and the process: says its number and how it ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(tells)
        _run(order, out, err)
    os.write(tells, f"{pid}\n".encode())
    os.write(tells, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def _run(order: dict[str, Any], out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[0] = ""  # as of python -c
    sys.argv = ["-c", *order["args"]]
    code = 1
    try:
        from mgraph_cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
