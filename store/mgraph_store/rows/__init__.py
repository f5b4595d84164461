"""The rows: records and their tables, what they refer to and must obey, identifiers, layouts, columns."""
