"""Queries on an existing graph: edges, components, routes, trees, matrices (no torch)."""
