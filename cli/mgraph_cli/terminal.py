r"""Output for people: every line of it, on stdout or stderr, goes through :func:`echo`.

These lines may contain what a stranger wrote into a graph or bundle (names, notes, reasons, file names), so each is
made :func:`~mgraph.visible`: it stays one line, and no terminal obeys anything in it. Everything else that writes in
this process, a library or a print in a network, passes a guard that escapes the same characters, but leaves tabs, line
breaks and carriage returns alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import click

from mgraph import visible


def echo(*lines: object, err: bool = False) -> None:
    """Print texts, each as one line; without any, an empty line."""
    click.echo("\n".join(visible(str(line)) for line in lines), file=unguarded(sys.stderr if err else sys.stdout))


@contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr against control characters."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Guard(stream)) if stream is not None else stream for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream behind the guard, for text that is already escaped, or has our own escapes."""
    return stream.stream if isinstance(stream, _Guard) else stream


class _Guard:
    """A text stream whose :meth:`write` escapes; everything else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write("".join(part if part in _KEPT else visible(part) for part in re.split(r"([\n\r\t])", text)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_KEPT = frozenset("\n\r\t")
