"""Sets of models, what they predict, and what they cost: the basis of ensembles, soups and predictions.

- :mod:`~mgraph.models.sets`: the single notion of a set, as users write it (``a``, ``s@5``, ``curve@0.25,0.5``).
- :mod:`~mgraph.models.predicting`: what a member predicts, computed once and cached.
- :mod:`~mgraph.models.costs`: what modes and connections cost to train, and whether modes look memorised.
"""
