"""Ray: processes on this machine or on a cluster, placed and restarted by Ray."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from typing_extensions import override

from mgraph.engines.base import ATTEMPTS, Engine, Finished, WorkerLostError
from mgraph.errors import InputError, MGraphWarning

# For a local one: no telemetry, on the loopback address, accessible only with the token.
_LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
_OBJECTS = 256 << 20  # bytes for data passed through Ray: jobs and their outcomes, not tensors


class ReachableWarning(MGraphWarning):
    """A Ray started here listens on more than the loopback address."""


class Ray(Engine):
    """``ray``: the cluster at $RAY_ADDRESS, or one that is started here and stopped at the end.

    A connection takes one CPU, and one GPU if the cluster has any and the device allows it; all machines must see the
    graph's directory under the same path.
    """

    def __init__(self, places: int | None = None, device: str = "auto") -> None:
        """Connect; ``places`` limits how many calls run at once. Raises InputError if Ray is missing or refuses."""
        self._calls: dict[Future[Any], tuple[Hashable, Any]] = {}
        self._ray = _start()
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if device.startswith("cuda") and not gpus:
            self.__exit__()
            raise InputError("The Ray cluster has no GPU; choose --device cpu or auto.")
        self._gpus = 1 if gpus and (device == "auto" or device.startswith("cuda")) else 0
        self.device = "cuda" if self._gpus else device  # Ray shows each call only its own GPU
        most = gpus if self._gpus else int(resources.get("CPU", 1))
        self.places = max(1, most if places is None else min(places, most))

    @override
    def submit(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Make it a Ray task, which Ray repeats if its worker is lost."""
        if not isinstance(sys.stdout, _Stdout):
            sys.stdout = _Stdout(sys.stdout)
        task = self._ray.remote(_made).options(num_cpus=1, num_gpus=self._gpus, max_retries=ATTEMPTS - 1)
        reference = task.remote(function, *arguments)
        self._calls[reference.future()] = key, reference

    @override
    def wait(self, timeout: float | None = None) -> Finished | None:
        """Wait for a task to end."""
        ended, _ = wait(self._calls, timeout, return_when=FIRST_COMPLETED)
        future = next((f for f in self._calls if f in ended), None)  # in the order in which they were made
        if future is None:
            return None
        key, _ = self._calls.pop(future)
        error = future.exception()
        if isinstance(error, self._ray.exceptions.RayTaskError):
            error = error.cause or error
        elif isinstance(error, self._ray.exceptions.RayError):
            error = WorkerLostError(ATTEMPTS)
        return Finished(key, None if error else future.result(), error)

    @override
    def interrupt(self) -> None:
        """Cancel the tasks: Ray raises KeyboardInterrupt in their workers."""
        for _, reference in self._calls.values():
            self._ray.cancel(reference)

    @override
    def __exit__(self, *_: object) -> None:
        """Leave the cluster, or stop the one that was started here."""
        self._calls.clear()
        self._ray.shutdown()
        if isinstance(sys.stdout, _Stdout):
            sys.stdout = sys.stdout.stream


def _made(function: Callable[..., Any], *arguments: Any) -> Any:
    """Make a call, in a worker; Ray accepts only plain functions."""
    return function(*arguments)


def _start() -> Any:
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        for variable, value in _LOCAL.items():
            os.environ.setdefault(variable, value)  # before the import, the only time Ray reads it
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'mgraph[ray]'") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECTS}
    try:
        with _own_modules():
            ray.init(**options)
    except Exception as error:  # ConnectionError, RuntimeError, …: what it says is all that is known
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"Ray is not available {f'at {address}' if address else 'here'}: {why}.") from error
    if address is None:
        _require_loopback(ray)
    return ray


def _require_loopback(ray: Any) -> None:
    """Warn if the Ray started here can be reached from elsewhere."""
    found = {node["NodeManagerAddress"] for node in ray.nodes()}
    open_at = sorted(a for a in found if a != "localhost" and not ip_address(a).is_loopback)
    if open_at:
        warnings.warn(
            f"The Ray that was started here listens on {', '.join(open_at)}, where other machines may reach it: "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is set, or ray was imported before mgraph could tell it not to. "
            "Connecting requires its token.",
            ReachableWarning,
            stacklevel=2,
        )


class _Stdout:
    """Standard output without what Ray's own threads print, which goes to stderr instead: stdout is for data.

    This is how Ray reports dead workers, and it has no setting for it.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write to the appropriate stream."""
        own = threading.current_thread().name.startswith("ray_")
        return int((sys.stderr if own else self.stream).write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _own_modules() -> Iterator[None]:
    """Let workers started here find the modules that this process finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
