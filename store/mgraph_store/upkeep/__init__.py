"""Keeping a graph sound and small: checking, repairing, collecting garbage, removing, and measuring disk use."""
