"""The index: one DuckDB file, the journal of its commits, the lock that protects both, and reading."""
