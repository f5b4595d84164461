"""The ``mgraph`` command: thin Click commands over the Python API, one module per chapter of the manual."""
