"""Objects below a URL, through obstore: S3-compatible storage, Google Cloud Storage, Azure, or this process's memory.

Addresses and credentials come from the environment alone (docs/sharing.md). Everything that a service answers becomes
a value, ``FileNotFoundError``, or one sentence (``StoreError``, ``InputError``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import InputError, MGraphError, StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, MemoryStore, RetryConfig
    from obstore.store import ObjectStore as Client

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "memory")
"""Schemes of URLs; none that runs code, chains others or reads this machine's files."""

_URL = re.compile(r"([a-z0-9]+)://([A-Za-z0-9][A-Za-z0-9._=+@-]*)((?:/[A-Za-z0-9._=+@-]+)*)/?")
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # seconds before each attempt, at most
_CLIENT: ClientConfig = {"connect_timeout": "10s", "timeout": "5m"}  # a chunk of 4 MiB on a slow line takes a minute
_ENDPOINTS = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    *("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "GOOGLE_BASE_URL",
)
_RETRY: RetryConfig = {"max_retries": 4}
_SHOWN = 200  # characters of what a service says

_memory: MemoryStore | None = None
_process: int | None = None  # the one whose threads obstore uses


def check_url(url: str) -> str:
    """Return a valid URL, without a slash at its end; ``InputError`` if it is not one."""
    match = _URL.fullmatch(url)
    if match is None or match[1] not in SCHEMES or ".." in url or "/./" in f"{url}/":
        raise InputError(
            f"{url!r} is not a place for tensors: give a URL such as s3://bucket/path ({', '.join(SCHEMES)})."
        )
    return url.rstrip("/")


@dataclass(frozen=True)
class Found:
    """An object: its name below the URL, its size in bytes, and when it was written, in seconds since 1970."""

    name: str
    size: int
    written: float


class ObjectStorage:
    """Objects below a URL, by their names relative to it; safe to use from threads."""

    def __init__(self, url: str) -> None:
        self.url = check_url(url)
        match = _URL.fullmatch(self.url)
        assert match is not None
        self._scheme, self._bucket, self._prefix = match[1], match[2], match[3].strip("/")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read an object, or its bytes from ``start`` up to ``stop``; ``FileNotFoundError`` if there is none."""
        with self.translated():
            if stop is None:
                return bytes(self.client.get(self.path(name)).bytes())[start:]
            return bytes(self.client.get_range(self.path(name), start=start, end=stop))

    def has(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        try:
            with self.translated():
                self.client.head(self.path(name))
        except FileNotFoundError:
            return False
        return True

    def find(self, below: str = "") -> Iterator[Found]:
        """Find all objects, or those below a name, as the service lists them."""
        start = len(self.path("")) + 1 if self.path("") else 0
        with self.translated():
            for batch in self.client.list(self.path(below) or None):
                for found in batch:
                    yield Found(found["path"][start:], int(found["size"]), found["last_modified"].timestamp())

    def names(self) -> list[str]:
        """List the names of the objects directly below the URL."""
        with self.translated():
            found = self.client.list_with_delimiter(self.path("") or None)["objects"]
        return [str(each["path"]).rpartition("/")[2] for each in found]

    def put(self, name: str, data: bytes) -> None:
        """Write an object, over what is there."""
        with self.translated():
            self.client.put(self.path(name), data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object if there is none of this name, in one step; return whether it is now this one.

        ``data`` must contain something random: where the answer to a request is lost, what is there tells who wrote it.

        Raises
        ------
        StoreError
            If the storage does not support this, or cannot be reached or written.
        """
        client = self.client
        from obstore import exceptions

        for pause in _PAUSES:
            time.sleep(random.uniform(0, pause))
            try:
                with self.translated():
                    client.put(self.path(name), data, mode="create")
                return True
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                with contextlib.suppress(FileNotFoundError):  # somebody else is just writing it: try again
                    return self.read(name) == data
            except (exceptions.NotSupportedError, NotImplementedError, StoreError) as error:
                if not isinstance(error, StoreError) or "NotImplemented" in str(error):
                    raise StoreError(
                        f"{self.url} is on storage without conditional writes, which mgraph needs: choose another."
                    ) from error
                with contextlib.suppress(FileNotFoundError, StoreError):
                    if self.read(name) == data:
                        return True
                raise
        raise StoreError(f"Others keep writing {self.url}/{name}: try again.")

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone do not matter."""
        paths = [self.path(name) for name in names]
        with self.translated():
            try:
                if paths:
                    self.client.delete(paths)
            except FileNotFoundError:  # not every service ignores this
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        self.client.delete(path)

    def path(self, name: str) -> str:
        """Return where an object is in :attr:`client`."""
        return f"{self._prefix}/{name}".strip("/")

    @property
    def client(self) -> Client:
        """The bucket as an obstore store; StoreError in a process that was forked from one that used obstore."""
        global _process
        if _process is None:
            _process = os.getpid()
        if _process != os.getpid():
            raise StoreError(
                f"{self.url} cannot be used in a process that was forked from one that used such storage: start it "
                "in another way, such as multiprocessing's 'spawn'."
            )
        return self._client

    @cached_property
    def _client(self) -> Client:
        global _memory
        try:
            from obstore import store
        except ImportError as error:
            raise InputError(f'{self.url} needs the package obstore ({error}): pip install "mgraph[remote]".') from None
        if self._scheme == "memory":
            _memory = _memory or store.MemoryStore()
            return _memory
        with self.translated():
            options = _client_options()
            if self._scheme == "s3":
                return store.S3Store(self._bucket, client_options=options, retry_config=_RETRY, **_aws())
            if self._scheme in ("gs", "gcs"):
                return store.GCSStore(self._bucket, client_options=options, retry_config=_RETRY)
            place = f"{self._scheme}://{self._bucket}"
            return store.AzureStore.from_url(place, client_options=options, retry_config=_RETRY)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what obstore raises in the block into one sentence; let our own errors, missing objects, and lost
        conditions pass."""
        try:
            yield
        except (MGraphError, MemoryError):
            raise
        except Exception as error:
            from obstore import exceptions

            if re.search("NoSuchBucket|bucket does not exist|ContainerNotFound", str(error), re.IGNORECASE):
                raise StoreError(
                    f"{self.url} cannot be reached, because there is no bucket {self._bucket!r}: make it first, or "
                    "correct the address."
                ) from error
            passing = (FileNotFoundError, exceptions.AlreadyExistsError, exceptions.PreconditionError)
            if isinstance(error, (*passing, exceptions.NotSupportedError, NotImplementedError)):
                raise
            raise StoreError(_sentence(self.url, error)) from error


def _sentence(url: str, error: Exception) -> str:
    """Say what obstore's paragraphs come down to, and what to do."""
    text, _, details = str(error).partition("\n\nDebug source:")
    said = re.search(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?", text, re.DOTALL)
    cause = re.findall(r'(?:message|error): "([^"]*)"', details)
    why = ": ".join(filter(None, said.groups())) if said else cause[-1] if cause else text.rpartition(" - ")[2]
    why = " ".join(why.split()).rstrip(".")[:_SHOWN] or type(error).__name__
    if "169.254.169.254" in text or "MissingAccount" in details:
        return f"There are no credentials for {url} in the environment ({why}): docs/sharing.md lists the variables."
    if re.search("configured region|AuthorizationHeaderMalformed|IllegalLocationConstraint", text):
        return f"The bucket of {url} is in another region ({why}): set AWS_REGION."
    if re.search(r"status code: 40[13]\b|ExpiredToken|InvalidAccessKeyId", text):
        return f"{url} refuses your credentials ({why}): check them, and what they allow there."
    if "HTTP error" in text:
        return f"{url} cannot be reached ({why}): check the network, the address and the endpoint in the environment."
    return f"{url} cannot be reached or refuses ({why}): check the address and the credentials."


def _client_options() -> ClientConfig:
    # An endpoint that somebody wrote with http:// is meant so; without one, everything goes through TLS.
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    return {**_CLIENT, "allow_http": True} if plain else _CLIENT


def _aws() -> dict[str, Any]:
    """Return what the AWS tools would find besides the variables that obstore reads itself: profiles, with boto3.

    Raises
    ------
    InputError
        If there are profiles but no boto3, or no credentials.
    """
    if {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} & set(os.environ):
        return {}
    if importlib.util.find_spec("boto3") is None:
        own = [Path.home() / ".aws" / name for name in ("credentials", "config")]
        if "AWS_PROFILE" in os.environ or any(path.exists() for path in own):
            raise InputError(
                "Profiles in ~/.aws are read with boto3: pip install boto3, or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY."
            )
        return {}  # obstore itself asks the machine or container that it runs in
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    if session.get_credentials() is None:
        raise InputError(
            "There are no credentials for s3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or "
            "AWS_SKIP_SIGNATURE=true for a public bucket."
        )
    return {"credential_provider": Boto3CredentialProvider(session)}
