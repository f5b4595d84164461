"""The embedded data set of handwritten digits.

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, licence CC BY 4.0: its test part, 1797 images of 8×8 pixels with grey levels 0 to 16,
as distributed with scikit-learn (``sklearn.datasets.load_digits``). Changes: stored as uint8, with a fixed stratified
split into 1077 training, 360 validation and 360 test examples.

``digits.npz`` holds ``images`` (1797, 8, 8) and ``labels`` (1797,), both uint8, in the original order, and the indices
``train``, ``valid`` and ``test``, int16. The test examples are ``stratified_choice`` of 360 from all with VALID_SEED;
the validation examples are 360 chosen from the rest in the same way.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mgraph.data.task import Task

# Over the training pixels, after scaling to [0, 1].
_MEAN, _STD = 0.3045, 0.3758


def digits() -> Task:
    """Load the digits as floats of shape (1, 8, 8), standardised by mean and deviation of the training pixels."""
    from mgraph.data.making import make_task

    with (files("mgraph.data") / "digits.npz").open("rb") as file, np.load(file) as stored:
        images = stored["images"][:, None].astype(np.float32) / 16
        labels = stored["labels"].astype(np.int64)
        splits: dict[str, Any] = {
            name: (images[stored[name]], labels[stored[name]]) for name in ("train", "valid", "test")
        }
    return make_task(**splits, classes=10, mean=_MEAN, std=_STD)
