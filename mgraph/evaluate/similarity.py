"""How alike two modes are, layer by layer (NumPy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Independent runs have a cosine of about 0 per layer, the same run twice 0.45-0.98 [L, appendices].
SAME_RUN = 0.3


def layer_cosines(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return the cosine similarity of every weight tensor (two or more axes) of two modes.

    Biases and normalisation's affine parameters are left out: their γ ≈ 1 alone gives 0.3-0.7. A tensor that
    is zero in either mode has no direction and is left out too.
    """
    cosines: dict[str, float] = {}
    for name, a in left.items():
        if a.ndim < 2:
            continue
        x, y = a.ravel().astype(np.float64), right[name].ravel().astype(np.float64)
        norms = float(np.linalg.norm(x) * np.linalg.norm(y))
        if norms > 0:
            cosines[name] = float(x @ y) / norms
    return cosines


def looks_like_same_run(cosines: Mapping[str, float], sizes: Mapping[str, int]) -> bool:
    """Tell whether most layers are more alike than independent runs ever are.

    ``sizes`` are the layers' numbers of elements n: by chance alone a cosine has a standard deviation of 1/√n, so a
    small layer must exceed five of these.
    """
    alike = [c > max(SAME_RUN, 5.0 / np.sqrt(sizes[name])) for name, c in cosines.items()]
    return bool(sum(alike) > len(alike) / 2)
