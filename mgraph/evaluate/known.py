"""The names of the metrics that a sweep can measure besides a task's own (torch-free, because help texts list them)."""

from __future__ import annotations

ANY_TOP = "top5 (any number)"
BESIDE = ("nll", "brier", "ece")
REGULARISED = "l2loss"
"""What :mod:`mgraph.evaluate.metric_names` computes, besides top1, top2, …"""

_NAMED = ", ".join((ANY_TOP, *BESIDE, f"{REGULARISED}?decay=…"))
HOW_TO_NAME = f"{_NAMED}, torchmetrics:CLASS?key=value, file.py:name or module:name"
"""All the ways to name a metric, in words."""
