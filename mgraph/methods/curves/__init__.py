"""Curves, chains and surfaces: control points trained by the path engine."""
