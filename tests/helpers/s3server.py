"""A server that speaks S3, moto's, which can be told to do what services sometimes do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"


class _Quiet(WSGIRequestHandler):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Server":  # moto sends its own, and clients refuse two
            super().send_header(keyword, value)

    def log(self, *_: Any) -> None: ...


class S3Server:
    """The server, at :attr:`endpoint`, with a bucket."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._writing = threading.Lock()
        self.refuses: tuple[int, str] | None = None
        """Answer to every request, as status and code, until it is None."""
        self.delay = 0.0
        """Seconds before each answer, as on the way to a service."""
        self.answered = 0
        """Requests up to now."""
        self.ignores_conditions = False
        """Whether conditional writes always succeed."""
        self.answers_lost = 0
        """How many more times a write is carried out and answered as if it had failed."""
        self.conflicts = 0
        """How many more conditional writes are not carried out, because others are said to be writing."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.answered += 1
        time.sleep(self.delay)
        if self.refuses is not None:
            return refusal(start_response, *self.refuses)
        if environ["REQUEST_METHOD"] != "PUT":
            return self._app(environ, start_response)
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if self.conflicts and "HTTP_IF_NONE_MATCH" in environ:
            self.conflicts -= 1
            return refusal(start_response, 409, "ConditionalRequestConflict")
        with self._writing:  # moto looks and then writes; S3 does it in one step
            if self.answers_lost:
                self.answers_lost -= 1
                list(self._app(environ, lambda *_: None))
                return refusal(start_response, 500, "InternalError")
            return list(self._app(environ, start_response))


def refusal(start_response: Callable[..., Any], status: int, code: str) -> list[bytes]:
    """Answer that a request is refused, as services do."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>As told.</Message></Error>".encode()
    start_response(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def serving() -> Iterator[S3Server]:
    """Serve a bucket, with the environment that leads there, for this block."""
    app = S3Server()
    with running(app) as address:
        patch = pytest.MonkeyPatch()
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", address)
        try:
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield app
        finally:
            patch.undo()


@contextmanager
def running(app: Callable[..., Iterable[bytes]]) -> Iterator[str]:
    """Run a server in this process, and give its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
