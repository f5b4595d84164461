"""Evaluation: metrics of one point, BatchNorm statistics, sweeps over a family, and what a sweep says."""
