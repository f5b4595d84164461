"""The graph as its users hold it: :class:`Graph` is its front door, :mod:`mgraph.graph.handles` what it hands out.

Each chapter of the front door has a module (queries, exploration, housekeeping, pictures). They are thin over
:mod:`mgraph.operations`, functions on a :mod:`mgraph.session` that each are one run; what chooses among several
operations, connecting by the cheapest method and exploring, is here.
"""
