"""The experiments, a file for each paper: [S] Bézier surfaces, [G] curves and FGE, [N] bands, [L] layer-wise paths."""
