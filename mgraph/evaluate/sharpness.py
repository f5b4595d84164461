"""How the sharpness of a point is measured: the settings and the results (no torch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families import Floats
from mgraph.settings import Settings, setting

RADII = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


@dataclass(frozen=True, kw_only=True)
class SharpnessSettings(Settings):
    """How sharpness is measured: how far, in how many directions, on which examples."""

    radii: tuple[float, ...] = setting(
        RADII, "sizes r of the perturbations, as a fraction of each tensor's norm", above=0, high=1e3
    )
    directions: int = setting(10, "random directions, the same ones for every r", low=1)
    split: str = setting("train", "split on which the loss is measured", choices=("train", "valid", "test"))
    examples: int | None = setting(
        2000, "number of its examples, a fixed random subset", unit="examples", low=2, nothing="all"
    )
    bn_examples: int | None = setting(
        None, "examples for BatchNorm statistics (auto: at most 2000)", unit="examples", low=2, nothing="auto"
    )
    seed: int = setting(0, "seed of the directions", low=0, high=2**63 - 1)
    precision: str = setting("fp32", "precision of the network's passes", choices=("fp32", "tf32", "bf16"))
    what: str = setting(
        "auto",
        "auto: the profile, and the relative flatness where it is defined; both: an error where it is not",
        choices=("auto", "both", "profile", "flatness"),
    )

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radii or list(self.radii) != sorted(set(self.radii)):
            raise InputError(f"radii takes rising numbers above 0, not {self.radii}.")

    @property
    def profile(self) -> bool:
        """Whether the loss of perturbed points is measured."""
        return self.what != "flatness"


@dataclass(frozen=True)
class Profile:
    """Changes |L(θ + rδ) - L(θ)|, shape (directions, radii), and the reference loss L(θ)."""

    radii: tuple[float, ...]
    changes: Floats
    loss: float
    loss_error: float | None

    @property
    def mean(self) -> Floats:
        """S(r), shape (radii,)."""
        return np.asarray(self.changes.mean(axis=0))

    @property
    def std(self) -> Floats | None:
        """Standard deviation over the directions, shape (radii,); None for a single one."""
        return np.asarray(self.changes.std(axis=0, ddof=1)) if len(self.changes) > 1 else None

    @property
    def max(self) -> Floats:
        """The largest change, shape (radii,)."""
        return np.asarray(self.changes.max(axis=0))
