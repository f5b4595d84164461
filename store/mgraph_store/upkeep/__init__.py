"""Keeping a graph sound and small: check, repair, collecting garbage, removal, and where the bytes are."""
