"""The commands, one module per chapter of the manual: parse, call the API, print."""
