"""Recipes of papers as presets of training."""

import pytest
from shapes import shapes_alone

from mgraph.architectures.loading import build_network
from mgraph.errors import InputError
from mgraph.train.recipes import RECIPES
from mgraph.train.settings import TrainSettings


@pytest.mark.parametrize(
    "recipe",
    [
        # Deeper networks, and those for 100 classes, are built as others are.
        pytest.param(
            recipe,
            id=name,
            marks=[pytest.mark.stress] * ("preresnet164-" in name or name.startswith("preresnet110-cifar100")),
        )
        for name, recipe in RECIPES.items()
    ],
)
def test_a_recipe_is_a_preset_for_a_network_that_is_there(recipe):
    settings = TrainSettings.preset(recipe.name)
    for key, value in recipe.settings.items():
        assert getattr(settings, key) == value
    with shapes_alone():
        build_network(recipe.arch, input_shape=recipe.shape, classes=recipe.classes or 10, seed=0)
    assert recipe.source.startswith(("[G]", "[L]"))
    assert recipe.differences(recipe.arch, recipe.shape, recipe.classes) == []
    # A learning rate that the source does not give is named as such.
    assert ("lr" in recipe.settings) != ("learning rate" in recipe.unstated)
    assert ("batch_size" in recipe.settings) != ("batch size" in recipe.unstated)


def test_what_is_other_is_said():
    recipe = RECIPES["lenet5-mnist"]
    assert recipe.differences("lenet5", (1, 28, 28), 10) == []
    assert recipe.differences("cnn", (1, 28, 28), 10) == ["the network lenet5, not cnn"]
    (data,) = recipe.differences("lenet5", (3, 32, 32), 100)
    assert data == "mnist (inputs (1, 28, 28) and 10 classes), not inputs (3, 32, 32) and 100 classes"
    assert len(recipe.differences("cnn", (3, 32, 32), None)) == 2
    either = RECIPES["preresnet164"]
    assert either.settings == RECIPES["preresnet164-cifar10"].settings == RECIPES["preresnet164-cifar100"].settings
    assert [either.differences(either.arch, either.shape, classes) for classes in (10, 100)] == [[], []]
    assert either.differences(either.arch, (1, 28, 28), 10) == [
        "cifar10 or cifar100 (inputs (3, 32, 32)), not inputs (1, 28, 28) and 10 classes"
    ]


def test_settings_win_over_a_recipe():
    changed = TrainSettings.preset("lenet5-mnist", epochs=2, augment="rotate9")
    assert (changed.epochs, changed.augment, changed.lr) == (2, "rotate9", 0.01)
    with pytest.raises(InputError, match="Did you mean lenet5-mnist"):
        TrainSettings.preset("lenet-mnist")
