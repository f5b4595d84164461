"""Sets of models, what they predict, and what they cost: what ensembles, soups and predictions are made of.

- :mod:`~mgraph.models.sets`: the one notion of a set, as it is written (``a``, ``s@5``, ``curve@0.25,0.5``).
- :mod:`~mgraph.models.predicting`: what a member predicts, computed once and cached.
- :mod:`~mgraph.models.costs`: what modes and connections cost to train, and whether modes look memorised.
"""
