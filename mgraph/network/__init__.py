"""What makes any ``nn.Module`` a point: its layout, its flat view, and reading and writing files of weights."""
