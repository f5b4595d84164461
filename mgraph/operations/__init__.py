"""What is done to a graph, each time as a run: adding modes, connecting, sweeping, merging, exporting, measuring."""
