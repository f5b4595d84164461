"""Alignment: permute a network's units, which changes no output, to bring it close to another network.

:mod:`axes` knows which axes share a permutation, and :mod:`blocks` which parts of tensors these cover; :mod:`rules`,
:mod:`forms` and :mod:`layers` say what every operation does to axes; :mod:`trace` walks through a network;
:mod:`symmetry` is the result, and applies permutations; :mod:`matching` chooses them.
"""
