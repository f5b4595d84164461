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
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from mgraph.errors import InputError

if TYPE_CHECKING:
    from mgraph.data.task import Task

# Over the training pixels, after scaling to [0, 1].
_MEAN, _STD = 0.3045, 0.3758
_CLASSES = 10


def digits(
    *,
    label_noise: Annotated[float, "share of the training and validation labels that are made wrong"] = 0.0,
    label_seed: Annotated[int, "seed that says which, and what they become"] = 0,
) -> Task:
    """Load the digits as floats of shape (1, 8, 8), standardised by mean and deviation of the training pixels.

    With ``label_noise`` that share of the labels, of the training and of the validation examples alike, are another
    class, each as likely as the others (symmetric noise); those of the test examples stay true. Raises InputError
    unless 0 ≤ label_noise < 1 and label_seed is not negative.
    """
    from mgraph.data.making import make_task

    if not 0 <= label_noise < 1:
        raise InputError(f"label_noise is a share of the labels, at least 0 and below 1, not {label_noise:g}.")
    if not 0 <= label_seed < 2**32:
        raise InputError(f"label_seed must be a whole number from 0 to 2³² - 1, not {label_seed}.")
    with (files("mgraph.data") / "digits.npz").open("rb") as file, np.load(file) as stored:
        images = stored["images"][:, None].astype(np.float32) / 16
        labels = stored["labels"].astype(np.int64)
        places = {name: stored[name] for name in ("train", "valid", "test")}
    random = np.random.RandomState(label_seed)  # its stream is frozen for good
    for name in ("train", "valid"):
        wrong = random.permutation(places[name])[: round(label_noise * len(places[name]))]
        labels[wrong] = (labels[wrong] + random.randint(1, _CLASSES, len(wrong))) % _CLASSES
    splits: dict[str, Any] = {name: (images[place], labels[place]) for name, place in places.items()}
    return make_task(**splits, classes=_CLASSES, mean=_MEAN, std=_STD)
