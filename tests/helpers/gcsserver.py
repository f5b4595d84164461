"""A server that answers as Google documents the XML API of Cloud Storage: the one for S3, and what differs there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest
from s3server import BUCKET, S3Server, refusal, running

TOKEN = "test"
_TO_S3 = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"  # moto verifies no signatures


class GoogleServer:
    """The API of Cloud Storage in front of a server that speaks S3."""

    def __init__(self) -> None:
        self._s3 = S3Server()
        self._generations = itertools.count(1)
        self._changing = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_AUTHORIZATION") != f"Bearer {TOKEN}":
            return refusal(start_response, 401, "AuthenticationRequired")
        environ["HTTP_AUTHORIZATION"] = _TO_S3
        if environ["REQUEST_METHOD"] not in ("PUT", "DELETE"):
            return self._s3(environ, start_response)
        with self._changing:
            if environ["REQUEST_METHOD"] == "DELETE" and not self._has(environ):
                return refusal(start_response, 404, "NoSuchKey")
            # An object that does not exist has generation 0.
            if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
                environ["HTTP_IF_NONE_MATCH"] = "*"

            def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
                return start_response(status, [*headers, ("x-goog-generation", str(next(self._generations)))], *rest)

            return list(self._s3(environ, begin))

    def _has(self, environ: dict[str, Any]) -> bool:
        found: list[str] = []
        list(self._s3({**environ, "REQUEST_METHOD": "HEAD"}, lambda status, *_: found.append(status)))
        return found[0].startswith("200")


@contextmanager
def serving() -> Iterator[None]:
    """Serve a bucket, with the environment that leads there, for this block."""
    with running(GoogleServer()) as address:
        authorization = {"Authorization": f"Bearer {TOKEN}"}
        with urlopen(Request(f"{address}/{BUCKET}", method="PUT", headers=authorization)):
            pass
        patch = pytest.MonkeyPatch()
        patch.setenv("GOOGLE_BASE_URL", address)
        patch.setenv("GOOGLE_BEARER_TOKEN", TOKEN)
        try:
            yield
        finally:
            patch.undo()
