"""What makes any ``nn.Module`` a point: its layout, its flat view, and files of weights in and out."""
