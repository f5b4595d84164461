"""Merging and ensembling: choosing a point, averaging points, voting, and comparing the results honestly."""
