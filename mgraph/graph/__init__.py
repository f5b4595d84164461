"""The graph: what ties methods, evaluation and merging to the store. :class:`Graph` is its front door.

A *session* holds the open store and the loaded spaces; the operations (train, connect, sweep, merge, …) are
functions on a session, one module each; :mod:`mgraph.graph.graph` is the thin façade over them.
"""
