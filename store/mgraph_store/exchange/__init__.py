"""Parts of a graph for other graphs: what belongs together, packing it into bundles, and unpacking them."""
