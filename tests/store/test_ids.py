from __future__ import annotations

import pytest

from mgraph_store.errors import InputError
from mgraph_store.rows.ids import KIND_LETTERS, is_id, new_id, validate_name


@pytest.mark.parametrize("letter", KIND_LETTERS.values())
def test_new_ids_have_their_letter_and_differ(letter: str) -> None:
    made = {new_id(letter) for _ in range(200)}
    assert len(made) == 200
    assert all(is_id(i) and i[0] == letter for i in made)


def test_every_kind_has_its_own_letter() -> None:
    assert len(set(KIND_LETTERS.values())) == len(KIND_LETTERS)


def test_unknown_letters_are_refused() -> None:
    with pytest.raises(InputError, match="kind letter"):
        new_id("x")


@pytest.mark.parametrize("name", ["a", "Resnet-18.seed_1", "m" * 64, "mode1"])
def test_good_names_pass(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize("name", ["", "1a", "a b", "a/b", "ä", "a\n", "m" * 65, "-a", "mabcdefgh2345"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"choose another name|usable name"):
        validate_name(name)
