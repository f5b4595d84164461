"""The index: one DuckDB file, the journal of its commits beside it, the lock in front of both, and reading it."""
