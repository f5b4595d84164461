"""Parts of a graph for other graphs: what belongs together, bundles of it, and their arrival."""
