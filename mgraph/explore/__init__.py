"""Questions to the graph: which modes are connected, at which threshold, by which edges (no torch)."""
