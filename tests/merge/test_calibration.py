"""Temperatures: one number that makes a classifier as sure as it may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.merge.calibration import example_nll, fit_temperature, require_classes, require_validation

RNG = np.random.default_rng(0)


def test_the_temperature_of_samples_of_a_softmax_is_found() -> None:
    logits = torch.from_numpy(2.0 * RNG.standard_normal((4000, 5)))
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1.0, rel=0.08)
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0 * fit_temperature(logits, labels), rel=0.01)


def test_no_other_temperature_is_better() -> None:
    logits = torch.from_numpy(4.0 * RNG.standard_normal((60, 3, 4)))
    labels = torch.from_numpy(np.where(RNG.random((60, 4)) < 0.8, logits.argmax(1).numpy(), 0))
    labels[3, 1:] = labels[7, :] = 255
    best = fit_temperature(logits, labels, (255,))

    def cost(temperature: float) -> float:
        return float(example_nll(logits, labels, (255,), temperature).mean())

    assert all(cost(best) <= cost(best * factor) for factor in (0.9, 0.97, 1.03, 1.1))


def test_where_no_finite_temperature_is_best_it_stays_within_bounds() -> None:
    logits = torch.eye(3).repeat(5, 1)
    assert 1 / 50 <= fit_temperature(logits, logits.argmax(1)) < 0.05
    assert 20 < fit_temperature(logits, (logits.argmax(1) + 1) % 3) <= 50
    with pytest.raises(InputError, match="no examples"):
        fit_temperature(logits[:0], torch.zeros(0, dtype=torch.int64))


def test_what_is_fitted_needs_classes_and_validation_data_of_their_own() -> None:
    x, y = RNG.normal(size=(60, 2)).astype(np.float32), np.arange(60) % 3
    parts = [(x[i : i + 20], y[i : i + 20]) for i in (0, 20, 40)]
    good = make_task(train=parts[0], valid=parts[1], test=parts[2])
    require_classes(good, "A temperature")
    require_validation(good, "A temperature")
    for name, valid in (("train", parts[0]), ("test", parts[2])):
        with pytest.raises(InputError, match=f"none of its own: its valid split is its {name} split"):
            require_validation(make_task(train=parts[0], valid=valid, test=parts[2]), "A temperature")
    quantity = make_task(train=parts[0], test=parts[2], loss=torch.nn.functional.mse_loss, combine="mean")
    with pytest.raises(InputError, match="not a classification"):
        require_classes(quantity, "A temperature")
