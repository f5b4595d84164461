r"""Making text from somebody else safe to show: what a terminal obeys or a reader cannot see is escaped.

Names, notes, reasons and file names of a graph may come from a stranger. Control characters can move the cursor, set
the title or write the clipboard; characters that reorder or join text can make one name look like another. Here they
become ``\x1b`` or ``\u202e``. Letters of every script, combining marks, emoji and variation selectors stay as they are;
joiners are escaped even inside emoji, so that two names which differ also look different.
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
    "\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # order, joining, width
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # formats of single scripts and of music
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"  # tags, and code points reserved for more of them
    "\u2028\u2029"  # separators of lines and paragraphs
    "\ud800-\udfff"  # bytes of file names that are not text
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\uffa0"  # letters and marks that are invisible
    "]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    r"""Return text as one line in which everything is visible, line breaks as ``\n``; doing so twice changes nothing.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _ESCAPED.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Return text of several lines, each made :func:`visible`; for text whose line breaks are ours."""
    return "\n".join(map(visible, text.split("\n")))


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    point = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
