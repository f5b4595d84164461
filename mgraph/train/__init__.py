"""Training: of single modes, and of the control points of a path or surface."""
