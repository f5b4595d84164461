"""Text of strangers as it is shown: nothing is obeyed, nothing is hidden, and letters stay letters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph_store.errors import InputError, NotFoundError, UntrustedError
from mgraph_store.visible import visible, visible_lines

# Signs of Arabic and Syriac that enclose the digits after them: formats by category, but seen.
_SEEN = set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")


def _hides(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _SEEN


def test_every_control_and_format_of_unicode_is_escaped_and_no_letter() -> None:
    for character in map(chr, range(0x110000)):
        if _hides(character):
            assert visible(character).isascii(), hex(ord(character))
            assert visible(character).startswith("\\")
        elif unicodedata.category(character)[0] in "LNPS" and character not in "\u115f\u1160\u3164\uffa0":
            assert visible(character) == character, hex(ord(character))


@given(st.text())
def test_what_is_shown_is_one_line_and_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert not any(map(_hides, shown))
    assert visible(shown) == shown
    assert shown.splitlines() in ([], [shown])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        ("a\u200bb\u200d\ufeff\xad\u3164", r"a\u200bb\u200d\ufeff\xad\u3164"),
        ("\U000e0041\udc9b\u2028", r"\U000e0041\udc9b\u2028"),
        ("Ünïcödé 日本語 e\u0301 ❤\ufe0f 🇫🇷 नि עברית العربية", "Ünïcödé 日本語 e\u0301 ❤\ufe0f 🇫🇷 नि עברית العربية"),
        (r"C:\x1b", r"C:\x1b"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_that_are_ours_stay_lines() -> None:
    assert visible_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


def test_errors_are_safe_to_print() -> None:
    for kind in (InputError, NotFoundError, UntrustedError):
        error = kind("no \x1b[31mmode\n'b\u202e'")
        assert str(error) == r"no \x1b[31mmode\n'b\u202e'"
        assert error.args == ("no \x1b[31mmode\n'b\u202e'",)
