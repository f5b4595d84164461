"""A server that speaks Azure's protocol for blobs: Azurite, where it is installed (npm install -g azurite)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

PROGRAM = shutil.which("azurite-blob")
CONTAINER = "bucket"

# Of every Azurite, by its documentation.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_PATIENCE = 60


@contextmanager
def serving(directory: Path) -> Iterator[None]:
    """Serve a container whose files lie in a directory, with the environment that leads there, for this block."""
    assert PROGRAM is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", str(directory)]
    with subprocess.Popen([PROGRAM, *options, "--blobPort", str(port)], stdout=subprocess.DEVNULL) as server:
        endpoint, patch = f"http://127.0.0.1:{port}/{_ACCOUNT}", pytest.MonkeyPatch()
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", _ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", _KEY)
        patch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        try:
            _make_container(endpoint)
            yield
        finally:
            patch.undo()
            server.terminate()


def _make_container(endpoint: str) -> None:
    # Not something that obstore does.
    until = time.monotonic() + _PATIENCE
    while True:
        date, version = formatdate(usegmt=True), "2021-08-06"
        resource = f"/{_ACCOUNT}/{_ACCOUNT}/{CONTAINER}\nrestype:container"
        text = "PUT" + 12 * "\n" + f"x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
        signature = base64.b64encode(hmac.new(base64.b64decode(_KEY), text.encode(), hashlib.sha256).digest()).decode()
        headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {_ACCOUNT}:{signature}"}
        request = Request(f"{endpoint}/{CONTAINER}?restype=container", method="PUT", headers=headers)
        try:
            with urlopen(request, timeout=_PATIENCE):
                return
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > until:
                raise
            time.sleep(0.1)
