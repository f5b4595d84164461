"""Settings: what is read from text, limits, words for nothing, presets, and how they describe themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from mgraph.errors import InputError
from mgraph.settings import Settings, format_value, setting
from mgraph.train.settings import Optimisation, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """One setting of each kind."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"long": {"count": 50, "names": ("a", "b")}, "sharp": {"rate": 1e-3, "limit": 2.0}}
    )
    count: int = setting(3, "how many", unit="things", low=1, high=100)
    rate: float = setting(0.5, "how fast", above=0, below=1)
    mode: str = setting("x", "which", choices=("x", "y"))
    flag: bool = setting(False, "whether")
    names: tuple[str, ...] = setting((), "words")
    pair: tuple[int, int] = setting((2, 2), "two numbers", low=1)
    sizes: tuple[int, ...] = setting((1,), "numbers", low=0)
    many: int | None = setting(None, "number or auto", low=1, nothing="auto")
    limit: float | None = setting(None, "number or none", above=0)
    word: str | None = setting(None, "word or none")


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"count": "7"}, "count", 7),
        ({"count": 7.0}, "count", 7),
        ({"rate": "1e-2"}, "rate", 0.01),
        ({"rate": ".25"}, "rate", 0.25),
        ({"mode": "y"}, "mode", "y"),
        ({"flag": "true"}, "flag", True),
        ({"flag": "True"}, "flag", True),
        ({"flag": "1"}, "flag", True),
        ({"flag": "0"}, "flag", False),
        ({"flag": True}, "flag", True),
        ({"names": "a.*,b"}, "names", ("a.*", "b")),
        ({"names": "a"}, "names", ("a",)),
        ({"names": ""}, "names", ()),
        ({"names": ["a", "b"]}, "names", ("a", "b")),
        ({"names": ()}, "names", ()),
        ({"pair": "3,4"}, "pair", (3, 4)),
        ({"sizes": "3,4,5"}, "sizes", (3, 4, 5)),
        ({"sizes": [1.0, 2]}, "sizes", (1, 2)),
        ({"many": "auto"}, "many", None),
        ({"many": "8"}, "many", 8),
        ({"many": None}, "many", None),
        ({"limit": "none"}, "limit", None),
        ({"limit": ""}, "limit", None),
        ({"limit": "2.5"}, "limit", 2.5),
        ({"word": "none"}, "word", None),
        ({"word": "some:thing"}, "word", "some:thing"),
    ],
)
def test_values_are_read_as_typed_or_as_they_are(given, name, value):
    parsed = getattr(Example.parse(given), name)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": "0"}, "count must be at least 1, not 0"),
        ({"count": "101"}, "count must be at most 100, not 101"),
        ({"count": "1e2"}, "count must be a whole number, not '1e2'"),
        ({"count": None}, "count must be a whole number"),
        ({"count": "auto"}, "count must be a whole number, not 'auto'"),
        ({"rate": "0"}, "rate must be above 0, not 0"),
        ({"rate": 1}, "rate must be below 1, not 1"),
        ({"rate": "inf"}, "rate must be a number, not 'inf'"),
        ({"rate": "none"}, "rate must be a number, not 'none'"),
        ({"mode": "z"}, "mode must be one of x, y, not 'z'"),
        ({"mode": None}, "mode must be a word"),
        ({"flag": "yes"}, "flag must be true or false, not 'yes'"),
        ({"names": 3}, "names must be words with commas, not '3'"),
        ({"names": [1, 2]}, "names must be words with commas"),
        ({"pair": "3"}, "pair must be 2 whole numbers with commas, not '3'"),
        ({"pair": "3,0"}, "pair must be at least 1, not 0"),
        ({"sizes": "1,-1"}, "sizes must be at least 0, not -1"),
        ({"sizes": "1,b"}, "sizes must be whole numbers with commas, not '1,b'"),
        ({"many": "none"}, "many must be a whole number or nothing, not 'none'"),  # its word is auto
        ({"many": "0"}, "many must be at least 1, not 0"),
        ({"limit": "auto"}, "limit must be a number or nothing, not 'auto'"),
        ({"limit": "0"}, "limit must be above 0, not 0"),
        ({"word": 3}, "word must be a word or nothing, not '3'"),
        ({"cuont": 3}, r"no setting 'cuont'; known are count, .*word\. Did you mean count\?"),
        ({"zzz": 3}, r"no setting 'zzz'; known are [a-z, ]+\.$"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(given, message):
    with pytest.raises(InputError, match=message):
        Example.parse(given)


def test_settings_are_checked_however_they_are_made():
    with pytest.raises(InputError, match="count must be at least 1"):
        Example(count=0)
    assert Example(pair="3,4").pair == (3, 4)


def test_presets_are_groups_of_values_with_changes_on_top():
    assert Example.preset("long") == Example(count=50, names=("a", "b"))
    assert Example.preset("long", count="9", flag=True) == Example(count=9, names=("a", "b"), flag=True)
    assert Example.preset("sharp").rate == 1e-3
    with pytest.raises(InputError, match="no preset 'short' of Example; known are: long, sharp"):
        Example.preset("short")
    with pytest.raises(InputError, match="no preset 'long' of TrainSettings; known are: lenet5-mnist"):
        TrainSettings.preset("long")
    with pytest.raises(InputError, match="no setting 'cuont'"):
        Example.preset("long", cuont=3)
    with pytest.raises(InputError, match="count must be at most 100"):
        Example.preset("long", count=1000)


def test_what_is_stored_can_be_read_and_holds_the_defaults_too():
    made = Example(names=("a", "b"), limit=0.25, many=4)
    stored = json.loads(made.to_json())
    assert set(stored) == {info.name for info in Example.infos()}
    assert Example.parse(stored) == made
    assert Example.parse(json.loads(Example().to_json())) == Example()


def test_settings_describe_themselves():
    infos = {info.name: info for info in Example.infos()}
    assert list(infos) == [
        "count",
        "rate",
        "mode",
        "flag",
        "names",
        "pair",
        "sizes",
        "many",
        "limit",
        "word",
    ]
    assert (infos["count"].kind, infos["count"].unit, infos["count"].default) == ("a whole number", "things", 3)
    assert infos["names"].kind == "words with commas"
    assert infos["pair"].kind == "2 whole numbers with commas"
    assert infos["many"].kind == "a whole number or nothing"
    assert infos["many"].example() == "auto"
    assert infos["limit"].example() == infos["word"].example() == "none"
    assert infos["pair"].example() == "2,2"
    assert infos["flag"].example() == "false"


def test_what_is_shown_as_a_default_can_be_typed():
    for settings in (Example, Optimisation, TrainSettings):
        assert settings.parse({info.name: info.example() for info in settings.infos()}) == settings()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (0.0001, "0.0001"),
        (1e-5, "1e-05"),
        ((1, 2), "1,2"),
        ((), ""),
        (("a", "b.*"), "a,b.*"),
        ("word", "word"),
    ],
)
def test_values_are_written_as_they_are_typed(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    "given", [{"optimizer": "adamw"}, {"momentum": 0}, {"optimizer": "adamw", "momentum": "0.5"}], ids=str
)
def test_nesterov_is_for_sgd_with_momentum(given):
    with pytest.raises(InputError, match="nesterov=true needs optimizer=sgd and a momentum above 0"):
        Optimisation.parse(given | {"nesterov": "true"})
    assert Optimisation(nesterov=True).nesterov


def test_keep_rises_and_ends_before_the_last_epoch():
    assert TrainSettings.parse({"epochs": "9", "keep": "2,8"}).keep == (2, 8)
    for keep in ("9", "2,12", "5,2", "2,2"):
        with pytest.raises(InputError, match="keep takes rising epochs below epochs=9"):
            TrainSettings.parse({"epochs": "9", "keep": keep})
