"""The report page: a graph as one HTML file for a browser (no torch; `mgraph.report` makes the text tables)."""
