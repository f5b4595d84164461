"""Questions about a graph that is there: edges, components, routes, trees, matrices."""
