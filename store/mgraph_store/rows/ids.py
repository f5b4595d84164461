"""Identifiers and names.

An identifier is a kind letter and twelve random base32 characters (60 bits): among a million made in one graph, two
coincide with probability 4e-7, and the commit checks. Order is by creation time, not by identifier.
"""

from __future__ import annotations

import os
import re

from mgraph_store.errors import InputError

KIND_LETTERS = {
    "mode": "m",
    "control": "c",
    "pivot": "p",
    "sample": "s",
    "merged": "g",
    "space": "a",
    "connection": "k",
    "sweep": "w",
    "run": "r",
    "note": "n",
}

_LETTERS = frozenset(KIND_LETTERS.values())
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 base32, in lower case
_CHARACTERS = (_ALPHABET * 8).encode()  # for each byte; as often
_ID = re.compile(rf"[{''.join(KIND_LETTERS.values())}][a-z2-7]{{12}}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def new_id(letter: str) -> str:
    """Make a fresh identifier from a kind letter, see ``KIND_LETTERS``.

    Raises
    ------
    InputError
        If no kind has this letter.
    """
    if letter not in _LETTERS:
        raise InputError(f"{letter!r} is not a kind letter: use one of {', '.join(KIND_LETTERS.values())}.")
    return letter + random_characters(12)


def random_characters(count: int) -> str:
    """Draw random lowercase base32 characters, five bits each."""
    return os.urandom(count).translate(_CHARACTERS).decode()


def is_id(text: str) -> bool:
    """Return whether a text has the form of a full identifier."""
    return _ID.fullmatch(text) is not None


def validate_name(name: str) -> str:
    """Return a usable name unchanged.

    Raises
    ------
    InputError
        If it is malformed, or could be taken for an identifier.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a usable name: start with a letter, then letters, digits, '_', '.' or '-', "
            "at most 64 characters in all."
        )
    if is_id(name):
        raise InputError(f"{name!r} looks like an identifier: choose another name.")
    return name
