"""The L2-regularised loss: it depends on the point itself as well as on the network's outputs.

Garipov et al. 2018, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, call "loss" in figure 2 and table 2
the "ℓ2 regularized cross-entropy loss". It is what SGD with weight decay λ descends, loss + λ/2 · ‖θ‖², which adds λθ
to the gradient. θ are all trainable parameters, including those of BatchNorm, as for weight decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mgraph.errors import InputError
from mgraph.evaluate.known import REGULARISED
from mgraph.evaluate.running import Measured
from mgraph.metric import Metric
from mgraph.specs import Spec, unknown_parameter

DECAY = 5e-4
"""The default weight decay, which is also the default for training modes."""


@dataclass(frozen=True)
class RegularisedLoss(Metric):
    """The loss plus ``decay``/2 times the squared norm of the point."""

    decay: float = DECAY

    @classmethod
    def of(cls, spec: Spec) -> RegularisedLoss:
        """Parse ``l2loss?decay=5e-4``; raise InputError for other parameters, and for an invalid decay."""
        decay = spec.params.get("decay", DECAY)
        for key in spec.params:
            if key != "decay":
                raise unknown_parameter(key, REGULARISED, ["decay"])
        if isinstance(decay, bool | str | tuple) or not (math.isfinite(decay) and decay >= 0):
            raise InputError(f"The decay of {REGULARISED} is a number of at least 0, not {decay!r}.")
        name = REGULARISED if decay == DECAY else f"{REGULARISED}-{decay:g}".replace("+", "")
        return cls(name, better="lower", identity=f"built in, decay {float(decay)!r}", decay=float(decay))

    def at(self, theta: Tensor, loss: Measured) -> Measured:
        """Return its value at a point, shape (D,) possibly padded with zeros, that has this loss."""
        norm = float(torch.linalg.vector_norm(theta, dtype=torch.float64))
        return Measured(loss.value + 0.5 * self.decay * norm**2, loss.standard_error, loss.count)
