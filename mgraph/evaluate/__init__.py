"""Evaluation: metrics of one point, BatchNorm statistics, sweeps over a family, and the results of a sweep."""
