"""Choosing what to connect next, and connecting it: suggestions, goals, automatic choice of a method, workers."""
