"""The contents of a graph, listed, labelled, packed and maintained; nothing is computed here."""
