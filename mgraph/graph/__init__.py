"""The public interface to a graph: :class:`Graph`, and the objects it returns (:mod:`mgraph.graph.handles`).

Each chapter of it has a module (queries, exploration, housekeeping, pictures). They are thin layers over
:mod:`mgraph.operations`, functions on a :mod:`mgraph.session` that are one run each.
"""
