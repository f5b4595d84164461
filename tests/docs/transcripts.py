"""Comparing what a page shows with what its commands print: line by line, in order, word by word.

Words and whole numbers are equal. Ids and digests differ each time, but the same one stands in the same places. Numbers
that training leads to are equal within a tolerance, for they differ in the last digits between processors; which
of several close points came out best is left open, and so is what a clock says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest

RELATIVE, ABSOLUTE = 0.15, 0.012
"""How far a number may be off; four images of the 360 of the digits' test split are 0.011."""

_NAME = re.compile(r"[mcpsgakwrn][a-z2-7]{12}|[0-9a-f]{32}|[0-9a-f]{64}")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_TOKEN = re.compile(
    rf"\b(?:{_NAME.pattern})\b|\d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?Z?)?"
    rf"|(?<![\w.]){_NUMBER.pattern}|\w+|[^\w\s]"
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_RULE = re.compile(r"^\s*─[─ ]*$")
# Lines that only rule a table, those that exist only where a certain point was chosen, and how a file was verified,
# which the tests of pages leave out.
_LEFT_OUT = re.compile(_RULE.pattern + r"|^Note: the chosen point|^info +batchnorm|^verified +examples=")
# What is open on a line: the point that came out best, and what a clock says.
_OPEN = re.compile(
    r"\b(better|worse|even)\b|(?<=corner )[a-d]\b|^(parameter|against|oracle|nbytes|test accuracy difference.*?)\s.*$"
    r"|\b\d+(\.\d+)?(e-?\d+)? ?(s|ms|seconds|minutes|MB|kB|B)\b|(?<=seconds )[\d.e-]+"
    r"|(?<=can be resumed from step )\d+|\b\d{8}T\d{6}\b"
    r"|\b\d\d:\d\d(?::\d\d)?\b|\(python .*\)"
)


def differences(shown: str, printed: str) -> list[str]:
    """Return a sentence for each line that does not say the same; both pages in order, blank lines left out."""
    left, right = list(_lines(shown)), list(_lines(printed))
    names: dict[str, str] = {}
    found = []
    aligned = SequenceMatcher(None, [_skeleton(line) for line in left], [_skeleton(line) for line in right], False)
    for kind, i, i_end, j, j_end in aligned.get_opcodes():
        for expected, actual in zip_longest(left[i:i_end], right[j:j_end], fillvalue=""):
            if kind != "equal" or not _same(expected, actual, names):
                found.append(f"shown: {expected.strip()!r}, printed: {actual.strip()!r}")
    return found


def _skeleton(line: str) -> str:
    """Leave only the words of a line, by which the lines of two pages are paired."""
    return " ".join(
        "#" if re.search(r"\d", token) or _NAME.fullmatch(token) else token for token in _TOKEN.findall(line)
    )


def _lines(text: str) -> Iterator[str]:
    """Yield the lines to compare; those of a block that is ``unordered``, for workers finish as they do, sorted."""
    waiting: list[str] | None = None
    for line in _open_lines(text):
        if line.startswith("```") and waiting is None and line.endswith(" unordered"):
            waiting = []
        elif line.startswith("```") and waiting is not None:
            yield from sorted(waiting, key=_skeleton)
            waiting = None
        elif waiting is not None:
            waiting.append(line)
            continue
        yield line


def _open_lines(text: str) -> Iterator[str]:
    clock: list[int] = []  # where the columns of seconds end in the table that a line belongs to
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith(" ") or _RULE.match(following):  # rows of a table are indented by one
            clock = [m.end() for m in re.finditer(r"\bseconds\b", line)]
        if not line.strip() or _LEFT_OUT.match(line):
            continue
        for end in clock:
            line = re.sub(r"\S+$", "…", line[:end]) + line[end:]
        yield _OPEN.sub("…", re.sub(r" {2,}", " ", line))


def _same(expected: str, actual: str, names: dict[str, str]) -> bool:
    left, right = _TOKEN.findall(expected), _TOKEN.findall(actual)
    return len(left) == len(right) and all(_same_token(a, b, names) for a, b in zip(left, right, strict=True))


def _same_token(expected: str, actual: str, names: dict[str, str]) -> bool:
    if _NAME.fullmatch(expected) and _NAME.fullmatch(actual):
        return names.setdefault(expected, actual) == actual
    if _DATE.match(expected) and _DATE.match(actual):
        return True
    if _NUMBER.fullmatch(expected) and _NUMBER.fullmatch(actual):
        if not set(expected + actual) & set(".e"):
            return int(expected) == int(actual)
        return math.isclose(float(expected), float(actual), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return expected == actual
