"""Operations on a graph, each recorded as a run: adding modes, connecting, sweeping, merging, exporting, measuring."""
