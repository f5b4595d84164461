"""Files that appear together when all of them are whole and checked, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mgraph.errors import InputError, NameTakenError
from mgraph.network.checkpoints.writing import flush


@contextmanager
def staged(paths: Sequence[Path], *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary directory; at the end, the files in it that ``paths`` name move to these paths of one parent.

    After an error nothing is left. Raises InputError if one of them exists (unless ``overwrite``) or cannot be written.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a directory; name a file.")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; choose another name or allow overwriting.")
    first = paths[0]
    with stage_beside(first, become=first.parent) as stage:
        yield stage
        written = [path for path in paths if (stage / path.name).exists()]
        for path in written:
            flush(stage / path.name)
        for path in reversed(written):  # what accompanies a file is there before it
            (stage / path.name).replace(path)
        flush(first.parent)


@contextmanager
def stage_beside(target: Path, *, become: Path) -> Iterator[Path]:
    """Yield a new directory beside a path, whose files are to be in the directory ``become``, and remove it at the end.

    InputError, naming the path, or the file as it was to be, if it cannot be written.
    """
    stage = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        stage.mkdir()
        yield stage
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(target.parent):
            raise  # of something that was read
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from None
    except InputError as error:
        if f"{stage}{os.sep}" not in str(error):
            raise
        told = str(error).replace(f"{stage}{os.sep}", f"{become}{os.sep}")
        raise InputError(told) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def staged_directory(directory: Path, ours: Sequence[str], *, last: str, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary directory whose files move to ``directory`` at the end, that of the name ``last`` after all.

    After an error nothing is left. With ``overwrite`` files there by the patterns ``ours`` are replaced, and others
    stay; else raises NameTakenError for a directory that is not empty, and InputError for one that cannot be written.
    """
    directory = directory.resolve()
    fresh = not directory.exists()
    if not fresh and (not directory.is_dir() or any(directory.iterdir())) and not overwrite:
        raise NameTakenError(f"{directory} exists and is not empty; choose another directory or add --overwrite.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True)  # raise the plain error before hours of work
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror}.") from None
    try:
        with stage_beside(directory, become=directory) as stage:
            yield stage
            for file in stage.iterdir():
                flush(file)
            for pattern in ours:
                for old in directory.glob(pattern):
                    old.unlink()
            for file in sorted(stage.iterdir(), key=lambda f: f.name == last):
                file.replace(directory / file.name)
            flush(directory)
    finally:
        if fresh:
            with suppress(OSError):  # it stays unless it is still empty
                directory.rmdir()
